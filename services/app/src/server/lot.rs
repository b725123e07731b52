//! Calls that wait for their clients' answers: bounded in number and time, each for its own caller alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use mcp::{Cause, Failure};
use tokio_util::task::AbortOnDropHandle;

use super::Limits;
use crate::plugin::{Client, Parked};

/// The number of a parked call; cannot be guessed.
pub(crate) type Place = u128;

/// Where calls are parked.
#[derive(Debug)]
pub(crate) struct Lot {
    places: Mutex<HashMap<Place, Waiting>>,
    /// Parked calls at once.
    room: usize,
    /// Parked calls of one caller at once.
    room_each: usize,
    /// How long a call stays.
    patience: Duration,
    /// How long one stays that is in the way of others.
    patience_in_the_way: Duration,
}

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    client: Arc<Client>,
    parked: Box<dyn Parked>,
    /// Gives it up.
    _end: AbortOnDropHandle<()>,
}

impl Lot {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
            room: limits.parked,
            room_each: limits.parked_each,
            patience: limits.parked_for,
            patience_in_the_way: limits.parked_in_the_way_for,
        })
    }

    /// Returns how long a call stays.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Parks a call, and gives it up when its client does not come back in time, or is in the way of others for
    /// longer than that is borne.
    ///
    /// # Errors
    /// [`Cause::Overloaded`] when there is no room; the call is given up.
    pub(crate) fn park(
        self: &Arc<Self>,
        client: &Arc<Client>,
        parked: Box<dyn Parked>,
    ) -> Result<Place, Failure> {
        let place = rand::random();
        {
            let mut places = self.places();
            let own = places
                .values()
                .filter(|other| other.client.is_same_caller(client))
                .count();
            if places.len() >= self.room || own >= self.room_each {
                drop(places);
                return Err(Failure::say(
                    Cause::Overloaded,
                    "too many calls wait for their clients' answers",
                ));
            }
            let end = waited_long_enough(self.patience, self.patience_in_the_way, &*parked);
            let end = tokio::spawn(give_up(Arc::downgrade(self), place, end));
            let waiting = Waiting {
                client: Arc::clone(client),
                parked,
                _end: AbortOnDropHandle::new(end),
            };
            places.insert(place, waiting);
        }
        Ok(place)
    }

    /// Takes a call out; `None` if it is not there, or not any more, or not for `client`.
    pub(crate) fn take(&self, place: Place, client: &Client) -> Option<Box<dyn Parked>> {
        let mut places = self.places();
        if !places.get(&place)?.client.is_same_caller(client) {
            return None;
        }
        places.remove(&place).map(|waiting| waiting.parked)
    }

    /// Returns how many calls are parked.
    pub(crate) fn len(&self) -> usize {
        self.places().len()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Place, Waiting>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves after `patience`, or earlier for a call that is in the way.
fn waited_long_enough(
    patience: Duration,
    patience_in_the_way: Duration,
    parked: &dyn Parked,
) -> impl Future<Output = ()> + use<> {
    let (asked_at, is_in_the_way) = (parked.asked_at(), parked.is_in_the_way());
    let is_borne_no_longer = async move {
        tokio::time::sleep_until((asked_at + patience_in_the_way).into()).await;
        is_in_the_way.await;
    };
    async move {
        // Either way it has waited long enough.
        drop(tokio::time::timeout(patience, is_borne_no_longer).await);
    }
}

async fn give_up(lot: Weak<Lot>, place: Place, end: impl Future<Output = ()>) {
    end.await;
    let left = lot.upgrade().and_then(|lot| lot.places().remove(&place));
    // Dropped after the lock: it tells the plugin.
    drop(left);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::plugin::{Answer, CallContext, Inputs};

    #[derive(Debug, Clone, Copy)]
    struct Call {
        asked_at: Instant,
        is_in_the_way: bool,
    }

    impl Parked for Call {
        fn questions(&self) -> Inputs {
            Inputs::new()
        }

        fn asked_at(&self) -> Instant {
            self.asked_at
        }

        fn is_in_the_way(&self) -> BoxFuture<'static, ()> {
            match self.is_in_the_way {
                true => std::future::ready(()).boxed(),
                false => std::future::pending().boxed(),
            }
        }

        fn resume(
            self: Box<Self>,
            _: Inputs,
            _: CallContext,
        ) -> BoxFuture<'static, Result<Answer, Failure>> {
            std::future::ready(Err(Failure::new(Cause::Internal))).boxed()
        }
    }

    fn client(principal: &str) -> Arc<Client> {
        Arc::new(Client {
            principal: principal.into(),
            ..Client::default()
        })
    }

    fn lot() -> Arc<Lot> {
        Lot::new(&Limits {
            parked: 3,
            parked_each: 2,
            parked_for: Duration::from_secs(60),
            parked_in_the_way_for: Duration::from_secs(10),
            ..Limits::default()
        })
    }

    fn call(is_in_the_way: bool) -> Box<Call> {
        Box::new(Call {
            asked_at: tokio::time::Instant::now().into_std(),
            is_in_the_way,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_the_way_of_others_waits_less_long_however_often_it_is_parked() {
        let lot = lot();
        let ana = client("ana");
        let (in_the_way, other) = (call(true), call(false));
        let mut place = lot.park(&ana, in_the_way.clone()).unwrap();
        let other = lot.park(&ana, other).unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(lot.take(place, &ana).is_some());
        place = lot.park(&ana, in_the_way).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(lot.take(place, &ana).is_none());
        assert!(lot.take(other, &ana).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_own_client_once_and_not_for_ever() {
        let lot = lot();
        let (ana, bob) = (client("ana"), client("bob"));
        let first = lot.park(&ana, call(false)).unwrap();
        let second = lot.park(&ana, call(false)).unwrap();
        assert_eq!(
            lot.park(&ana, call(false)).unwrap_err().cause,
            Cause::Overloaded
        );
        lot.park(&bob, call(false)).unwrap();
        assert_eq!(
            lot.park(&client("eve"), call(false)).unwrap_err().cause,
            Cause::Overloaded
        );
        assert!(lot.take(first, &bob).is_none());
        assert!(lot.take(first, &ana).is_some());
        assert!(lot.take(first, &ana).is_none());
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(lot.take(second, &ana).is_none());
        assert_eq!(lot.len(), 0);
    }
}

//! Calls that wait for their clients' answers: bounded in number and time, each for its own caller alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use mcp::{Cause, Failure};

use crate::plugin::{Client, Parked};

/// The number of a parked call; cannot be guessed.
pub(crate) type Place = u128;

/// Where calls are parked.
#[derive(Debug)]
pub(crate) struct Lot {
    places: Mutex<HashMap<Place, (Arc<Client>, Box<dyn Parked>)>>,
    /// Parked calls at once.
    room: usize,
    /// Parked calls of one caller at once.
    room_each: usize,
    /// How long a call stays.
    patience: Duration,
}

impl Lot {
    pub(crate) fn new(room: usize, room_each: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
            room,
            room_each,
            patience,
        })
    }

    /// Returns how long a call stays.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Parks a call, and gives it up when its client does not come back in time.
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
                .filter(|(other, _)| other.is_same_caller(client))
                .count();
            if places.len() >= self.room || own >= self.room_each {
                drop(places);
                return Err(Failure::say(
                    Cause::Overloaded,
                    "too many calls wait for their clients' answers",
                ));
            }
            places.insert(place, (Arc::clone(client), parked));
        }
        tokio::spawn(give_up(Arc::downgrade(self), place, self.patience));
        Ok(place)
    }

    /// Takes a call out; `None` if it is not there, or not any more, or not for `client`.
    pub(crate) fn take(&self, place: Place, client: &Client) -> Option<Box<dyn Parked>> {
        let mut places = self.places();
        if !places.get(&place)?.0.is_same_caller(client) {
            return None;
        }
        places.remove(&place).map(|(_, parked)| parked)
    }

    /// Returns how many calls are parked.
    pub(crate) fn len(&self) -> usize {
        self.places().len()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Place, (Arc<Client>, Box<dyn Parked>)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn give_up(lot: Weak<Lot>, place: Place, patience: Duration) {
    tokio::time::sleep(patience).await;
    let left = lot.upgrade().and_then(|lot| lot.places().remove(&place));
    // Dropped after the lock: it tells the plugin.
    drop(left);
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;
    use crate::plugin::{Answer, CallContext, Inputs};

    #[derive(Debug)]
    struct Call;

    impl Parked for Call {
        fn questions(&self) -> Inputs {
            Inputs::new()
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

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_own_client_once_and_not_for_ever() {
        let lot = Lot::new(3, 2, Duration::from_secs(60));
        let (ana, bob) = (client("ana"), client("bob"));
        let first = lot.park(&ana, Box::new(Call)).unwrap();
        let second = lot.park(&ana, Box::new(Call)).unwrap();
        assert_eq!(
            lot.park(&ana, Box::new(Call)).unwrap_err().cause,
            Cause::Overloaded
        );
        lot.park(&bob, Box::new(Call)).unwrap();
        assert_eq!(
            lot.park(&client("eve"), Box::new(Call)).unwrap_err().cause,
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

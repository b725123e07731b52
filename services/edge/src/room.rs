//! Places for calls, and the calls that wait for one: [`policy::fair`] and [`policy::concurrency`] behind one lock.
//!
//! The lock is held for a decision and never while anybody is told of it: whoever is told may drop a place at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policy::concurrency::{self, Limit, Usual};
use policy::fair::{self, Facts, Line, Next, Offer, Refusal, Review, Ticket};
use tokio::sync::oneshot;

/// Tools and methods whose usual time is known; further ones count as quick.
const USUAL_MAX: usize = 2048;

/// What a waiting call is told.
type Called = Result<Place, Refusal>;

/// The places of one edge.
#[derive(Debug)]
pub struct Room {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    line: Line<oneshot::Sender<Called>>,
    /// `None` while the number of places is fixed.
    limit: Option<Limit>,
    usual: HashMap<Box<str>, Usual>,
}

/// A call's place; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Room>);

/// What the edge shows of its room.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// Calls that may be under way.
    pub limit: usize,
}

impl Room {
    /// Room by the settings.
    pub fn new(settings: &settings::Edge, now: Instant) -> Arc<Room> {
        let queue = &settings.queue;
        let rules = fair::Rules {
            waiting_max: queue.waiting_max,
            target: queue.target,
            interval: queue.interval,
            wait_max: queue.wait_max,
        };
        let places = settings.http.in_flight_max;
        let concurrency = &settings.concurrency;
        let limit = concurrency.adaptive.then(|| {
            let rules = concurrency::Rules {
                limit_min: concurrency.limit_min.min(places),
                limit_max: places,
                tolerance: concurrency.tolerance,
                window: Duration::from_millis(100),
            };
            Limit::new(rules, now)
        });
        Arc::new(Room {
            state: Mutex::new(State {
                line: Line::new(rules, places),
                limit,
                usual: HashMap::new(),
            }),
        })
    }

    /// Waits for a place. The time it waited is for a metric; dropped meanwhile, the call waits no more.
    ///
    /// # Errors
    /// Why it gets none.
    pub async fn enter(self: &Arc<Room>, facts: &Facts) -> Result<(Place, Duration), Refusal> {
        let (evicted, mut waiter) = {
            let mut state = self.lock();
            let mut receiver = None;
            let offer = state.line.offer(facts, || {
                let (sender, end) = oneshot::channel();
                receiver = Some(end);
                sender
            });
            match offer {
                Offer::Enter => return Ok((Place(Arc::clone(self)), Duration::ZERO)),
                Offer::Refuse(why) => return Err(why),
                Offer::Wait {
                    ticket,
                    until,
                    evicted,
                } => {
                    // `offer` has made what waits, or the call does not wait.
                    let receiver = receiver.ok_or(Refusal::Full)?;
                    let waiter = Waiter {
                        room: Arc::clone(self),
                        ticket,
                        until,
                        receiver,
                    };
                    (evicted, waiter)
                }
            }
        };
        if let Some((evicted, _)) = evicted {
            // Whoever does not listen any more has gone away.
            let _ = evicted.send(Err(Refusal::Full));
        }
        let place = waiter.called().await?;
        Ok((place, facts.now.elapsed()))
    }

    /// A call was answered: learns what its tool usually takes, and how many calls may be under way.
    pub fn answered(self: &Arc<Room>, tool: &str, took: Duration, bytes: usize, now: Instant) {
        let told = {
            let mut state = self.lock();
            let in_flight = state.line.in_flight() + 1;
            let loaded = state
                .limit
                .as_ref()
                .is_some_and(|limit| limit.is_loaded(in_flight));
            let usual = match state.usual.get_mut(tool) {
                Some(usual) => {
                    let before = usual.time();
                    usual.learn(took, bytes, loaded, now);
                    before
                }
                None => {
                    if state.usual.len() < USUAL_MAX {
                        state
                            .usual
                            .insert(tool.into(), Usual::new(took, bytes, now));
                    }
                    return;
                }
            };
            let State { line, limit, .. } = &mut *state;
            let Some(limit) = limit else { return };
            limit.record(&concurrency::Facts {
                took,
                usual,
                in_flight,
                now,
            });
            if limit.limit() == line.limit() {
                return;
            }
            line.set_limit(limit.limit());
            self.call(line, now)
        };
        tell(told);
    }

    /// What calls of a tool are usually like, once one was answered.
    pub fn usual(&self, tool: &str) -> Option<Usual> {
        self.lock().usual.get(tool).copied()
    }

    /// The figures now.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        Figures {
            in_flight: state.line.in_flight(),
            waiting: state.line.waiting(),
            limit: state.line.limit(),
        }
    }

    /// All calls whose time has come, with what they are to be told.
    fn call(
        self: &Arc<Room>,
        line: &mut Line<oneshot::Sender<Called>>,
        now: Instant,
    ) -> Vec<(oneshot::Sender<Called>, Called)> {
        let mut told = Vec::new();
        while let Some(next) = line.next(now) {
            told.push(match next {
                Next::Enter { item, .. } => (item, Ok(Place(Arc::clone(self)))),
                Next::Refuse { item, why, .. } => (item, Err(why)),
            });
        }
        told
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Decisions do not panic, and each leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Must not be called under the lock: a place that nobody takes is given back here.
fn tell(told: Vec<(oneshot::Sender<Called>, Called)>) {
    for (sender, called) in told {
        let _ = sender.send(called);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let told = {
            let mut state = self.0.lock();
            state.line.leave();
            if state.line.waiting() == 0 {
                return;
            }
            self.0.call(&mut state.line, Instant::now())
        };
        tell(told);
    }
}

/// A call that waits.
struct Waiter {
    room: Arc<Room>,
    ticket: Ticket,
    until: Instant,
    receiver: oneshot::Receiver<Called>,
}

impl Waiter {
    async fn called(&mut self) -> Called {
        loop {
            let called = tokio::time::timeout_at(self.until.into(), &mut self.receiver).await;
            match called {
                // Nobody forgets a waiting call; if it were so, it would have waited in vain.
                Ok(called) => return called.unwrap_or(Err(Refusal::Waited)),
                Err(_) => {
                    let review = self.room.lock().line.review(self.ticket, Instant::now());
                    match review {
                        Review::Keep { until } => self.until = until,
                        Review::Refuse(why) => return Err(why),
                        // It is being told at this moment.
                        Review::Gone => self.until += Duration::from_secs(1),
                    }
                }
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.room.lock().line.cancel(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::fair::Class;

    fn room(more: &str) -> Arc<Room> {
        let text = format!("[edge.http]\nin_flight_max = 1\n{more}");
        let loaded = settings::load_str(&text, std::iter::empty()).unwrap();
        Room::new(&loaded.settings.edge, Instant::now())
    }

    fn facts(tenant: u64) -> Facts {
        let now = Instant::now();
        Facts {
            tenant,
            weight: 1,
            class: Class::Normal,
            urgency: fair::URGENCY_DEFAULT,
            cost: 1,
            needs: Duration::ZERO,
            deadline: now + Duration::from_secs(30),
            now,
        }
    }

    #[tokio::test]
    async fn a_place_goes_from_call_to_call_and_back() {
        let room = room("");
        let (first, _) = room.enter(&facts(1)).await.unwrap();
        let waits = |tenant| {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.enter(&facts(tenant)).await })
        };
        let given_up = waits(1);
        let second = waits(2);
        while room.figures().waiting < 2 {
            tokio::task::yield_now().await;
        }
        // A client that goes away leaves the line.
        given_up.abort();
        assert!(given_up.await.is_err());
        assert_eq!(room.figures().waiting, 1);
        drop(first);
        let (second, waited) = second.await.unwrap().unwrap();
        assert!(waited > Duration::ZERO);
        assert_eq!((room.figures().in_flight, room.figures().waiting), (1, 0));
        drop(second);
        assert_eq!(room.figures().in_flight, 0);
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told() {
        let room =
            room("[edge.queue]\nwait_max = \"20ms\"\ninterval = \"10ms\"\nwaiting_max = 1\n");
        let _place = room.enter(&facts(1)).await.unwrap();
        let call = facts(1);
        let (alone, crowd) = tokio::join!(room.enter(&call), room.enter(&call));
        assert_eq!(
            (alone.unwrap_err(), crowd.unwrap_err()),
            (Refusal::Waited, Refusal::Full)
        );
        assert_eq!(room.figures().waiting, 0);
    }
}

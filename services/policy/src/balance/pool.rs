//! The instances of one release: what is known about them, which may be used, and who holds a call on them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::latency::{Latency, Sample, UNKNOWN};
use super::strategy::{Candidates, Strategy, choose};
use super::weights::Weights;
use crate::dice::Dice;
use crate::epoch::{Epoch, nanos};
use crate::health::{self, Change, Health, Outcome, State};

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How to choose.
    pub strategy: Strategy,
    /// Time in which a latency estimate without samples falls to 37 %. Shorter forgives sooner, longer is steadier.
    pub decay: Duration,
    /// When an instance is ejected and for how long.
    pub health: health::Rules,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            decay: Duration::from_secs(5),
            health: health::Rules::default(),
        }
    }
}

/// An instance as the registry knows it.
#[derive(Debug, Clone)]
pub struct Member<T> {
    /// Identifies *one life of one instance*, such as its name and process number: an instance that was restarted must come
    /// with another key, so that it does not inherit its former life's ejection. Of two members with one key the first counts.
    pub key: String,
    /// Its part of the calls relative to others, for [`Strategy::Weighted`].
    pub weight: u32,
    /// Whether it is about to stop: it gets nothing new.
    pub draining: bool,
    /// What the caller needs to reach it. Kept as it was when the key first appeared.
    pub target: T,
}

/// Names an instance within its pool, for [`Facts::avoid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(u64);

/// What the call brings.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The present.
    pub now: Instant,
    /// Entropy for the choice.
    pub random: u64,
    /// Instances on which this call failed already: chosen only when there is no other.
    pub avoid: &'a [BackendId],
}

/// One instance as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Names it, for [`Facts::avoid`].
    pub id: BackendId,
    /// Its key.
    pub key: String,
    /// Whether it may be used.
    pub state: State,
    /// Calls in flight from this gateway.
    pub in_flight: u32,
    /// The latency estimate.
    pub latency: Duration,
}

/// The instances of one release, shared by all calls.
#[derive(Debug)]
pub struct Pool<T> {
    common: Arc<Common>,
    /// Everyone, for those who change membership or make a view. Picks do not take this lock unless the view is out of date.
    members: Mutex<Vec<Arc<Backend<T>>>>,
    view: ArcSwap<View<T>>,
    turn: AtomicUsize,
    joined: AtomicU64,
}

/// What all instances of a pool share.
#[derive(Debug)]
struct Common {
    epoch: Epoch,
    rules: Rules,
    /// Decay time in nanoseconds.
    decay: f64,
    /// When the view is out of date: the end of the next ejection, or 0 at once.
    view_until: AtomicU64,
}

#[derive(Debug)]
struct Backend<T> {
    common: Arc<Common>,
    id: BackendId,
    key: String,
    target: T,
    weight: AtomicU32,
    draining: AtomicBool,
    in_flight: AtomicU32,
    latency: Latency,
    health: Health,
}

/// The instances that may be used.
#[derive(Debug)]
struct View<T> {
    usable: Vec<Arc<Backend<T>>>,
    /// All are used, whatever their health.
    panicking: bool,
    weights: Option<Weights>,
}

/// A call's hold on an instance: counts as in flight until it is finished or dropped.
///
/// A pick that is dropped without [`finish`](Pick::finish) frees its place and says nothing about the instance.
#[derive(Debug)]
#[must_use = "the call counts as in flight until the pick is finished or dropped"]
pub struct Pick<T> {
    backend: Arc<Backend<T>>,
    began: u64,
}

impl<T> Pool<T> {
    /// Starts an empty pool at `now`.
    #[must_use]
    pub fn new(rules: Rules, now: Instant) -> Self {
        let decay = rules.decay.as_nanos().max(1) as f64;
        let common = Common {
            epoch: Epoch::new(now),
            rules,
            decay,
            view_until: AtomicU64::new(u64::MAX),
        };
        Self {
            common: Arc::new(common),
            members: Mutex::new(Vec::new()),
            view: ArcSwap::from_pointee(View {
                usable: Vec::new(),
                panicking: false,
                weights: None,
            }),
            turn: AtomicUsize::new(0),
            joined: AtomicU64::new(0),
        }
    }

    /// Replaces the membership. An instance whose key is known keeps its record and takes on weight and draining; the
    /// others join as newcomers; those not named leave, while calls on them go on.
    pub fn set_members(&self, members: impl IntoIterator<Item = Member<T>>, now: Instant) {
        let now = self.common.epoch.nanos(now);
        let mut current = self.lock();
        let assumed = self.mean_latency(&current, now);
        let mut known: HashMap<&str, &Arc<Backend<T>>> = current
            .iter()
            .map(|backend| (backend.key.as_str(), backend))
            .collect();
        let mut seen = std::collections::HashSet::new();
        let mut next = Vec::new();
        for member in members {
            if !seen.insert(member.key.clone()) {
                continue;
            }
            next.push(match known.remove(member.key.as_str()) {
                Some(backend) => backend.take_on(&member),
                None => Arc::new(self.newcomer(member, assumed, now)),
            });
        }
        *current = next;
        self.publish(&current, now);
    }

    /// Chooses an instance and holds it; `None` if there is none to use.
    pub fn pick(&self, facts: &Facts<'_>) -> Option<Pick<T>> {
        let now = self.common.epoch.nanos(facts.now);
        self.refresh(now);
        let view = self.view.load();
        let mut dice = Dice::new(facts.random);
        let strategy = self.common.rules.strategy;
        let all = Choice {
            pool: self,
            view: &view,
            now,
            avoid: facts.avoid,
            anyone: false,
        };
        let index = choose(strategy, &all, &mut dice)
            // Rather one that failed this call before, or one on probation, than none.
            .or_else(|| {
                choose(
                    strategy,
                    &Choice {
                        anyone: true,
                        ..all
                    },
                    &mut dice,
                )
            })?;
        let backend = Arc::clone(view.usable.get(index)?);
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Pick {
            backend,
            began: now,
        })
    }

    /// Reports every member.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<Status> {
        let now = self.common.epoch.nanos(now);
        self.lock()
            .iter()
            .map(|backend| backend.status(now))
            .collect()
    }

    /// How many instances may be used now. 0 means that a pick finds none.
    #[must_use]
    pub fn usable(&self, now: Instant) -> usize {
        self.refresh(self.common.epoch.nanos(now));
        self.view.load().usable.len()
    }

    /// Whether so many instances are ejected that all are used.
    #[must_use]
    pub fn is_panicking(&self, now: Instant) -> bool {
        self.refresh(self.common.epoch.nanos(now));
        self.view.load().panicking
    }

    fn newcomer(&self, member: Member<T>, assumed: f64, now: u64) -> Backend<T> {
        Backend {
            common: Arc::clone(&self.common),
            id: BackendId(self.joined.fetch_add(1, Ordering::Relaxed)),
            key: member.key,
            target: member.target,
            weight: AtomicU32::new(member.weight),
            draining: AtomicBool::new(member.draining),
            in_flight: AtomicU32::new(0),
            latency: Latency::assumed(assumed, now),
            health: Health::default(),
        }
    }

    fn mean_latency(&self, members: &[Arc<Backend<T>>], now: u64) -> f64 {
        let measured = members
            .iter()
            .filter(|backend| backend.latency.is_measured());
        let (sum, count) = measured.fold((0.0, 0.0), |(sum, count), backend| {
            (
                sum + backend.latency.estimate(now, self.common.decay),
                count + 1.0,
            )
        });
        if count > 0.0 { sum / count } else { UNKNOWN }
    }

    /// Makes a new view if the present one is out of date.
    fn refresh(&self, now: u64) {
        if now >= self.common.view_until.load(Ordering::SeqCst) {
            let members = self.lock();
            // Another call may have done it while this one waited.
            if now >= self.common.view_until.load(Ordering::SeqCst) {
                self.publish(&members, now);
            }
        }
    }

    fn publish(&self, members: &[Arc<Backend<T>>], now: u64) {
        // Before the records are read: an ejection that comes in between sets it back to 0, and `fetch_min` keeps that.
        self.common.view_until.store(u64::MAX, Ordering::SeqCst);
        let live = || {
            members
                .iter()
                .filter(|backend| !backend.draining.load(Ordering::Relaxed))
        };
        let ends = || {
            live()
                .map(|backend| backend.health.out_until())
                .filter(|&until| until > now)
        };
        let next_end = ends().min().unwrap_or(u64::MAX);
        let panicking = health::panics(&self.common.rules.health, ends().count(), live().count());
        let is_in = |backend: &&Arc<Backend<T>>| panicking || backend.health.out_until() <= now;
        let usable: Vec<_> = live().filter(is_in).cloned().collect();
        let weights = (self.common.rules.strategy == Strategy::Weighted).then(|| {
            let weights: Vec<u32> = usable
                .iter()
                .map(|backend| backend.weight.load(Ordering::Relaxed))
                .collect();
            Weights::new(&weights)
        });
        self.view.store(Arc::new(View {
            usable,
            panicking,
            weights,
        }));
        self.common.view_until.fetch_min(next_end, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Backend<T>>>> {
        // Nothing panics while the lock is held, and the list is replaced as a whole.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Backend<T> {
    fn take_on(self: &Arc<Self>, member: &Member<T>) -> Arc<Self> {
        self.weight.store(member.weight, Ordering::Relaxed);
        self.draining.store(member.draining, Ordering::Relaxed);
        Arc::clone(self)
    }

    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn status(&self, now: u64) -> Status {
        let draining = self.draining.load(Ordering::Relaxed);
        Status {
            id: self.id,
            key: self.key.clone(),
            state: if draining {
                State::Draining
            } else {
                self.health.state(now)
            },
            in_flight: self.in_flight(),
            latency: Duration::from_nanos(self.latency.estimate(now, self.common.decay) as u64),
        }
    }
}

impl<T> Pick<T> {
    /// What the caller needs to reach the instance.
    #[must_use]
    pub fn target(&self) -> &T {
        &self.backend.target
    }

    /// The instance's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.backend.key
    }

    /// The instance, for [`Facts::avoid`].
    #[must_use]
    pub fn id(&self) -> BackendId {
        self.backend.id
    }

    /// Ends the call at `now` after `latency`, learns from it, frees its place, and says whether that ejected or restored the
    /// instance.
    pub fn finish(self, latency: Duration, outcome: Outcome, now: Instant) -> Option<Change> {
        let Common {
            epoch,
            rules,
            decay,
            view_until,
        } = &*self.backend.common;
        let now = epoch.nanos(now);
        let sample = match outcome {
            Outcome::Success => Sample::Whole,
            Outcome::Failure | Outcome::Abandoned => Sample::AtLeast,
        };
        self.backend
            .latency
            .observe(nanos(latency), sample, now, *decay);
        let change = self
            .backend
            .health
            .observe(&rules.health, outcome, self.began, now);
        if change.is_some() {
            view_until.store(0, Ordering::SeqCst);
        }
        change
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call's choice among the usable instances.
struct Choice<'a, T> {
    pool: &'a Pool<T>,
    view: &'a View<T>,
    now: u64,
    avoid: &'a [BackendId],
    /// Whether to take anyone, as nobody was acceptable.
    anyone: bool,
}

impl<T> Candidates for Choice<'_, T> {
    fn len(&self) -> usize {
        self.view.usable.len()
    }

    fn accepts(&self, index: usize) -> bool {
        let backend = &self.view.usable[index];
        let busy_suspect =
            || !self.view.panicking && backend.health.is_suspect() && backend.in_flight() > 0;
        self.anyone || !(self.avoid.contains(&backend.id) || busy_suspect())
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.view.usable[index].in_flight()
    }

    fn cost(&self, index: usize) -> f64 {
        let backend = &self.view.usable[index];
        backend.latency.estimate(self.now, self.pool.common.decay)
            * (f64::from(backend.in_flight()) + 1.0)
    }

    fn turn(&self) -> usize {
        self.pool.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn by_weight(&self, dice: &mut Dice) -> Option<usize> {
        self.view
            .weights
            .as_ref()
            .and_then(|weights| weights.draw(dice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn members(keys: &[&str]) -> Vec<Member<u32>> {
        keys.iter()
            .map(|key| Member {
                key: (*key).to_owned(),
                weight: 1,
                draining: false,
                target: 0,
            })
            .collect()
    }

    fn pool(rules: Rules, keys: &[&str]) -> (Pool<u32>, Instant) {
        let now = Instant::now();
        let pool = Pool::new(rules, now);
        pool.set_members(members(keys), now);
        (pool, now)
    }

    fn facts(now: Instant, random: u64) -> Facts<'static> {
        Facts {
            now,
            random,
            avoid: &[],
        }
    }

    fn state(pool: &Pool<u32>, key: &str, now: Instant) -> State {
        pool.status(now)
            .into_iter()
            .find(|status| status.key == key)
            .unwrap()
            .state
    }

    /// Fails calls on `key` until it is ejected.
    fn eject(pool: &Pool<u32>, key: &str, now: Instant) -> Change {
        let mut seed = 0;
        loop {
            seed += 1;
            let pick = pool.pick(&facts(now, seed)).unwrap();
            if pick.key() == key
                && let Some(change) = pick.finish(MS, Outcome::Failure, now)
            {
                return change;
            }
        }
    }

    #[test]
    fn a_call_is_in_flight_until_its_pick_is_finished_or_dropped() {
        let (pool, now) = pool(Rules::default(), &["a"]);
        let in_flight = || pool.status(now)[0].in_flight;
        let first = pool.pick(&facts(now, 1)).unwrap();
        let second = pool.pick(&facts(now, 2)).unwrap();
        assert_eq!((in_flight(), first.key(), first.target()), (2, "a", &0));
        drop(first);
        assert_eq!(in_flight(), 1);
        assert_eq!(second.finish(3 * MS, Outcome::Success, now + 3 * MS), None);
        assert_eq!(
            (in_flight(), pool.status(now + 3 * MS)[0].latency),
            (0, 3 * MS)
        );
    }

    #[test]
    fn an_ejected_instance_returns_on_probation_one_call_at_a_time() {
        let (pool, now) = pool(Rules::default(), &["a", "b", "c"]);
        assert_eq!(
            eject(&pool, "a", now),
            Change::Ejected {
                lasts: 5 * SECOND,
                failures: 3
            }
        );
        assert_eq!(
            (pool.usable(now), state(&pool, "a", now)),
            (2, State::Ejected)
        );
        assert!(
            (0..500).all(|seed| pool.pick(&facts(now + 4 * SECOND, seed)).unwrap().key() != "a")
        );

        let back = now + 5 * SECOND;
        assert_eq!(
            (pool.usable(back), state(&pool, "a", back)),
            (3, State::Probation)
        );
        let held: Vec<_> = (0..200)
            .map(|seed| pool.pick(&facts(back, seed)).unwrap())
            .collect();
        let (mut probes, _others): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|pick| pick.key() == "a");
        assert_eq!(probes.len(), 1, "calls on an instance on probation");
        let change = probes.pop().unwrap().finish(MS, Outcome::Success, back);
        assert_eq!(
            (change, state(&pool, "a", back)),
            (Some(Change::Restored), State::In)
        );
    }

    #[test]
    fn in_a_panic_all_are_used_and_draining_ones_never() {
        let (pool, now) = pool(Rules::default(), &["a", "b", "c", "d"]);
        let mut draining = members(&["a", "b", "c", "d"]);
        draining[3].draining = true;
        pool.set_members(draining, now);
        eject(&pool, "a", now);
        assert_eq!((pool.usable(now), pool.is_panicking(now)), (2, false));
        eject(&pool, "b", now);
        assert_eq!((pool.usable(now), pool.is_panicking(now)), (3, true));
        assert!((0..500).all(|seed| pool.pick(&facts(now, seed)).unwrap().key() != "d"));

        // A success brings one back at once, and the panic is over.
        let picks = (0..).map(|seed| pool.pick(&facts(now, seed)).unwrap());
        let pick = picks.into_iter().find(|pick| pick.key() == "a").unwrap();
        assert_eq!(
            pick.finish(MS, Outcome::Success, now),
            Some(Change::Restored)
        );
        assert_eq!((pool.usable(now), pool.is_panicking(now)), (2, false));
    }

    #[test]
    fn with_nobody_to_use_there_is_no_pick() {
        let (pool, now) = pool(Rules::default(), &[]);
        assert!(pool.pick(&facts(now, 1)).is_none());
        let draining = members(&["a"]).into_iter().map(|member| Member {
            draining: true,
            ..member
        });
        pool.set_members(draining, now);
        assert!(pool.pick(&facts(now, 1)).is_none());
        assert_eq!(state(&pool, "a", now), State::Draining);
    }

    #[test]
    fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
        for strategy in [
            Strategy::PeakEwma,
            Strategy::RoundRobin,
            Strategy::Random,
            Strategy::Weighted,
        ] {
            let (pool, now) = pool(
                Rules {
                    strategy,
                    ..Rules::default()
                },
                &["a", "b"],
            );
            for random in 0..200 {
                let first = pool.pick(&facts(now, random)).unwrap();
                let avoid = [first.id()];
                let second = pool
                    .pick(&Facts {
                        avoid: &avoid,
                        ..facts(now, random)
                    })
                    .unwrap();
                assert_ne!(first.key(), second.key());
                let avoid = [first.id(), second.id()];
                assert!(
                    pool.pick(&Facts {
                        avoid: &avoid,
                        ..facts(now, random)
                    })
                    .is_some()
                );
            }
        }
    }

    #[test]
    fn membership_changes_keep_what_is_known_and_restarts_begin_anew() {
        let (pool, now) = pool(Rules::default(), &["a:1", "b:1", "c:1"]);
        eject(&pool, "a:1", now);
        pool.set_members(members(&["a:1", "b:1", "b:1", "d:1"]), now);
        assert_eq!(state(&pool, "a:1", now), State::Ejected);
        let keys: Vec<_> = pool
            .status(now)
            .into_iter()
            .map(|status| status.key)
            .collect();
        assert_eq!(keys, ["a:1", "b:1", "d:1"]);
        let held = pool.pick(&facts(now, 1)).unwrap();
        pool.set_members(members(&["a:2"]), now);
        assert_eq!((pool.usable(now), state(&pool, "a:2", now)), (1, State::In));
        assert_eq!(held.finish(MS, Outcome::Success, now), None);
    }

    #[test]
    fn a_newcomer_is_assumed_to_be_as_fast_as_the_others() {
        let (pool, now) = pool(Rules::default(), &["a", "b"]);
        for random in 0..20 {
            let pick = pool.pick(&facts(now, random)).unwrap();
            let took = if pick.key() == "a" { 10 * MS } else { 30 * MS };
            pick.finish(took, Outcome::Success, now);
        }
        pool.set_members(members(&["a", "b", "c"]), now);
        assert_eq!(pool.status(now)[2].latency, 20 * MS);
    }

    #[test]
    fn threads_agree_on_what_is_in_flight() {
        let (pool, now) = pool(Rules::default(), &["a", "b", "c"]);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let pool = &pool;
                scope.spawn(move || {
                    for call in 0..2_000 {
                        let pick = pool.pick(&facts(now, thread << 32 | call)).unwrap();
                        let outcome = if call % 3 == 0 {
                            Outcome::Failure
                        } else {
                            Outcome::Success
                        };
                        pick.finish(MS, outcome, now + MS * u32::try_from(call).unwrap());
                    }
                });
            }
        });
        assert!(pool.status(now).iter().all(|status| status.in_flight == 0));
    }
}

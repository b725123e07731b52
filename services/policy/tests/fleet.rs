//! Whole fleets in simulated time: what the balancer does over many calls, with instances that are slow, die and join.
//!
//! A simulation is a queue of calls that end, ordered by time. Nothing waits, so a minute of traffic takes milliseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use policy::balance::{Facts, Member, Pick, Pool, Rules, Strategy};
use policy::health::{Change, Outcome};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How an instance treats a call that begins at this time.
type Behaviour = fn(instance: u32, at: Duration) -> (Duration, Outcome);

struct Fleet {
    pool: Pool<u32>,
    start: Instant,
    now: Duration,
    random: StdRng,
    behaviour: Behaviour,
    /// Calls in flight by the time of their end.
    ends: BinaryHeap<Reverse<(Duration, u64)>>,
    calls: BTreeMap<u64, (Pick<u32>, Duration, Outcome)>,
    begun: u64,
    /// Begin and instance of every call.
    picks: Vec<(Duration, u32)>,
    changes: Vec<(Duration, u32, Change)>,
}

impl Fleet {
    fn new(strategy: Strategy, instances: u32, behaviour: Behaviour) -> Self {
        let start = Instant::now();
        let fleet = Self {
            pool: Pool::new(
                Rules {
                    strategy,
                    ..Rules::default()
                },
                start,
            ),
            start,
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(42),
            behaviour,
            ends: BinaryHeap::new(),
            calls: BTreeMap::new(),
            begun: 0,
            picks: Vec::new(),
            changes: Vec::new(),
        };
        fleet.resize(instances);
        fleet
    }

    fn resize(&self, instances: u32) {
        let member = |n: u32| Member {
            key: n.to_string(),
            weight: n + 1,
            draining: false,
            target: n,
        };
        self.pool
            .set_members((0..instances).map(member), self.start + self.now);
    }

    /// Sends calls at even intervals for a while.
    fn run(&mut self, per_second: u32, time: Duration) {
        let until = self.now + time;
        let gap = SECOND / per_second;
        while self.now < until {
            self.finish_due();
            self.begin();
            self.now += gap;
        }
    }

    fn begin(&mut self) {
        let facts = Facts {
            now: self.start + self.now,
            random: self.random.next_u64(),
            avoid: &[],
        };
        let pick = self.pool.pick(&facts).expect("a live instance");
        let instance = *pick.target();
        let (took, outcome) = (self.behaviour)(instance, self.now);
        self.begun += 1;
        self.ends.push(Reverse((self.now + took, self.begun)));
        self.calls.insert(self.begun, (pick, took, outcome));
        self.picks.push((self.now, instance));
    }

    fn finish_due(&mut self) {
        while let Some(&Reverse((at, call))) = self.ends.peek() {
            if at > self.now {
                return;
            }
            self.ends.pop();
            let (pick, took, outcome) = self.calls.remove(&call).expect("a call in flight");
            let instance = *pick.target();
            if let Some(change) = pick.finish(took, outcome, self.start + at) {
                self.changes.push((at, instance, change));
            }
        }
    }

    /// Calls per instance that began in `from..until`.
    fn counts(&self, instances: u32, from: Duration, until: Duration) -> Vec<u32> {
        let mut counts = vec![0; instances as usize];
        for (_, instance) in self
            .picks
            .iter()
            .filter(|(at, _)| (from..until).contains(at))
        {
            counts[*instance as usize] += 1;
        }
        counts
    }
}

/// Largest distance of a count from the mean, in percent of the mean.
fn unevenness(counts: &[u32]) -> f64 {
    let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts
        .iter()
        .map(|&count| (f64::from(count) - mean).abs() / mean * 100.0)
        .fold(0.0, f64::max)
}

fn sound(_: u32, _: Duration) -> (Duration, Outcome) {
    (10 * MS, Outcome::Success)
}

#[test]
fn brg_15_equal_instances_get_equal_parts_of_100k_calls() {
    for (strategy, instances) in [
        (Strategy::PeakEwma, 3),
        (Strategy::PeakEwma, 10),
        (Strategy::LeastRequests, 3),
        (Strategy::LeastRequests, 10),
        (Strategy::RoundRobin, 3),
        (Strategy::RoundRobin, 200),
        (Strategy::Random, 3),
    ] {
        let mut fleet = Fleet::new(strategy, instances, sound);
        fleet.run(1_000, 100 * SECOND);
        let counts = fleet.counts(instances, Duration::ZERO, Duration::MAX);
        assert_eq!(counts.iter().sum::<u32>(), 100_000);
        let unevenness = unevenness(&counts);
        assert!(
            unevenness <= 2.0,
            "{strategy:?} over {instances}: {unevenness} %"
        );
    }
}

/// Five hundred calls each are too few for 2 %: here the balancer must only be clearly more even than chance, which gives 17 %.
#[test]
fn two_hundred_equal_instances_are_more_even_than_chance() {
    let mut fleet = Fleet::new(Strategy::PeakEwma, 200, sound);
    fleet.run(1_000, 100 * SECOND);
    let unevenness = unevenness(&fleet.counts(200, Duration::ZERO, Duration::MAX));
    assert!(unevenness <= 13.0, "{unevenness} %");
}

#[test]
fn brg_15_weighted_calls_follow_the_weights() {
    let mut fleet = Fleet::new(Strategy::Weighted, 4, sound);
    fleet.run(1_000, 100 * SECOND);
    for (weight, count) in (1_u32..).zip(fleet.counts(4, Duration::ZERO, Duration::MAX)) {
        let expect = f64::from(weight) * 10_000.0;
        assert!(
            (f64::from(count) - expect).abs() <= expect * 0.04,
            "weight {weight}: {count}"
        );
    }
}

#[test]
fn brg_17_a_killed_instance_of_200_gets_nothing_after_its_first_failures() {
    const KILLED: u32 = 137;
    let killed_at = 2 * SECOND;
    let mut fleet = Fleet::new(Strategy::PeakEwma, 200, |instance, at| {
        if instance == KILLED && at >= 2 * SECOND {
            (MS / 5, Outcome::Failure)
        } else {
            (10 * MS, Outcome::Success)
        }
    });
    fleet.run(20_000, 10 * SECOND);

    let &(ejected_at, instance, change) = fleet.changes.first().unwrap();
    assert_eq!(
        (instance, change),
        (
            KILLED,
            Change::Ejected {
                lasts: 5 * SECOND,
                failures: 3
            }
        )
    );
    assert!(ejected_at > killed_at);
    let on_killed = |from, until| fleet.counts(200, from, until)[KILLED as usize];
    assert!(
        on_killed(killed_at, ejected_at) <= 5,
        "{} calls before the ejection",
        on_killed(killed_at, ejected_at)
    );
    // One call's time may pass until the ejection is seen.
    assert_eq!(on_killed(ejected_at + MS, ejected_at + 5 * SECOND), 0);
    // After five seconds it gets a single probe, and is ejected for ten.
    assert_eq!(on_killed(ejected_at + 5 * SECOND, Duration::MAX), 1);
    assert_eq!(
        fleet.changes.len(),
        2,
        "no other instance is ejected: {:?}",
        fleet.changes
    );

    let mut others = fleet.counts(200, ejected_at, Duration::MAX);
    others.remove(KILLED as usize);
    assert!(unevenness(&others) <= 10.0, "{} %", unevenness(&others));
}

#[test]
fn a_slow_instance_gets_less_and_recovers_its_part_over_ten_decay_times() {
    let mut fleet = Fleet::new(Strategy::PeakEwma, 10, |instance, at| {
        let slow = instance == 4 && at < 20 * SECOND;
        (if slow { 200 * MS } else { 10 * MS }, Outcome::Success)
    });
    fleet.run(1_000, 90 * SECOND);
    let slow = fleet.counts(10, 5 * SECOND, 20 * SECOND);
    assert!(slow[4] * 5 < slow[0], "{slow:?}");
    // Twenty times as slow: most of its part after three decay times, all of it after ten.
    let recovering = fleet.counts(10, 35 * SECOND, 45 * SECOND);
    assert!((600..1_000).contains(&recovering[4]), "{recovering:?}");
    let recovered = fleet.counts(10, 75 * SECOND, 90 * SECOND);
    assert!(unevenness(&recovered) <= 6.0, "{recovered:?}");
}

#[test]
fn a_newcomer_gets_neither_more_nor_less_than_its_part() {
    let mut fleet = Fleet::new(Strategy::PeakEwma, 9, sound);
    fleet.run(2_000, 10 * SECOND);
    fleet.resize(10);
    fleet.run(2_000, SECOND);
    let first_second = fleet.counts(10, 10 * SECOND, 11 * SECOND);
    assert!(
        (160..=240).contains(&first_second[9]),
        "a tenth of 2,000 calls: {first_second:?}"
    );
}

#[test]
fn when_all_fail_all_are_used_and_the_first_success_ends_the_panic() {
    let mut fleet = Fleet::new(Strategy::PeakEwma, 6, |_, at| {
        (
            MS,
            if (SECOND..2 * SECOND).contains(&at) {
                Outcome::Failure
            } else {
                Outcome::Success
            },
        )
    });
    fleet.run(500, 4 * SECOND);
    let during = fleet.counts(6, SECOND * 3 / 2, 2 * SECOND);
    assert!(during.iter().all(|&count| count > 0), "{during:?}");
    let after = fleet.counts(6, 3 * SECOND, 4 * SECOND);
    assert!(
        after.iter().filter(|&&count| count > 0).count() >= 3,
        "{after:?}"
    );
    assert!(!fleet.pool.is_panicking(fleet.start + fleet.now));
}

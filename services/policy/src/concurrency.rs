//! How many calls may be under way: a limit that follows what latency shows.
//!
//! The idea is that of Netflix's gradient limit: while calls take about as long as they usually do, more may be under
//! way; when they take longer by more than a tolerance, work is queueing somewhere behind us, and fewer may be. Two
//! things differ, because tools differ by a factor of thousands:
//!
//! * each call is compared with **what its own tool usually takes** ([`Usual`]), so that the mix of tools does not matter;
//! * a window is judged by the **median** of those ratios, so that one slow tool among many says nothing of the whole.
//!
//! The limit falls when several windows in a row were slow: a plugin that is started anew, or an instance that dies, holds calls
//! up for a moment and is no overload.
//!
//! What a tool usually takes is learnt in minutes while there is room, and in hours while there is not: an overload must
//! not become the measure of itself.

use std::time::{Duration, Instant};

/// Ratios that are kept of one window.
const SAMPLES_MAX: usize = 64;
/// Fewer calls than this judge nothing.
const SAMPLES_MIN: usize = 16;
/// A window that has too few calls after so many of its lengths starts anew.
const STALE_WINDOWS: u32 = 10;
/// Slow windows in a row, of which the last makes the limit fall.
const SLOW_WINDOWS: u32 = 4;
/// The limit never falls by more than this in one window.
const GRADIENT_MIN: f64 = 0.5;
/// Time in which what is usual is learnt, while there is room.
const LEARN: Duration = Duration::from_secs(60);
/// The same while there is none.
const LEARN_LOADED: Duration = Duration::from_secs(2 * 3600);
/// Observations that count in full at the start, whatever the load. The calls that end first are the quick ones: a measure of few
/// would take what is usual for slow, and keep to it.
const LEARN_FIRST: u32 = 128;

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// The limit is never lower.
    pub limit_min: usize,
    /// The limit is never higher, and starts here.
    pub limit_max: usize,
    /// How many times longer than usual calls may take before the limit falls.
    pub tolerance: f64,
    /// Time between two judgements, at least.
    pub window: Duration,
}

/// The limit as it stands.
#[derive(Debug)]
pub struct Limit {
    rules: Rules,
    limit: f64,
    began: Instant,
    ratios: [f32; SAMPLES_MAX],
    seen: usize,
    peak: usize,
    congested: bool,
    /// Windows in a row that were slow.
    slow: u32,
}

/// One call that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// How long it took.
    pub took: Duration,
    /// How long its tool usually takes.
    pub usual: Duration,
    /// Calls that were under way when it ended, itself included.
    pub in_flight: usize,
    /// The time.
    pub now: Instant,
}

impl Limit {
    /// A limit at its highest.
    #[must_use]
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            limit: rules.limit_max as f64,
            rules,
            began: now,
            ratios: [0.0; SAMPLES_MAX],
            seen: 0,
            peak: 0,
            congested: false,
            slow: 0,
        }
    }

    /// Calls that may be under way.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Whether calls say nothing of what is usual now: there is little room, or they take longer than they should.
    #[must_use]
    pub fn is_loaded(&self, in_flight: usize) -> bool {
        self.congested || in_flight * 2 > self.limit()
    }

    /// Takes a call into account.
    pub fn record(&mut self, facts: &Facts) {
        let usual = facts.usual.as_secs_f64().max(1e-6);
        self.ratios[self.seen % SAMPLES_MAX] = (facts.took.as_secs_f64() / usual) as f32;
        self.seen += 1;
        self.peak = self.peak.max(facts.in_flight);
        let elapsed = facts.now.saturating_duration_since(self.began);
        if elapsed < self.rules.window {
            return;
        }
        if self.seen >= SAMPLES_MIN {
            self.judge();
        } else if elapsed < self.rules.window * STALE_WINDOWS {
            return;
        } else {
            self.congested = false;
            self.slow = 0;
        }
        self.began = facts.now;
        self.seen = 0;
        self.peak = 0;
    }

    fn judge(&mut self) {
        let ratios = &mut self.ratios[..self.seen.min(SAMPLES_MAX)];
        let middle = ratios.len() / 2;
        let (_, median, _) = ratios.select_nth_unstable_by(middle, f32::total_cmp);
        let gradient = (self.rules.tolerance / f64::from(*median).max(1e-6)).min(1.0);
        self.congested = gradient < 1.0;
        self.slow = if self.congested {
            self.slow.saturating_add(1)
        } else {
            0
        };
        if self.slow >= SLOW_WINDOWS {
            // What is not used cannot be what makes calls slow: begin from what was under way.
            let base = self.limit.min(self.peak as f64);
            let aim = base * gradient.max(GRADIENT_MIN) + base.sqrt();
            self.limit = self.limit.min(base.midpoint(aim.min(base * 2.0)));
        } else if !self.congested && self.peak as f64 * 2.0 > self.limit {
            self.limit += self.limit.sqrt();
        }
        let (min, max) = (self.rules.limit_min as f64, self.rules.limit_max as f64);
        self.limit = self.limit.max(min).min(max);
    }
}

/// What calls of one tool are usually like.
#[derive(Debug, Clone, Copy)]
pub struct Usual {
    seconds: f64,
    quick_seconds: f64,
    bytes: f64,
    seen: u32,
    learnt: Instant,
}

impl Usual {
    /// What the first call shows.
    #[must_use]
    pub fn new(took: Duration, bytes: usize, now: Instant) -> Self {
        Self {
            seconds: took.as_secs_f64(),
            quick_seconds: took.as_secs_f64(),
            bytes: bytes as f64,
            seen: 1,
            learnt: now,
        }
    }

    /// Learns from a call that was answered; slowly if the edge was `loaded`.
    pub fn learn(&mut self, took: Duration, bytes: usize, loaded: bool, now: Instant) {
        let took = took.as_secs_f64();
        let quick = if took < self.quick_seconds {
            0.2
        } else {
            0.005
        };
        self.quick_seconds += (took - self.quick_seconds) * quick;
        let time = if loaded { LEARN_LOADED } else { LEARN };
        let since = now.saturating_duration_since(self.learnt).as_secs_f64();
        let gain = if self.seen < LEARN_FIRST {
            self.seen += 1;
            1.0 / f64::from(self.seen)
        } else {
            // A gap says nothing of what happened in it.
            (since / time.as_secs_f64()).min(0.1)
        };
        self.learnt = now;
        self.seconds += (took - self.seconds) * gain;
        self.bytes += (bytes as f64 - self.bytes) * gain;
    }

    /// How long a call takes on average.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or(Duration::MAX)
    }

    /// How long a quick one takes: less cannot be expected.
    #[must_use]
    pub fn quick(&self) -> Duration {
        Duration::try_from_secs_f64(self.quick_seconds).unwrap_or(Duration::MAX)
    }

    /// What a call is worth by its time and bytes: one, one more for each 100 ms and each 64 KiB, at most `max`.
    #[must_use]
    pub fn cost(&self, max: u32) -> u32 {
        let units = 1.0 + (self.seconds * 10.0).floor() + (self.bytes / 65_536.0).floor();
        (units.min(f64::from(max)) as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> Rules {
        Rules {
            limit_min: 4,
            limit_max: 4096,
            tolerance: 2.0,
            window: 100 * MS,
        }
    }

    /// A server that does `capacity` calls at once in 10 ms each, and more of them proportionally slower, with as many
    /// calls under way as the limit lets in, at most `clients`. Every other tool call is 50 times as long.
    fn run(
        limit: &mut Limit,
        usual: &mut [Usual; 2],
        at: &mut Instant,
        seconds: u32,
        capacity: f64,
        clients: usize,
    ) -> (usize, usize) {
        let until = *at + seconds * 1000 * MS;
        let (mut low, mut high) = (usize::MAX, 0);
        let settled = *at + (seconds * 600) * MS;
        while *at < until {
            let in_flight = limit.limit().min(clients);
            let slow = (in_flight as f64 / capacity).max(1.0);
            for (tool, factor) in [(0, 1.0), (1, 50.0)] {
                let took = Duration::from_secs_f64(0.010 * factor * slow);
                let loaded = limit.is_loaded(in_flight);
                limit.record(&Facts {
                    took,
                    usual: usual[tool].time(),
                    in_flight,
                    now: *at,
                });
                usual[tool].learn(took, 0, loaded, *at);
            }
            *at += MS;
            if *at > settled {
                low = low.min(limit.limit());
                high = high.max(limit.limit());
            }
        }
        (low, high)
    }

    #[test]
    fn mcp_13_the_limit_follows_measured_latency() {
        let mut at = Instant::now();
        let mut limit = Limit::new(rules(), at);
        let mut usual = [10, 500].map(|ms| Usual::new(ms * MS, 0, at));
        let mut go = |seconds, capacity, clients| {
            run(&mut limit, &mut usual, &mut at, seconds, capacity, clients)
        };
        // Within what the server can do nothing changes.
        assert_eq!(go(30, 200.0, 100), (4096, 4096));
        // Past it the limit comes down to where calls take about twice as long, in seconds.
        let (low, high) = go(20, 200.0, 3000);
        assert!(low > 250 && high < 600, "{low}..{high}");
        // The server becomes weaker, and stays so for five minutes: the overload does not become the measure.
        let (low, high) = go(300, 50.0, 3000);
        assert!(low > 60 && high < 180, "{low}..{high}");
        // It recovers.
        let (low, high) = go(20, 400.0, 3000);
        assert!(low > 500 && high < 1200, "{low}..{high}");
        // Nothing is let in below the least limit.
        let (low, _) = go(20, 0.5, 3000);
        assert_eq!(low, 4);
    }

    #[test]
    fn one_slow_tool_among_many_does_not_lower_the_limit() {
        let start = Instant::now();
        let mut limit = Limit::new(rules(), start);
        for call in 0..10_000_u32 {
            let took = if call % 3 == 0 { 5000 * MS } else { 10 * MS };
            limit.record(&Facts {
                took,
                usual: 10 * MS,
                in_flight: 3000,
                now: start + call * MS,
            });
        }
        assert_eq!(limit.limit(), 4096);
    }

    /// What happens to calls from a millisecond on, for so many.
    #[derive(Debug, Clone, Copy)]
    enum Trouble {
        /// None ends before that is over.
        Still(u64, u64),
        /// Those that begin take so many times as long.
        Slow(u64, u64, u64),
    }

    /// A thousand clients that call every five seconds, for 20 to 400 ms. Returns whether there were places for all calls at
    /// all times, and the lowest limit.
    fn thousand_clients(seed: u64, troubles: &[Trouble]) -> (bool, usize) {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let mut dice = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let rules = Rules {
            limit_min: 64,
            ..rules()
        };
        let mut limit = Limit::new(rules, start);
        let mut usual: Option<Usual> = None;
        // When each client's call ends or its next begins, and when the call began.
        let mut clients: Vec<(u64, Option<u64>)> = (0..1000)
            .map(|_| (dice.random_range(0..5000), None))
            .collect();
        let (mut in_flight, mut has_room, mut low) = (0, true, usize::MAX);
        for tick in 0..20_000 {
            let now = start + tick as u32 * MS;
            for (at, call) in clients.iter_mut().filter(|(at, _)| *at == tick) {
                let Some(began) = *call else {
                    let times = troubles.iter().find_map(|trouble| match *trouble {
                        Trouble::Slow(from, long, times) => {
                            (from..from + long).contains(&tick).then_some(times)
                        }
                        Trouble::Still(..) => None,
                    });
                    let ends = tick + dice.random_range(20..400) * times.unwrap_or(1);
                    let ends = troubles.iter().fold(ends, |ends, trouble| match *trouble {
                        Trouble::Still(from, long) if (from..from + long).contains(&ends) => {
                            from + long
                        }
                        _ => ends,
                    });
                    (*at, *call) = (ends, Some(tick));
                    in_flight += 1;
                    continue;
                };
                let took = (tick - began) as u32 * MS;
                let loaded = limit.is_loaded(in_flight);
                let usual = usual.get_or_insert_with(|| Usual::new(took, 0, now));
                limit.record(&Facts {
                    took,
                    usual: usual.time(),
                    in_flight,
                    now,
                });
                usual.learn(took, 0, loaded, now);
                in_flight -= 1;
                (*at, *call) = (tick + dice.random_range(4000..6000), None);
            }
            has_room &= in_flight <= limit.limit();
            low = low.min(limit.limit());
        }
        (has_room, low)
    }

    #[test]
    fn mcp_13_a_moment_in_which_calls_are_held_up_is_no_overload() {
        let still = [0, 1, 2].map(|n| Trouble::Still(8_000 + n * 1_500, 700));
        for seed in 0..3 {
            for troubles in [&[][..], &[Trouble::Slow(8_000, 250, 5)], &still] {
                let (has_room, low) = thousand_clients(seed, troubles);
                assert!(has_room, "{low} places: {troubles:?}, {seed}");
            }
        }
        // What goes on is one.
        let (_, low) = thousand_clients(0, &[Trouble::Slow(8_000, 12_000, 5)]);
        assert!(low < 400, "{low}");
    }

    #[test]
    fn few_calls_judge_nothing() {
        let start = Instant::now();
        let mut limit = Limit::new(rules(), start);
        for call in 0..1000_u32 {
            limit.record(&Facts {
                took: 1000 * MS,
                usual: MS,
                in_flight: 1,
                now: start + call * 200 * MS,
            });
        }
        assert_eq!(limit.limit(), 4096);
    }

    #[test]
    fn cost_is_learnt_from_time_and_bytes() {
        let start = Instant::now();
        for (ms, bytes, max, cost) in [
            (1, 100, 100, 1),
            (99, 0, 100, 1),
            (250, 0, 100, 3),
            (1, 200_000, 100, 4),
            (60_000, 0, 100, 100),
            (60_000, 0, 1, 1),
        ] {
            let mut usual = Usual::new(ms * MS, bytes, start);
            for call in 0..100 {
                usual.learn(ms * MS, bytes, false, start + call * MS);
            }
            assert_eq!(usual.cost(max), cost, "{ms} ms, {bytes} bytes");
            assert_eq!(usual.quick(), usual.time());
        }
    }
}

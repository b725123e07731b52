//! Thousands of simulated rollouts, against the rates that the judge must keep.
//!
//! Runs are seeded, so a failure repeats. The ordinary run uses a few hundred per line; set
//! `ROLLOUT_SIMULATIONS=20` for twenty times as many.

use super::*;
use crate::draws::{Draws, runs};

/// One scenario: calls per second, candidate's share, baseline error rate, candidate's ratio.
#[derive(Clone, Copy)]
struct Scenario {
    rps: f64,
    weight: f64,
    base: f64,
    ratio: f64,
    margin: f64,
    metrics: usize,
    /// During the 21st to 26th tick both releases' errors are this many times as frequent.
    burst: f64,
    /// Errors come in clusters of this mean size, one cluster per session.
    cluster: f64,
    /// Whether clusters count once.
    capped: bool,
    /// Whether a pass ends the run as soon as it is reached.
    early_pass: bool,
}

const CALM: Scenario = Scenario {
    rps: 200.0,
    weight: 0.05,
    base: 0.001,
    ratio: 1.0,
    margin: 5.0,
    metrics: 1,
    burst: 1.0,
    cluster: 1.0,
    capped: true,
    early_pass: false,
};

const TICK_S: u64 = 10;
const TICKS: u64 = 60;

fn arm(draws: &mut Draws, calls: u64, rate: f64, scenario: &Scenario) -> u64 {
    let clusters = draws.binomial(calls, (rate / scenario.cluster).min(1.0));
    if scenario.capped {
        return clusters;
    }
    let mut errors = clusters;
    for _ in 0..clusters {
        while draws.unit() > 1.0 / scenario.cluster {
            errors += 1;
        }
    }
    errors.min(calls)
}

/// One run: the verdict and the second at which it fell.
fn run(scenario: &Scenario, draws: &mut Draws) -> (Verdict, u64) {
    let rules = Rules {
        alpha: Fraction::ppm(10_000),
        metrics: scenario.metrics,
        min_effect: Fraction::ppm(1_000),
        error_budget: Fraction::ppm(1_000),
        min_samples: 500,
        margin: scenario.margin,
    };
    let mut tracked = Tracked {
        metric: Metric::Errors,
        totals: Sample::default(),
        uncapped: 0,
        harm: EProcess::harm(),
        harmless: EProcess::harmless(rules.margin),
        shown: None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    let calls = |share: f64| (scenario.rps * TICK_S as f64 * share).round() as u64;
    let (n_c, n_b) = (calls(scenario.weight), calls(1.0 - scenario.weight));
    let mut verdict = Verdict::Inconclusive;
    for tick in 1..=TICKS {
        let burst = if (20..26).contains(&tick) {
            scenario.burst
        } else {
            1.0
        };
        let rate = (scenario.base * burst).min(1.0);
        let k_c = arm(draws, n_c, (rate * scenario.ratio).min(1.0), scenario);
        let k_b = arm(draws, n_b, rate, scenario);
        tracked.uncapped += k_c;
        tracked.update(&[Sample { n_c, k_c, n_b, k_b }], f64::INFINITY, &rules);
        verdict = tracked.verdict(&rules, tracked.totals.n_c).0;
        if verdict == Verdict::Fail || (verdict == Verdict::Pass && scenario.early_pass) {
            return (verdict, tick * TICK_S);
        }
    }
    (verdict, TICKS * TICK_S)
}

struct Rates {
    pass: f64,
    fail: f64,
    inconclusive: f64,
    /// Median second of the runs that were decided.
    median_s: u64,
}

fn rates(scenario: Scenario, seed: u64, count: u32) -> Rates {
    let mut draws = Draws::seeded(seed);
    let results: Vec<_> = (0..count).map(|_| run(&scenario, &mut draws)).collect();
    let share = |verdict| {
        let hits = results.iter().filter(|(v, _)| *v == verdict).count();
        hits as f64 / f64::from(count)
    };
    let mut times: Vec<u64> = results
        .iter()
        .filter(|(verdict, _)| *verdict != Verdict::Inconclusive)
        .map(|(_, second)| *second)
        .collect();
    times.sort_unstable();
    Rates {
        pass: share(Verdict::Pass),
        fail: share(Verdict::Fail),
        inconclusive: share(Verdict::Inconclusive),
        median_s: times.get(times.len() / 2).copied().unwrap_or(0),
    }
}

#[test]
fn harmless_releases_are_not_aborted() {
    let count = runs(600);
    let cases = [
        ("calm", CALM),
        ("frequent errors", Scenario { base: 0.01, ..CALM }),
        (
            "much traffic",
            Scenario {
                rps: 1_000.0,
                ..CALM
            },
        ),
        (
            "rare errors",
            Scenario {
                rps: 1_000.0,
                base: 0.0001,
                ..CALM
            },
        ),
        (
            "burst of both",
            Scenario {
                burst: 50.0,
                ..CALM
            },
        ),
        (
            "small clusters",
            Scenario {
                base: 0.002,
                cluster: 3.0,
                ..CALM
            },
        ),
        (
            "large clusters",
            Scenario {
                base: 0.002,
                cluster: 10.0,
                ..CALM
            },
        ),
        (
            "a quarter of the traffic",
            Scenario {
                weight: 0.25,
                margin: 2.0,
                ..CALM
            },
        ),
        (
            "half of the traffic",
            Scenario {
                weight: 0.5,
                margin: 1.5,
                ..CALM
            },
        ),
    ];
    for (name, scenario) in cases {
        let rates = rates(scenario, 7, count);
        assert!(rates.fail <= 0.01, "{name}: aborted {}", rates.fail);
    }
}

#[test]
fn the_cap_per_session_is_what_keeps_clusters_harmless() {
    let clustered = Scenario {
        base: 0.002,
        cluster: 3.0,
        capped: false,
        ..CALM
    };
    let rates = rates(clustered, 7, runs(200));
    assert!(
        rates.fail > 0.1,
        "uncapped clusters aborted only {}",
        rates.fail
    );
}

/// Expected shares of pass, fail and inconclusive, and the median second where nearly all decide.
type Row = (f64, [f64; 3], Option<(u64, u64)>);

#[test]
fn verdicts_come_as_often_and_as_soon_as_computed() {
    let early = Scenario {
        early_pass: true,
        ..CALM
    };
    let busy = Scenario {
        rps: 1_000.0,
        ..early
    };
    let idle = Scenario { rps: 20.0, ..early };
    let quarter = Scenario {
        weight: 0.25,
        margin: 2.0,
        ..early
    };
    let tables: [(Scenario, &[Row]); 4] = [
        (
            early,
            &[
                (1.0, [1.0, 0.0, 0.0], Some((90, 150))),
                (2.0, [0.75, 0.14, 0.12], None),
                (5.0, [0.02, 0.97, 0.01], Some((110, 170))),
                (10.0, [0.0, 1.0, 0.0], Some((40, 70))),
                (50.0, [0.0, 1.0, 0.0], Some((10, 10))),
            ],
        ),
        (
            busy,
            &[
                (1.0, [1.0, 0.0, 0.0], Some((20, 40))),
                (2.0, [0.79, 0.21, 0.0], None),
                (5.0, [0.03, 0.97, 0.0], Some((30, 50))),
                (10.0, [0.0, 1.0, 0.0], Some((10, 20))),
                (50.0, [0.0, 1.0, 0.0], Some((10, 10))),
            ],
        ),
        (
            idle,
            &[
                (1.0, [0.07, 0.0, 0.94], None),
                (2.0, [0.03, 0.02, 0.95], None),
                (5.0, [0.01, 0.17, 0.82], None),
                (10.0, [0.0, 0.68, 0.33], None),
                (50.0, [0.0, 1.0, 0.0], Some((80, 120))),
            ],
        ),
        (
            quarter,
            &[
                (1.0, [0.86, 0.0, 0.14], None),
                (2.0, [0.03, 0.69, 0.28], None),
                (5.0, [0.0, 1.0, 0.0], Some((40, 60))),
                (10.0, [0.0, 1.0, 0.0], Some((10, 20))),
                (50.0, [0.0, 1.0, 0.0], Some((10, 10))),
            ],
        ),
    ];
    for (scenario, rows) in tables {
        for (ratio, expect, median) in rows {
            let scenario = Scenario {
                ratio: *ratio,
                ..scenario
            };
            let rates = rates(scenario, 3, runs(200));
            let found = [rates.pass, rates.fail, rates.inconclusive];
            let near = found.iter().zip(expect).all(|(a, b)| (a - b).abs() <= 0.09);
            let name = format!("{} rps, {}, ratio {ratio}", scenario.rps, scenario.weight);
            assert!(near, "{name}: {found:?}, expected {expect:?}");
            if let Some((from, to)) = median {
                assert!(
                    (*from..=*to).contains(&rates.median_s),
                    "{name}: {} s",
                    rates.median_s
                );
            }
        }
    }
}

#[test]
fn five_metrics_leave_this_power() {
    for (weight, ratio, expect) in [
        (0.05, 3.0, 0.53),
        (0.05, 4.0, 0.93),
        (0.25, 2.0, 0.61),
        (0.25, 2.5, 0.97),
    ] {
        let scenario = Scenario {
            weight,
            ratio,
            metrics: 5,
            ..CALM
        };
        let found = rates(scenario, 5, runs(300)).fail;
        assert!(
            (found - expect).abs() <= 0.08,
            "{weight} {ratio}: {found}, expected {expect}"
        );
    }
}

#[test]
fn a_failing_release_is_seen_while_it_matters() {
    let cases = [(0.001, 10.0, 60), (0.001, 50.0, 10), (0.001, 500.0, 10)];
    for (base, ratio, within_s) in cases {
        let rates = rates(
            Scenario {
                base,
                ratio,
                ..CALM
            },
            9,
            runs(200),
        );
        assert!(rates.fail >= 0.99, "{base} x{ratio}: {}", rates.fail);
        assert!(
            rates.median_s <= within_s,
            "{base} x{ratio}: {} s",
            rates.median_s
        );
    }
}

#[test]
fn a_release_at_the_margin_rarely_passes() {
    for (weight, ratio) in [(0.05, 5.0), (0.25, 2.0)] {
        let scenario = Scenario {
            rps: 1_000.0,
            weight,
            ratio,
            margin: ratio,
            early_pass: true,
            ..CALM
        };
        let passed = rates(scenario, 11, runs(300)).pass;
        assert!(passed <= 0.05, "{weight} {ratio}: passed {passed}");
    }
}

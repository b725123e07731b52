//! The cost of one decision on the edge's hot path: `limit`, `pick` and `split`.
//!
//! `pick` must cost the same with 3 and with 200 instances.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policy::balance::{Facts, Member, Pool, Rules, Strategy};
use policy::health::Outcome;
use policy::{limit, split};

fn limit(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    let start = Instant::now();
    for principals in [1_u64, 1_000, 100_000] {
        let limiter =
            limit::Limiter::new(limit::Rules::per_second(200, 400), start).expect("rules in range");
        let mut call = 0_u64;
        group.bench_function(BenchmarkId::from_parameter(principals), |b| {
            b.iter(|| {
                call += 1;
                let principal = (call % principals).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                limiter.check(black_box(principal), 1, start + Duration::from_micros(call))
            });
        });
    }
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    let start = Instant::now();
    for strategy in [
        Strategy::PeakEwma,
        Strategy::LeastRequests,
        Strategy::RoundRobin,
        Strategy::Weighted,
    ] {
        for instances in [3_u32, 200] {
            let pool = Pool::new(
                Rules {
                    strategy,
                    ..Rules::default()
                },
                start,
            );
            let member = |n: u32| Member {
                key: n.to_string(),
                weight: n + 1,
                draining: false,
                target: n,
            };
            pool.set_members((0..instances).map(member), start);
            let mut call = 0_u64;
            group.bench_function(BenchmarkId::new(format!("{strategy:?}"), instances), |b| {
                b.iter(|| {
                    call += 1;
                    let now = start + Duration::from_micros(call);
                    let pick = pool.pick(&Facts {
                        now,
                        random: black_box(call),
                        avoid: &[],
                    })?;
                    pick.finish(Duration::from_millis(1), Outcome::Success, now)
                });
            });
        }
    }
}

fn split(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    let split = split::Split::new("stable", [("canary", 500)]).expect("shares in range");
    group.bench_function("sticky", |b| {
        let mut session = 0;
        b.iter(|| {
            session += 1;
            let facts = split::Facts {
                pinned: None,
                sticky: Some(black_box(session)),
                random: 0,
            };
            split.choose(&facts).reason
        });
    });
}

criterion_group!(decisions, limit, pick, split);
criterion_main!(decisions);

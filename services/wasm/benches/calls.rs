//! What a warm call of a component costs, with nothing else under way.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use wasm::{Grants, Host, Level, Limits, Plugin, Runtime};

struct Deaf;

impl Host for Deaf {
    fn log(&self, _: Level, _: &str) {}
    fn progress(&self, _: f64, _: Option<f64>, _: Option<&str>) {}
}

fn calls(criterion: &mut Criterion) {
    let runtime = Runtime::start(None).expect("an engine");
    let bytes = wat::parse_str(include_str!("../tests/it/rude.wat")).expect("a component");
    let limits = Limits {
        memory_bytes: 64 << 20,
        answer_bytes: 1 << 20,
        calls: 8,
        warm: 16,
        fuel: None,
    };
    let plugin = Plugin::load(&runtime, &bytes, limits, Grants::default()).expect("a plugin");
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads");
    let host: Arc<dyn Host> = Arc::new(Deaf);
    let arguments = r#"{"text":"what a call usually brings","n":12}"#;
    let call = async || {
        let deadline = Instant::now() + Duration::from_secs(5);
        let answer = plugin.call_tool("echo", arguments, Arc::clone(&host), deadline);
        answer.await.expect("an answer").expect("no refusal")
    };
    // A pause between calls lets the next instance be made, as it is on a server that is not saturated.
    criterion.bench_function("warm call", |bencher| {
        bencher.iter_custom(|times| {
            tokio.block_on(async {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                    let began = Instant::now();
                    black_box(call().await);
                    spent += began.elapsed();
                }
                spent
            })
        });
    });
    criterion.bench_function("one call after the other", |bencher| {
        bencher.iter(|| black_box(tokio.block_on(call())));
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);

//! What a warm call of a component costs over a native built-in that does the same: both return their arguments, both under
//! a deadline, by turns in one run. Fails when the middle call costs more than the limit.
//!
//! `cargo bench -p wasm --bench overhead`

#![expect(clippy::print_stdout, reason = "the result of the command")]

use std::{
    fmt,
    hint::black_box,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use wasm::{Grants, Host, Level, Limits, Plugin, Runtime};

/// What the middle call may cost over the native one.
const LIMIT: Duration = Duration::from_micros(10);
/// Calls of each kind.
const CALLS: usize = 5_000;
/// Calls of each kind that are not counted.
const FIRST: usize = 500;
/// What a server that is not saturated has between two calls: time to make the next instance.
const PAUSE: Duration = Duration::from_micros(200);

const ARGUMENTS: &str = r#"{"text":"what a call usually brings","n":12}"#;

struct Deaf;

impl Host for Deaf {
    fn log(&self, _: Level, _: &str) {}
    fn progress(&self, _: f64, _: Option<f64>, _: Option<&str>) {}
    fn call(&self) -> Option<wasm::Call> {
        None
    }
}

/// A built-in as the app has them: a function behind a pointer, with a future of its own.
type Native = Box<dyn Fn(&str) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

struct Spent(Vec<Duration>);

impl Spent {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    fn at(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a short list"
        )]
        let index = ((self.0.len() - 1) as f64 * share) as usize;
        self.0[index]
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [middle, most, nearly_all] = [0.5, 0.9, 0.99].map(|share| self.at(share));
        write!(f, "p50 {middle:?}, p90 {most:?}, p99 {nearly_all:?}")
    }
}

fn main() -> ExitCode {
    let runtime = Runtime::start(None).expect("an engine");
    let bytes = wat::parse_str(include_str!("../tests/it/rude.wat")).expect("a component");
    let limits = Limits {
        memory_bytes: 64 << 20,
        answer_bytes: 1 << 20,
        calls: 8,
        warm: 4,
        fuel: None,
    };
    let plugin = Plugin::load(&runtime, &bytes, limits, Grants::default()).expect("a plugin");
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads");
    let (native, component) = tokio
        .block_on(tokio.spawn(by_turns(plugin)))
        .expect("no panic");
    let over = component.at(0.5).saturating_sub(native.at(0.5));
    println!(
        "native     {native}\ncomponent  {component}\nover       p50 {over:?}, limit {LIMIT:?}"
    );
    if over < LIMIT {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn by_turns(plugin: Plugin) -> (Spent, Spent) {
    let echo: Native = Box::new(|arguments| {
        let answer = arguments.to_owned();
        Box::pin(async move { Ok(answer) })
    });
    let host: Arc<dyn Host> = Arc::new(Deaf);
    let (mut native, mut component) = (Vec::new(), Vec::new());
    for turn in 0..FIRST + CALLS {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let deadline = began + Duration::from_secs(5);
        let answer = tokio::time::timeout_at(deadline.into(), echo(black_box(ARGUMENTS))).await;
        black_box(answer.expect("in time").expect("an answer"));
        let spent_native = began.elapsed();

        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let deadline = began + Duration::from_secs(5);
        let answer = plugin.call_tool("echo", black_box(ARGUMENTS), Arc::clone(&host), deadline);
        black_box(answer.await.expect("an answer").expect("no refusal"));
        let spent_component = began.elapsed();
        if turn >= FIRST {
            native.push(spent_native);
            component.push(spent_component);
        }
    }
    (Spent::of(native), Spent::of(component))
}

//! `cargo bench -p app --bench lists`: what a list costs that is merged from eight servers of a hundred tools each.
//!
//! The servers are processes; the clients ask over connections that they keep, one request after another, and read every page.
//! Fails when a warm page takes a millisecond or more at p99.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that cannot go on says so by a panic"
)]

#[path = "../tests/it/harness.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod harness;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use app::plugin::{
    Scopes,
    catalogue::{Catalogue, List},
    mounts::Spec,
};
use harness::{App, program, stdio};
use serde_json::{Value, json};

const UPSTREAMS: usize = 8;
/// Rounds over all pages whose times count, after as many that do not.
const ROUNDS: usize = 2000;
const P99_MAX: Duration = Duration::from_millis(1);

fn upstream(number: usize) -> Spec {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let server = format!("{workspace}/tests/clients/many_server.py");
    let table = format!("{workspace}/services/search/tests/tools.txt");
    stdio(
        &format!("u{number}"),
        program("python3", &[&server, &table]),
    )
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::with_capacity(1 << 20, stream))
    }

    /// One request: its answer, and the time from its first byte to the answer's last.
    fn page(&mut self, cursor: Option<&str>) -> (Vec<u8>, Duration) {
        let mut params = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}});
        if let Some(cursor) = cursor {
            params["cursor"] = json!(cursor);
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params});
        let body = body.to_string();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nAccept: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            line != "\r\n"
        } {
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        (answer, began.elapsed())
    }
}

/// Asks for every page so many times; what each took, and the size of the largest.
fn measure(url: &str, rounds: usize) -> (Vec<Duration>, usize) {
    let mut client = Client::connect(url);
    let (mut cursors, mut tools, mut largest) = (vec![None], 0, 0);
    while let Some(cursor) = cursors.last().cloned() {
        let (answer, _) = client.page(cursor.as_deref());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        tools += answer["result"]["tools"].as_array().unwrap().len();
        largest = largest.max(answer.to_string().len());
        match answer["result"]["nextCursor"].as_str() {
            Some(next) => cursors.push(Some(next.to_owned())),
            None => break,
        }
    }
    assert_eq!(tools, UPSTREAMS * 100);
    let all = std::iter::repeat_n(&cursors, rounds).flatten();
    let took = all.map(|cursor| client.page(cursor.as_deref()).1);
    (took.collect(), largest)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Times one decision: the best of several runs, each over many.
fn time(what: &str, times: u32, mut decide: impl FnMut()) {
    let runs = (0..10).map(|_| {
        let began = Instant::now();
        (0..times).for_each(|_| decide());
        began.elapsed() / times
    });
    println!("{what}: {:?}", runs.min().unwrap());
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(App::start((0..UPSTREAMS).map(upstream).collect()));
    let everybody = Scopes::default();
    time("a page from the catalogue", 100_000, || {
        let catalogue: std::sync::Arc<Catalogue> = app.mounts.seen_by(&everybody);
        std::hint::black_box(catalogue.page(List::Tools, None).unwrap());
    });
    time("the part of it that a caller sees, made anew", 10, || {
        std::hint::black_box(app.mounts.catalogue().without(&[(0, "u0".into())]));
    });
    measure(&app.url, ROUNDS);
    let (mut took, bytes) = measure(&app.url, ROUNDS);
    took.sort_unstable();
    let (p50, p99) = (percentile(&took, 50), percentile(&took, 99));
    println!(
        "tools/list over HTTP, {UPSTREAMS} upstreams, {} tools, pages of up to {bytes} bytes, {} requests: p50 {p50:?}, p99 {p99:?}",
        UPSTREAMS * 100,
        took.len()
    );
    runtime.block_on(app.mounts.stop());
    assert!(p99 < P99_MAX, "a warm page takes {p99:?} at p99");
}

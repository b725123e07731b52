//! Spans as a real OTLP/HTTP receiver gets them, and what a dead one costs.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use telemetry::{
    Metrics,
    trace::{Attempt, ServerRequest, TraceContext, Tracer, TracerOptions},
};

use crate::tools;

const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A running `oteltap`, ended with the test.
struct Collector {
    process: Child,
    endpoint: String,
    output: mpsc::Receiver<String>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself; waiting leaves no zombie either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Collector {
    /// Starts one on a free port. Another process may take the port first, so it tries again.
    fn start() -> Self {
        (0..5)
            .find_map(|_| Self::try_start())
            .expect("a port stays free for a moment")
    }

    fn try_start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut process = Command::new(tools::python_tool("oteltap", "oteltap==1.0.0"))
            .args(["--port", &port.to_string()])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (lines, output) = mpsc::channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| lines.send(line))
        });
        let mut collector = Self {
            process,
            endpoint: format!("http://127.0.0.1:{port}"),
            output,
        };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if collector.process.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "oteltap does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Some(collector)
    }

    /// The span of that name, as soon as it has come.
    fn span(&self, name: &str) -> Value {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let line = self
                .output
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("no span {name:?} came"));
            // Its first line is a greeting.
            match serde_json::from_str::<Value>(&line) {
                Ok(span) if span["name"] == name => return span,
                _ => {}
            }
        }
    }
}

/// `key=value` of each attribute, sorted.
fn attributes(span: &Value) -> Vec<String> {
    let shown = |value: &Value| {
        value["stringValue"]
            .as_str()
            .or(value["intValue"].as_str())
            .unwrap_or("?")
            .to_owned()
    };
    let pairs = span["attributes"].as_array().unwrap().iter();
    let mut pairs: Vec<_> = pairs
        .map(|pair| {
            format!(
                "{}={}",
                pair["key"].as_str().unwrap(),
                shown(&pair["value"])
            )
        })
        .collect();
    pairs.sort();
    pairs
}

fn tracer(endpoint: &str) -> Tracer {
    let options = TracerOptions {
        service: "sweetmcp-edge",
        instance: "edge-1",
        release: "abc",
        endpoint: Some(endpoint),
        sample_ratio: 1.0,
    };
    Tracer::new(&options).unwrap()
}

fn counted(name: &str) -> u64 {
    let text = Metrics::new("test", "1", "1").unwrap().encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn trace_01_a_collector_gets_server_and_attempt_spans() {
    let collector = Collector::start();
    let tracer = tracer(&collector.endpoint);
    let caller = TraceContext::from_text(Some(PARENT), Some("vendor=x"), None).unwrap();
    let served = caller.child();
    let request = ServerRequest {
        method: "POST",
        route: "/mcp",
        request_id: "r-1",
        client_addr: "127.0.0.1",
        protocol: "mcp",
    };
    let mut server = tracer.server_span(&served, &request);
    server.set_mcp("tools/call", "echo", "2025-06-18");
    server.set_caller("acme", "ann");
    let backend = Attempt {
        number: 2,
        backend: "app-1",
        release: "def",
        address: "127.0.0.1:9001",
    };
    let mut attempt = tracer.attempt_span(&served.child(), &backend);
    attempt.set_status(503);
    attempt.end();
    server.set_status(200);
    server.end();
    tracer.shutdown(PATIENCE);

    // The attempt ended first.
    let (attempt, server) = (collector.span("attempt"), collector.span("tools/call echo"));
    for span in [&attempt, &server] {
        assert_eq!(
            (span["traceId"].as_str(), span["traceState"].as_str()),
            (Some(TRACE), Some("vendor=x"))
        );
    }
    assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(attempt["parentSpanId"], server["spanId"]);
    // OTLP: SERVER and CLIENT; sampled, with a remote and a local parent; ERROR and UNSET.
    assert_eq!([&server["kind"], &attempt["kind"]], [2, 3]);
    assert_eq!([&server["flags"], &attempt["flags"]], [0x301, 0x101]);
    assert_eq!(
        [&server["status"]["code"], &attempt["status"]["code"]],
        [0, 2]
    );
    insta::assert_snapshot!(attributes(&server).join("\n"), @"
    client.address=127.0.0.1
    enduser.id=ann
    gen_ai.operation.name=execute_tool
    gen_ai.tool.name=echo
    http.request.method=POST
    http.response.status_code=200
    http.route=/mcp
    mcp.method.name=tools/call
    mcp.protocol.version=2025-06-18
    sweetmcp.protocol=mcp
    sweetmcp.request_id=r-1
    sweetmcp.tenant=acme
    ");
    insta::assert_snapshot!(attributes(&attempt).join("\n"), @"
    error.type=503
    http.request.method=POST
    http.request.resend_count=1
    http.response.status_code=503
    server.address=127.0.0.1
    server.port=9001
    sweetmcp.backend=app-1
    sweetmcp.backend_release=def
    ");
    assert!(counted("sweetmcp_trace_spans_exported_total ") >= 2);
}

#[test]
fn spans_name_the_process_they_come_from() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tracer = tracer(&format!("http://{}", listener.local_addr().unwrap()));
    tracer
        .server_span(&TraceContext::new_root(true), &ServerRequest::default())
        .end();
    // Strings of a protobuf stand in it as they are.
    let (mut connection, _) = listener.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let wanted = [
        "POST /v1/traces ",
        "service.name",
        "sweetmcp-edge",
        "service.instance.id",
        "edge-1",
    ];
    let (mut got, mut piece) = (String::new(), [0; 4096]);
    while !wanted.iter().all(|text| got.contains(text)) {
        let read = connection.read(&mut piece).unwrap();
        assert!(read > 0, "the request ended: {got:?}");
        got.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    drop(connection);
    tracer.shutdown(Duration::from_millis(10));
}

#[test]
fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    // Connections are accepted by the system and never served.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let tracer = tracer(&format!("http://{}", silent.local_addr().unwrap()));
    let full = r#"sweetmcp_trace_spans_lost_total{reason="queue_full"} "#;
    let before = counted(full);
    for _ in 0..10_000 {
        let root = TraceContext::new_root(true);
        tracer.server_span(&root, &ServerRequest::default()).end();
    }
    assert!(
        counted(full) - before >= 10_000 - 2 * 4096,
        "the queue is bounded"
    );
    tracer.shutdown(Duration::from_millis(10));
}

#[test]
fn what_is_not_sampled_is_not_recorded() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let tracer = tracer(&format!("http://{}", silent.local_addr().unwrap()));
    let request = ServerRequest::default();
    assert!(
        !tracer
            .server_span(&TraceContext::new_root(false), &request)
            .is_recording()
    );
    assert!(
        tracer
            .server_span(&TraceContext::new_root(true), &request)
            .is_recording()
    );
    assert!(
        !Tracer::default()
            .server_span(&TraceContext::new_root(true), &request)
            .is_recording()
    );
    tracer.shutdown(Duration::from_millis(10));
}

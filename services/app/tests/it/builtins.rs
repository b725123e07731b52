//! Built-in tools do what they say, and say what is wrong.

use app::plugin::builtin::Set;
use serde_json::{Value, json};

use crate::harness::{App, builtin};

async fn app(folder: &tempfile::TempDir) -> App {
    let database = folder.path().join("data.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection
        .execute_batch("CREATE TABLE fruit(name TEXT, price REAL, photo BLOB); INSERT INTO fruit VALUES ('fig', 1.5, x'00ff'), ('kiwi', 2, NULL);")
        .unwrap();
    App::start(vec![
        builtin("time", Set::Time),
        builtin("text", Set::Text),
        builtin("json", Set::Json),
        builtin("hash", Set::Hash),
        builtin(
            "sqlite",
            Set::Sqlite {
                path: Some(database),
            },
        ),
        builtin("memory", Set::Sqlite { path: None }),
        builtin(
            "files",
            Set::Files {
                root: folder.path().join("files"),
            },
        ),
        builtin(
            "http",
            Set::Http {
                allow_hosts: vec!["localhost:1".to_owned()],
            },
        ),
    ])
    .await
}

/// Whether `value` has everything that `part` has.
fn has(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| value.get(key).is_some_and(|value| has(value, part))),
        (value, part) => value == part,
    }
}

#[tokio::test]
async fn tools_answer_in_text_and_in_structure() {
    let folder = tempfile::tempdir().unwrap();
    let app = app(&folder).await;
    for (tool, arguments, part) in [
        (
            "time_convert",
            json!({"time": "2026-03-29T02:30:00", "from": "Europe/Berlin", "to": "UTC"}),
            json!({"ambiguous": true, "to": {"time": "2026-03-29T01:30:00+00:00"}}),
        ),
        (
            "time_between",
            json!({"start": "2026-01-31T00:00:00Z", "end": "2026-02-01T00:00:00Z"}),
            json!({"seconds": 86400.0}),
        ),
        (
            "text_stats",
            json!({"text": "zwei Wörter\nda"}),
            json!({"characters": 14, "words": 3, "lines": 2}),
        ),
        (
            "text_diff",
            json!({"before": "a\nb\n", "after": "a\nc\n"}),
            json!({"equal": false, "insertions": 1, "deletions": 1}),
        ),
        (
            "text_search",
            json!({"text": "a1\nb22", "pattern": "[a-z]([0-9]+)"}),
            json!({"truncated": false, "matches": [
            {"line": 1, "column": 1, "text": "a1", "groups": ["1"]}, {"line": 2, "column": 1, "text": "b22", "groups": ["22"]}]}),
        ),
        (
            "text_replace",
            json!({"text": "a1 b2", "pattern": "([a-z])([0-9])", "replacement": "$2$1"}),
            json!({"text": "1a 2b", "replacements": 2}),
        ),
        (
            "text_case",
            json!({"text": "HTTP server-name isOk", "to": "snake"}),
            json!({"text": "http_server_name_is_ok"}),
        ),
        (
            "json_query",
            json!({"document": {"a": [{"p": 1}, {"p": 5}]}, "path": "$.a[?@.p > 2].p"}),
            json!({"count": 1}),
        ),
        (
            "json_query",
            json!({"document": {"a": [7]}, "path": "/a/0"}),
            json!({"count": 1, "matches": [{"path": "/a/0", "value": 7}]}),
        ),
        (
            "json_validate",
            json!({"document": {"a": "x"}, "schema": {"properties": {"a": {"type": "integer"}}}}),
            json!({"valid": false}),
        ),
        (
            "json_format",
            json!({"text": "{\"a\":1}", "indent": 0}),
            json!({"text": "{\"a\":1}"}),
        ),
        (
            "hash_digest",
            json!({"text": "abc"}),
            json!({"hex": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3}),
        ),
        (
            "hash_encode",
            json!({"text": "é", "encoding": "hex"}),
            json!({"encoded": "c3a9"}),
        ),
        (
            "hash_decode",
            json!({"encoded": "_w", "encoding": "base64url"}),
            json!({"text": null, "hex": "ff"}),
        ),
        (
            "sqlite_query",
            json!({"sql": "SELECT name, price, photo FROM fruit WHERE price > ?1", "parameters": [1], "limit": 1}),
            json!({"columns": ["name", "price", "photo"], "rows": [["fig", 1.5, {"base64": "AP8="}]], "truncated": true}),
        ),
        (
            "memory_query",
            json!({"sql": "SELECT value FROM json_each(?1)", "parameters": [[1, "x"]]}),
            json!({"rows": [[1], ["x"]]}),
        ),
        (
            "files_write",
            json!({"path": "a/b.txt", "text": "one", "mode": "create"}),
            json!({"bytes": 3}),
        ),
        (
            "files_write",
            json!({"path": "a/b.txt", "text": "two", "mode": "replace"}),
            json!({"bytes": 3}),
        ),
        (
            "files_write",
            json!({"path": "a/b.txt", "text": "!", "mode": "append"}),
            json!({"bytes": 1}),
        ),
        (
            "files_read",
            json!({"path": "a/b.txt"}),
            json!({"text": "two!", "bytes": 4, "truncated": false}),
        ),
        (
            "files_list",
            json!({"depth": 2}),
            json!({"entries": [{"path": "a", "kind": "folder", "bytes": null}, {"path": "a/b.txt", "kind": "file", "bytes": 4}]}),
        ),
    ] {
        let answer = app.call(tool, arguments.clone()).await;
        assert_eq!(
            (answer.status, answer.outcome.as_str()),
            (200, "ok"),
            "{tool} {arguments}: {answer:?}"
        );
        let structured = &answer.body["result"]["structuredContent"];
        assert!(has(structured, &part), "{tool} {arguments}: {structured}");
        assert_eq!(*structured, answer.said(), "{tool}");
    }
}

#[tokio::test]
async fn refusals_say_why_and_walls_hold() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("files")).unwrap();
    std::os::unix::fs::symlink("/etc", folder.path().join("files/out")).unwrap();
    let app = app(&folder).await;
    for (tool, arguments, reason) in [
        (
            "time_now",
            json!({"zone": "Mars/Olympus"}),
            "is not an IANA time zone",
        ),
        (
            "text_search",
            json!({"text": "x", "pattern": "("}),
            "the pattern is not valid",
        ),
        (
            "text_search",
            json!({"text": "x", "pattern": "(((a{100}){100}){100}){100}"}),
            "the pattern is not valid",
        ),
        (
            "json_query",
            json!({"document": {}, "path": "$..a..b..c"}),
            "at most 2 descendant segments",
        ),
        (
            "json_query",
            json!({"document": {}, "path": "a"}),
            "must be a JSONPath",
        ),
        ("json_format", json!({"text": "{"}), "line 1 column 1"),
        (
            "hash_decode",
            json!({"encoded": "abc", "encoding": "hex"}),
            "odd number",
        ),
        (
            "sqlite_query",
            json!({"sql": "DELETE FROM fruit"}),
            "not authorized",
        ),
        (
            "sqlite_query",
            json!({"sql": "ATTACH '/etc/passwd' AS x"}),
            "not authorized",
        ),
        (
            "sqlite_query",
            json!({"sql": "PRAGMA query_only = OFF"}),
            "not authorized",
        ),
        (
            "sqlite_query",
            json!({"sql": "SELECT load_extension('x')"}),
            "not authorized",
        ),
        (
            "memory_query",
            json!({"sql": "CREATE TABLE t(a)"}),
            "not authorized",
        ),
        (
            "memory_query",
            json!({"sql": "SELECT length(randomblob(100000000))"}),
            "too big",
        ),
        (
            "files_read",
            json!({"path": "../data.db"}),
            "leaves the root",
        ),
        ("files_read", json!({"path": "out/passwd"}), "outside"),
        (
            "files_write",
            json!({"path": "out/x", "text": "", "mode": "create"}),
            "outside",
        ),
        (
            "files_write",
            json!({"path": "/tmp/x", "text": "", "mode": "create"}),
            "leaves the root",
        ),
        (
            "http_fetch",
            json!({"url": "http://169.254.169.254/"}),
            "not on the operator's list",
        ),
        (
            "http_fetch",
            json!({"url": "http://localhost:1/"}),
            "no public address",
        ),
        (
            "http_fetch",
            json!({"url": "file:///etc/passwd"}),
            "no host",
        ),
    ] {
        let answer = app.call(tool, arguments.clone()).await;
        assert_eq!(
            (answer.status, answer.outcome.as_str()),
            (200, "tool_error"),
            "{tool} {arguments}: {answer:?}"
        );
        let text = answer.body["result"]["content"][0]["text"]
            .as_str()
            .unwrap();
        assert!(text.contains(reason), "{tool} {arguments}: {text}");
    }
}

#[tokio::test]
async fn every_argument_that_does_not_fit_is_named() {
    let app = App::start(vec![builtin("text", Set::Text)]).await;
    let answer = app
        .call(
            "text_diff",
            json!({"before": 1, "context": -1, "extra": true}),
        )
        .await;
    assert_eq!(answer.outcome, "tool_error");
    let text = answer.body["result"]["content"][0]["text"]
        .as_str()
        .unwrap();
    for part in ["/before:", "/context:", "extra", "\"after\""] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[tokio::test]
async fn endless_work_ends_at_the_deadline() {
    let app = App::start(vec![builtin("sqlite", Set::Sqlite { path: None })]).await;
    let endless = json!({"name": "sqlite_query", "arguments": {"sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"}});
    let answer = app
        .ask_with("tools/call", endless, &[("sweetmcp-deadline-ms", "300")])
        .await;
    // Either the statement was interrupted in time to say so, or the deadline answered.
    assert!(
        answer.outcome == "tool_error" || (answer.status, answer.code()) == (504, -31504),
        "{answer:?}"
    );
    assert_eq!(
        app.call("sqlite_query", json!({"sql": "SELECT 1"}))
            .await
            .outcome,
        "ok"
    );
}

#[tokio::test]
async fn a_schema_that_refers_to_itself_harms_nobody() {
    let app = App::start(vec![builtin("json", Set::Json)]).await;
    for schema in [
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"$ref": "http://127.0.0.1:1/x.json"}),
        json!({"pattern": "(a+)+$"}),
    ] {
        let answer = app
            .call(
                "json_validate",
                json!({"document": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "schema": schema}),
            )
            .await;
        assert_eq!(answer.status, 200, "{schema}: {answer:?}");
    }
}

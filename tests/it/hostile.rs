//! Bad tokens, bad bodies, too much: the protocol's own error, and nobody else is harmed.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use testkit::{Client, Fleet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GENEROUS: &str = "[edge]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ncapnp_listen = \"127.0.0.1:0\"\n[fleet]\napps = 1\n";

#[tokio::test]
async fn bad_tokens_get_the_protocols_own_401() -> Result<()> {
    let fleet = Fleet::up(GENEROUS).await?;
    for (case, token) in bad_tokens(&fleet)? {
        let client = Client::new(&token)?;
        let mcp = client
            .mcp(&fleet.status.endpoints.mcp, "tools/list", json!({}))
            .await?;
        assert_eq!(mcp.status, 401, "{case}");
        assert!(
            mcp.header("www-authenticate").starts_with("Bearer"),
            "{case}"
        );
        assert!(
            mcp.json["error"]["code"].is_i64() && mcp.json["jsonrpc"] == "2.0",
            "{case}"
        );

        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        for url in [
            &fleet.status.endpoints.jsonrpc,
            &fleet.status.endpoints.batch,
        ] {
            let plain = client.post_json(url, &body).await?;
            assert_eq!(
                (plain.status, plain.json["error"]["code"].is_i64()),
                (401, true),
                "{case}"
            );
        }
        let graphql = client
            .post_json(
                &fleet.status.endpoints.graphql,
                &json!({"query": "{ __typename }"}),
            )
            .await?;
        assert_eq!(graphql.status, 401, "{case}");
        assert_eq!(
            graphql.json["errors"][0]["extensions"]["code"], "UNAUTHENTICATED",
            "{case}"
        );
        assert!(
            token.is_empty() || !mcp.text.contains(&token),
            "{case}: a token is never echoed"
        );
    }
    Ok(())
}

fn bad_tokens(fleet: &Fleet) -> Result<Vec<(&'static str, String)>> {
    let pkcs8 = std::fs::read(fleet.state().join("keys/jwt.pk8"))?;
    let payload = fleet
        .token
        .split('.')
        .nth(1)
        .context("a token has three parts")?;
    let good: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let sign = |key: &EncodingKey, change: Value| -> Result<String> {
        let mut header: Header = jsonwebtoken::decode_header(&fleet.token)?;
        header.alg = Algorithm::EdDSA;
        let mut claims = good.clone();
        for (name, value) in change.as_object().context("an object")? {
            claims[name] = value.clone();
        }
        Ok(jsonwebtoken::encode(&header, &claims, key)?)
    };
    let ours = EncodingKey::from_ed_der(&pkcs8);
    let strange = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(
        &aws_lc_rs::rand::SystemRandom::new(),
    )?;
    let strange = EncodingKey::from_ed_der(strange.as_ref());
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    Ok(vec![
        ("no token", String::new()),
        ("expired", sign(&ours, json!({"exp": 1_000_000_000}))?),
        (
            "another audience",
            sign(&ours, json!({"aud": "elsewhere"}))?,
        ),
        ("wrongly signed", sign(&strange, json!({}))?),
        ("alg none", format!("{none}.{payload}.")),
        ("garbage", "x.y.z".to_owned()),
    ])
}

#[tokio::test]
async fn past_the_rate_a_caller_waits_and_others_do_not() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "{GENEROUS}[edge.rate]\nper_second = 2\nburst = 5\n"
    ))
    .await?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let url = &fleet.status.endpoints.jsonrpc;
    let mut refused = None;
    for _ in 0..20 {
        let answer = fleet.client().post_json(url, &body).await?;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.context("never refused")?;
    assert!(refused.header("retry-after").parse::<u64>()? >= 1);
    assert_eq!(refused.json["error"]["data"]["retryable"], true);
    let mcp = fleet
        .client()
        .mcp(&fleet.status.endpoints.mcp, "tools/list", json!({}))
        .await?;
    assert_eq!(mcp.status, 429, "one bucket for all front doors");

    let other = Client::new(&fleet.mint(&["--subject", "somebody-else"]).await?)?;
    assert_eq!(other.post_json(url, &body).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn bad_bodies_leave_the_connection_usable() -> Result<()> {
    let fleet = Fleet::up(GENEROUS).await?;
    let good = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (path, body, status, marker) in [
        ("/mcp/v1/jsonrpc", &b"{\"jsonrpc\": "[..], 400, "-32700"),
        ("/mcp/v1/jsonrpc", b"\xff\xfe", 400, "-32700"),
        ("/mcp/v1/jsonrpc", b"42", 400, "-32600"),
        ("/mcp/v1/batch", b"[]", 400, "-32600"),
        ("/mcp", b"{", 400, "-32700"),
        ("/graphql", br#"{"query":"{ unclosed"}"#, 400, "errors"),
        ("/graphql", b"{", 400, "errors"),
    ] {
        let mut socket = Keepalive::connect(&fleet).await?;
        let (got, text) = socket.post(path, body).await?;
        assert_eq!(got, status, "{path}: {text}");
        assert!(text.contains(marker), "{path}: {text}");
        let (next, text) = socket.post("/mcp/v1/jsonrpc", good).await?;
        assert_eq!(
            (next, text.contains("result")),
            (200, true),
            "after {path}: {text}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_announced_or_not() -> Result<()> {
    let fleet = Fleet::up(GENEROUS).await?;
    let big = vec![b' '; 11 << 20];
    for path in ["/mcp", "/mcp/v1/jsonrpc", "/graphql"] {
        let mut socket = Keepalive::connect(&fleet).await?;
        let (status, text) = socket.post(path, &big).await?;
        assert_eq!(status, 413, "{path}: {text}");
        let good = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let (next, text) = socket.post("/mcp/v1/jsonrpc", good).await?;
        assert_eq!(next, 200, "after {path}: {text}");
    }
    let pieces =
        futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    let request = fleet
        .client()
        .post(&fleet.status.endpoints.jsonrpc)
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(fleet.client().send(request).await?.status, 413);
    assert!(fleet.call_tool("time_now", json!({})).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn short_requests_are_answered_and_silent_or_broken_connections_end() -> Result<()> {
    let fleet = Fleet::up(&GENEROUS.replace(
        "[fleet]",
        "[edge.http]\nheader_timeout = \"300ms\"\nidle_timeout = \"1s\"\n[fleet]",
    ))
    .await?;
    let good = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let host = "Host: x\r\n";
    let auth = format!(
        "Authorization: Bearer {}\r\nContent-Type: application/json\r\n",
        fleet.token
    );
    let broken = format!(
        "POST /mcp/v1/jsonrpc HTTP/1.1\r\n{host}{auth}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n"
    );
    for (sent, starts) in [
        // Shorter than the preface of HTTP/2, for which nobody must wait.
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 404"),
        ("", ""),
        ("P", ""),
        ("PRI * HTTP/2.0", ""),
        ("GET /mcp HT", ""),
        ("\u{1}\u{2}\u{3}\u{4}\r\n\r\n", "HTTP/1.1 400"),
        (&broken, "HTTP/1.1 400"),
    ] {
        let mut socket = Keepalive::connect(&fleet).await?.socket;
        socket.write_all(sent.as_bytes()).await?;
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        tokio::time::timeout(std::time::Duration::from_secs(20), ended)
            .await
            .with_context(|| format!("still open after {sent:?}"))?
            .with_context(|| format!("after {sent:?}"))?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(starts), "{sent:?}: {answer}");
    }
    let (status, _) = Keepalive::connect(&fleet)
        .await?
        .post("/mcp/v1/jsonrpc", good)
        .await?;
    assert_eq!(status, 200);
    Ok(())
}

#[tokio::test]
async fn every_endpoint_may_have_a_body_limit_of_its_own() -> Result<()> {
    let limits = "[edge.http]\nbody_limit_mcp = \"4KiB\"\nbody_limit_jsonrpc = \"8KiB\"\nbody_limit_batch = \"16KiB\"\nbody_limit_graphql = \"32KiB\"\n[fleet]";
    let fleet = Fleet::up(&GENEROUS.replace("[fleet]", limits)).await?;
    for (path, kib) in [
        ("/mcp", 4),
        ("/mcp/v1/jsonrpc", 8),
        ("/mcp/v1/batch", 16),
        ("/graphql", 32),
    ] {
        let mut socket = Keepalive::connect(&fleet).await?;
        let (fits, text) = socket.post(path, &vec![b' '; kib << 10]).await?;
        assert_eq!(fits, 400, "{path}: {text}");
        let (over, text) = socket.post(path, &vec![b' '; (kib << 10) + 1]).await?;
        assert_eq!(over, 413, "{path}: {text}");
    }
    Ok(())
}

/// Most memory that a process has held, in KiB.
pub(crate) fn peak_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmHWM")?.trim().parse()?)
}

#[tokio::test]
async fn a_thousand_clients_with_oversized_bodies_fill_no_memory() -> Result<()> {
    let limits = "[edge.http]\nbody_limit = \"256KiB\"\nbody_memory_limit = \"8MiB\"\n[fleet]";
    let fleet = Fleet::up(&GENEROUS.replace("[fleet]", limits)).await?;
    let edge = fleet
        .status
        .instances
        .iter()
        .find(|i| i.role == "edge")
        .context("an edge")?
        .pid;
    fleet.call_tool("time_now", json!({})).await?;
    let before = peak_kib(edge)?;
    let head = format!(
        "POST /mcp/v1/jsonrpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        fleet.token
    );
    let piece = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
    // All are open before any goes on, so that all bodies are under way at once.
    let mut sockets = Vec::new();
    for _ in 0..1000 {
        let mut socket = Keepalive::connect(&fleet).await?.socket;
        socket.write_all(head.as_bytes()).await?;
        sockets.push(socket);
    }
    let answers = sockets.into_iter().map(|mut socket| {
        let piece = piece.clone();
        async move {
            let (mut reader, mut writer) = socket.split();
            let write = async {
                for _ in 0..5 {
                    writer.write_all(&piece).await?;
                }
                writer.write_all(b"0\r\n\r\n").await
            };
            let (answer, _) = tokio::join!(read_answer(&mut reader), write);
            answer.map(|(status, _)| status)
        }
    });
    let answers: Vec<u16> = futures::future::try_join_all(answers).await?;
    // Too large, or no room to find out.
    assert!(
        answers.iter().all(|status| [413, 503].contains(status)),
        "{answers:?}"
    );
    assert!(answers.contains(&413));
    let grown = peak_kib(edge)? - before;
    // Connections and their buffers, and 8 MiB of bodies; all bodies together would be 320 MB.
    assert!(grown < 160 << 10, "{grown} KiB more");
    fleet.call_tool("time_now", json!({})).await?;
    Ok(())
}

#[tokio::test]
async fn each_entry_of_a_batch_is_charged_alone() -> Result<()> {
    let fleet = Fleet::up(&format!(
        "{GENEROUS}[edge.rate]\nper_second = 1\nburst = 5\n"
    ))
    .await?;
    let entry = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    let batch: Vec<Value> = (0..40).map(entry).collect();
    let answer = fleet
        .client()
        .post_json(&fleet.status.endpoints.batch, &json!(batch))
        .await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let entries = answer.json.as_array().context("an array")?;
    let ids: Vec<u64> = entries.iter().filter_map(|e| e["id"].as_u64()).collect();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    let served = entries.iter().filter(|e| e["result"].is_object()).count();
    let limited = entries
        .iter()
        .filter(|e| e["error"]["code"] == -31429)
        .count();
    // Five at once, and one more for each second that it took.
    assert!((5..20).contains(&served), "{served} of 40 were served");
    assert_eq!(served + limited, 40, "{}", answer.text);
    Ok(())
}

#[tokio::test]
async fn garbage_on_the_capnp_port_harms_its_own_connection_alone() -> Result<()> {
    let fleet = Fleet::up(GENEROUS).await?;
    let address = &fleet.status.endpoints.capnp;
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    for (case, bytes) in [
        ("text", b"GET / HTTP/1.1\r\n\r\n".repeat(8)),
        (
            "a message past the limit",
            words(&[0x1000_0000 << 32, 0, 0]),
        ),
        ("too many segments", words(&[0xffff_fff0])),
        (
            "a pointer out of bounds",
            words(&[1 << 32, 0x7fff_ffff_0000_0000]),
        ),
        (
            "a pointer to itself",
            words(&[1 << 32, 0x0001_0000_ffff_fffc]),
        ),
    ] {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(&bytes).await.context(case)?;
        socket.shutdown().await.context(case)?;
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        // An abort message or none, reset or not: but the connection ends.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(20), ended)
            .await
            .with_context(|| format!("{case}: still open"))?;
        fleet.call_tool("time_now", json!({})).await.context(case)?;
    }
    Ok(())
}

#[tokio::test]
async fn strange_origins_and_methods_are_refused() -> Result<()> {
    let fleet = Fleet::up(GENEROUS).await?;
    let url = &fleet.status.endpoints.mcp;
    let client = fleet.client();
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let evil = client
        .send(
            client
                .post(url)
                .header("origin", "https://evil.example")
                .json(&body),
        )
        .await?;
    assert_eq!(evil.status, 403);
    let get = client.send(client.get(url)).await?;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    let form = client.send(client.post(url).body("a=b")).await?;
    assert_eq!(form.status, 415);
    let version = client
        .send(
            client
                .post(url)
                .header("mcp-protocol-version", "2031-01-01")
                .json(&body),
        )
        .await?;
    assert_eq!(
        (version.status, &version.json["error"]["code"]),
        (400, &json!(-32022))
    );
    let lying = client
        .send(
            client
                .post(url)
                .header("mcp-protocol-version", "2026-07-28")
                .header("mcp-method", "tools/list")
                .json(&body),
        )
        .await?;
    assert_eq!(
        (lying.status, &lying.json["error"]["code"]),
        (400, &json!(-32020))
    );
    let nowhere = client
        .send(client.get(&url.replace("/mcp", "/nowhere")))
        .await?;
    assert_eq!(nowhere.status, 404);
    Ok(())
}

/// One connection, by hand, so that it is certain which request went over it.
struct Keepalive {
    socket: TcpStream,
    token: String,
}

impl Keepalive {
    async fn connect(fleet: &Fleet) -> Result<Keepalive> {
        let url = reqwest::Url::parse(&fleet.status.endpoints.mcp)?;
        let address = (url.host_str().context("host")?, url.port().context("port")?);
        Ok(Keepalive {
            socket: TcpStream::connect(address).await?,
            token: fleet.token.clone(),
        })
    }

    async fn post(&mut self, path: &str, body: &[u8]) -> Result<(u16, String)> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let (mut reader, mut writer) = self.socket.split();
        // Written and read at once: an answer may come before the body has been taken.
        let write = async {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(body).await
        };
        let (answer, written) = tokio::join!(read_answer(&mut reader), write);
        written.context("the connection was closed while the body was being sent")?;
        answer
    }
}

async fn read_answer(reader: &mut (impl AsyncReadExt + Unpin)) -> Result<(u16, String)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        anyhow::ensure!(
            reader.read_buf(&mut bytes).await? > 0,
            "closed without an answer"
        );
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let status: u16 = text.split(' ').nth(1).context("status")?.parse()?;
    let length: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .context("length")?
        .trim()
        .parse()?;
    while bytes.len() < head + length {
        anyhow::ensure!(
            reader.read_buf(&mut bytes).await? > 0,
            "closed in mid-answer"
        );
    }
    Ok((
        status,
        String::from_utf8_lossy(&bytes[head..head + length]).into_owned(),
    ))
}

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

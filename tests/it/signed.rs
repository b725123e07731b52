//! Signed requests (RFC 9421): what was changed, comes late or comes again is refused, at the real edge.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use testkit::{Answer, Client, Fleet, eventually};

use crate::clients::in_python;
use crate::events::redis;

const PATIENCE: Duration = Duration::from_secs(20);
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"hash_digest","arguments":{"text":"abc"}}}"#;

/// A key that requests are signed with.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Result<Signer> {
        let pair = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("no key"))?;
        Ok(Signer { id, pair })
    }

    fn jwk(&self, subject: Option<&str>) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x, "sub": subject})
    }

    /// The headers of a signed POST.
    fn sign(&self, url: &str, token: &str, body: &str, made: &Made<'_>) -> Result<HeaderMap> {
        let url: reqwest::Url = url.parse()?;
        let authority = format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(80)
        );
        let authorization = format!("Bearer {token}");
        let digest = STANDARD.encode(digest(&SHA256, body.as_bytes()));
        let content_digest = format!("sha-256=:{digest}:");
        let covered = [
            ("@method", "POST"),
            ("@authority", authority.as_str()),
            ("@path", url.path()),
            ("authorization", authorization.as_str()),
            ("content-digest", content_digest.as_str()),
        ];
        let names: Vec<String> = covered
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let params = format!(
            "({});created={};keyid=\"{}\";nonce=\"{}\"",
            names.join(" "),
            made.at,
            self.id,
            made.nonce
        );
        let lines: String = covered
            .iter()
            .map(|(name, value)| format!("\"{name}\": {value}\n"))
            .collect();
        let base = format!("{lines}\"@signature-params\": {params}");
        let signature = STANDARD.encode(self.pair.sign(base.as_bytes()));
        let mut head = HeaderMap::new();
        for (name, value) in [
            ("authorization", authorization.clone()),
            ("content-digest", content_digest.clone()),
            ("content-type", "application/json".to_owned()),
            ("signature-input", format!("sig={params}")),
            ("signature", format!("sig=:{signature}:")),
        ] {
            head.insert(name, HeaderValue::from_str(&value)?);
        }
        Ok(head)
    }
}

/// When a request was signed, and with which nonce.
struct Made<'a> {
    at: u64,
    nonce: &'a str,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Sends a POST on a connection of its own, which any edge may take.
async fn post(url: &str, head: HeaderMap, body: &str) -> Result<Answer> {
    let client = Client::new("")?;
    let request = client.post(url).headers(head).body(body.to_owned());
    client.send(request).await
}

fn refused(answer: &Answer, why: &str) {
    let error = &answer.json["error"];
    assert_eq!(answer.status, 403, "{}", answer.text);
    assert_eq!(error["code"], -31403, "{}", answer.text);
    let said = error["message"].as_str().unwrap_or_default();
    assert!(said.contains(why), "{said} does not say {why}");
    assert!(answer.header("accept-signature").contains("@method"));
}

#[tokio::test]
async fn requests_that_were_changed_are_late_or_are_repeated_are_refused_by_every_edge()
-> Result<()> {
    let (own, theirs) = (Signer::new("own")?, Signer::new("theirs")?);
    let set = json!({"keys": [own.jwk(None), theirs.jwk(Some("somebody"))]});
    let file = testkit::workspace().join(format!(
        "target/test-fleets/signers-{}.json",
        std::process::id()
    ));
    std::fs::create_dir_all(file.parent().context("a folder")?)?;
    std::fs::write(&file, set.to_string())?;
    let (mut redis, redis_url) = redis().await?;
    let fleet = Fleet::up(&format!(
        "[edge.signatures]\nkeys_file = \"{}\"\nrequired_paths = [\"/mcp*\"]\nrequired_subjects = [\"bot-*\"]\n[edge.redis]\nurl = \"{redis_url}\"\ntimeout = \"1s\"\n[fleet]\napps = 1\nedges = 2\n",
        file.display()
    ))
    .await?;
    let (url, token) = (&fleet.status.endpoints.jsonrpc, fleet.token.as_str());
    let good = |nonce: &str| own.sign(url, token, PING, &Made { at: now(), nonce });

    let served = post(url, good("first-nonce")?, PING).await?;
    assert!(served.text.contains("ba7816bf"), "{}", served.text);

    // Repeated, at whichever edge.
    let head = good("second-nonce")?;
    assert_eq!(post(url, head.clone(), PING).await?.status, 200);
    for _ in 0..12 {
        refused(
            &post(url, head.clone(), PING).await?,
            "nonce was used before",
        );
    }
    // Changed: the body, the path, a header. None of it uses up the nonce.
    let head = good("third-nonce")?;
    refused(
        &post(url, head.clone(), &PING.replace("abc", "abd")).await?,
        "body is not the one",
    );
    refused(
        &post(&fleet.status.endpoints.batch, head.clone(), PING).await?,
        "does not hold",
    );
    let mut other = head.clone();
    other.insert("content-digest", HeaderValue::from_static("sha-256=:AAAA:"));
    refused(&post(url, other, PING).await?, "does not hold");
    assert_eq!(post(url, head, PING).await?.status, 200);
    // Late, early, by nobody that is known, in somebody else's name, or not at all.
    for (at, why) in [(now() - 331, "too old"), (now() + 60, "future")] {
        let made = Made {
            at,
            nonce: "some-other-nonce",
        };
        refused(
            &post(url, own.sign(url, token, PING, &made)?, PING).await?,
            why,
        );
    }
    let made = Made {
        at: now(),
        nonce: "some-other-nonce",
    };
    let unknown = Signer::new("unknown")?.sign(url, token, PING, &made)?;
    refused(&post(url, unknown, PING).await?, "key that is known");
    let foreign = theirs.sign(url, token, PING, &made)?;
    refused(&post(url, foreign, PING).await?, "another subject's");
    let mut unsigned = good("fourth-nonce")?;
    unsigned.remove("signature-input");
    unsigned.remove("signature");
    refused(&post(url, unsigned.clone(), PING).await?, "must be signed");
    refused(
        &post(&fleet.status.endpoints.mcp, unsigned.clone(), PING).await?,
        "must be signed",
    );
    // Where nobody must, nobody needs to.
    let query = r#"{"query":"{ __typename }"}"#;
    let graphql = &fleet.status.endpoints.graphql;
    assert_eq!(post(graphql, unsigned, query).await?.status, 200);

    who_must_sign_everywhere(&fleet, &own)
        .await
        .context("bot-1")?;

    // Without Redis each edge goes on alone.
    redis.kill().await?;
    for nonce in ["without-redis-1", "without-redis-2"] {
        let served = post(url, good(nonce)?, PING).await?;
        assert_eq!(served.status, 200, "{}", served.text);
    }
    // A key that is taken away signs nothing more.
    std::fs::write(&file, json!({"keys": [theirs.jwk(None)]}).to_string())?;
    eventually(PATIENCE, || async {
        let nonce = format!("after-{}", now());
        let answer = post(url, good(&nonce)?, PING).await?;
        ensure!(answer.status == 403, "{}", answer.text);
        Ok(())
    })
    .await?;
    std::fs::remove_file(&file)?;
    Ok(())
}

/// A subject that must sign can call where signatures are, and only there.
async fn who_must_sign_everywhere(fleet: &Fleet, own: &Signer) -> Result<()> {
    let token = fleet.mint(&["--subject", "bot-1"]).await?;
    let graphql = &fleet.status.endpoints.graphql;
    let query = r#"{"query":"{ __typename }"}"#;
    let made = Made {
        at: now(),
        nonce: "nonce-of-the-bot",
    };
    let head = own.sign(graphql, &token, query, &made)?;
    assert_eq!(post(graphql, head.clone(), query).await?.status, 200);
    let mut unsigned = head;
    unsigned.remove("signature-input");
    unsigned.remove("signature");
    let answer = post(graphql, unsigned, query).await?;
    let extensions = &answer.json["errors"][0]["extensions"];
    assert_eq!(
        (answer.status, &extensions["code"]),
        (403, &json!("SIGNATURE_REFUSED")),
        "{}",
        answer.text
    );

    let schema = testkit::workspace().join("services/translate/schema/mcp.capnp");
    let schema = schema.display().to_string();
    let ws = graphql
        .replacen("http", "ws", 1)
        .replace("/graphql", "/mcp/v1/ws");
    let said = in_python(
        "unsigned_client.py",
        &[&ws, &fleet.status.endpoints.capnp, &token, &schema],
    )
    .await?;
    assert_eq!(said["websocket"], 403, "{said}");
    assert!(
        said["capnp"].to_string().contains("must be signed"),
        "{said}"
    );
    Ok(())
}

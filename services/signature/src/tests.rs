//! The examples of RFC 9421, and what must not pass.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"a secret of thirty-two bytes....";
const NOW: u64 = 1_800_000_000;
const RULES: Rules = Rules {
    age_max: Duration::from_secs(300),
    leeway: Duration::from_secs(30),
};
const COVERED: &str = r#"("@method" "@authority" "@path" "authorization" "content-digest")"#;
const BODY: &str = r#"{"jsonrpc":"2.0"}"#;

fn keys() -> Keys {
    let k = URL_SAFE_NO_PAD.encode(SECRET);
    // The Ed25519 key of RFC 9421, appendix B.1.4.
    let text = format!(
        r#"{{"keys":[{{"kty":"oct","kid":"shared","k":"{k}","sub":"ana"}},
        {{"kty":"OKP","crv":"Ed25519","kid":"test-key-ed25519","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}}]}}"#
    );
    Keys::from_jwks(&text).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// A request as a client signs it: what is covered, and with which parameters.
fn signed(covered: &str, parameters: &str) -> HeaderMap {
    let digest = STANDARD.encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        BODY.as_bytes(),
    ));
    let mut head = headers(&[
        ("host", "Edge.example:80"),
        ("authorization", "Bearer t"),
        ("content-digest", &format!("sha-256=:{digest}:")),
    ]);
    let value = |name: &str| match name {
        "@method" => "POST".to_owned(),
        "@authority" => "edge.example".to_owned(),
        "@path" => "/mcp".to_owned(),
        "@query" => "?".to_owned(),
        name => head
            .get(name)
            .map_or("", |v| v.to_str().unwrap())
            .to_owned(),
    };
    let names = covered.trim_matches(['(', ')']).split(' ');
    let lines = names
        .filter(|name| !name.is_empty())
        .map(|name| format!("{name}: {}\n", value(name.trim_matches('"'))));
    let base = lines.collect::<String>() + &format!("\"@signature-params\": {covered}{parameters}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), base.as_bytes());
    let (input, signature) = (
        format!("sig={covered}{parameters}"),
        format!("sig=:{}:", STANDARD.encode(tag)),
    );
    for (name, value) in [("signature-input", input), ("signature", signature)] {
        head.insert(name, HeaderValue::from_str(&value).unwrap());
    }
    head
}

fn parameters(created: u64, more: &str) -> String {
    format!(r#";created={created};keyid="shared";nonce="abcdefgh"{more}"#)
}

fn outcome(head: &HeaderMap) -> Result<Signed, Refused> {
    let request = Request {
        method: "POST",
        path: "/mcp",
        query: None,
        headers: head,
    };
    verify(&keys(), &RULES, &request, NOW)
}

#[test]
fn the_base_and_signature_of_rfc_9421_b_2_6_hold() {
    let head = headers(&[
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-length", "18"),
        (
            "signature-input",
            r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
        ),
        (
            "signature",
            "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        ),
    ]);
    let request = Request {
        method: "POST",
        path: "/foo",
        query: Some("param=Value&Pet=dog"),
        headers: &head,
    };
    // It holds, and covers less than is asked for here.
    let now = 1_618_884_480;
    assert_eq!(
        verify(&keys(), &RULES, &request, now),
        Err(Refused::Parameters)
    );
    let other = Request {
        path: "/bar",
        ..request
    };
    assert_eq!(verify(&keys(), &RULES, &other, now), Err(Refused::Wrong));
}

#[test]
fn a_signed_request_names_its_key_and_its_body() {
    let signed = outcome(&signed(COVERED, &parameters(NOW, ""))).unwrap();
    assert_eq!(
        (
            signed.key_id.as_str(),
            signed.subject.as_deref(),
            signed.nonce.as_str()
        ),
        ("shared", Some("ana"), "abcdefgh")
    );
    assert!(signed.is_body(BODY.as_bytes()));
    assert!(!signed.is_body(b"{}"));
}

#[test]
fn what_is_late_early_or_covers_too_little_is_refused() {
    let few = |left_out: &str| {
        COVERED
            .replace(&format!("\"{left_out}\""), "")
            .replace("  ", " ")
    };
    for (covered, parameters, want) in [
        (COVERED.to_owned(), parameters(NOW - 330, ""), None),
        (
            COVERED.to_owned(),
            parameters(NOW - 331, ""),
            Some(Refused::Late),
        ),
        (COVERED.to_owned(), parameters(NOW + 30, ""), None),
        (
            COVERED.to_owned(),
            parameters(NOW + 31, ""),
            Some(Refused::Early),
        ),
        (
            COVERED.to_owned(),
            parameters(NOW - 60, &format!(";expires={}", NOW - 31)),
            Some(Refused::Late),
        ),
        (
            COVERED.to_owned(),
            parameters(NOW, ";expires=\"x\""),
            Some(Refused::Parameters),
        ),
        (
            COVERED.to_owned(),
            parameters(NOW, ";alg=\"hmac-sha256\""),
            None,
        ),
        (
            COVERED.to_owned(),
            parameters(NOW, ";alg=\"ed25519\""),
            Some(Refused::Wrong),
        ),
        (
            COVERED.to_owned(),
            format!(";created={NOW};keyid=\"shared\""),
            Some(Refused::Parameters),
        ),
        (
            COVERED.to_owned(),
            format!(";created={NOW};keyid=\"shared\";nonce=\"short\""),
            Some(Refused::Parameters),
        ),
        (
            COVERED.to_owned(),
            ";keyid=\"shared\";nonce=\"abcdefgh\"".to_owned(),
            Some(Refused::Parameters),
        ),
        (
            COVERED.to_owned(),
            format!(";created={NOW};keyid=\"other\";nonce=\"abcdefgh\""),
            Some(Refused::Key),
        ),
        (
            few("@method").replace("( ", "("),
            parameters(NOW, ""),
            Some(Refused::Covers),
        ),
        (few("@path"), parameters(NOW, ""), Some(Refused::Covers)),
        (
            few("authorization"),
            parameters(NOW, ""),
            Some(Refused::Covers),
        ),
        (
            few("content-digest").replace(" )", ")"),
            parameters(NOW, ""),
            Some(Refused::Covers),
        ),
        (
            r#"("@target-uri")"#.to_owned(),
            parameters(NOW, ""),
            Some(Refused::Component),
        ),
        (
            r#"("x-absent")"#.to_owned(),
            parameters(NOW, ""),
            Some(Refused::Component),
        ),
        (
            r#"("@path" "@path")"#.to_owned(),
            parameters(NOW, ""),
            Some(Refused::Unreadable),
        ),
    ] {
        let head = signed(&covered, &parameters);
        assert_eq!(outcome(&head).err(), want, "{covered}{parameters}");
    }
}

#[test]
fn whatever_is_changed_after_it_was_signed_is_refused() {
    let good = signed(COVERED, &parameters(NOW, ""));
    for (name, value, want) in [
        ("host", "other.example", Refused::Wrong),
        ("authorization", "Bearer u", Refused::Wrong),
        ("content-digest", "sha-256=:AAAA:", Refused::Wrong),
        ("signature", "sig=:AAAA:", Refused::Wrong),
        ("signature", "other=:AAAA:", Refused::Unreadable),
        ("signature", "sig=1", Refused::Unreadable),
        ("signature", "(", Refused::Unreadable),
        ("signature-input", "sig=1", Refused::Unreadable),
        (
            "signature-input",
            "a=(), b=(), c=(), d=(), e=()",
            Refused::Unreadable,
        ),
        // Not signed, and needed.
        ("mcp-session-id", "s", Refused::Covers),
    ] {
        let mut head = good.clone();
        head.insert(name, HeaderValue::from_static(value));
        assert_eq!(outcome(&head), Err(want), "{name}: {value}");
    }
    let request = |method, path, query| Request {
        method,
        path,
        query,
        headers: &good,
    };
    for (request, want) in [
        (request("PUT", "/mcp", None), Refused::Wrong),
        (request("POST", "/mcp/", None), Refused::Wrong),
        (request("POST", "/mcp", Some("")), Refused::Covers),
    ] {
        assert_eq!(
            verify(&keys(), &RULES, &request, NOW),
            Err(want),
            "{request:?}"
        );
    }
    let mut twice = good.clone();
    twice.append("authorization", HeaderValue::from_static("Bearer u"));
    assert_eq!(outcome(&twice), Err(Refused::Wrong));
}

#[test]
fn sets_that_cannot_be_used_say_why_and_nothing_of_the_key() {
    let short = URL_SAFE_NO_PAD.encode(b"short-secret");
    for (text, says) in [
        ("{".to_owned(), "JWKS"),
        (r#"{"keys":[]}"#.to_owned(), "1 to"),
        (
            format!(r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{short}"}}]}}"#),
            "32 bytes",
        ),
        (
            format!(r#"{{"keys":[{{"kty":"oct","k":"{short}"}}]}}"#),
            "no kid",
        ),
        (
            r#"{"keys":[{"kty":"RSA","kid":"a"}]}"#.to_owned(),
            "Ed25519",
        ),
        (
            r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AA","y":"AA"}]}"#.to_owned(),
            "32 bytes",
        ),
        (
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"*"}]}"#.to_owned(),
            "Base64url",
        ),
    ] {
        let error = Keys::from_jwks(&text).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains(&short), "{error}");
    }
    assert!(!format!("{:?}", keys()).contains("secret"));
}

proptest! {
    #[test]
    fn any_header_is_verified_or_refused(input in "\\PC{0,128}", signature in "\\PC{0,64}") {
        let mut head = signed(COVERED, &parameters(NOW, ""));
        if let (Ok(input), Ok(signature)) = (HeaderValue::from_str(&input), HeaderValue::from_str(&signature)) {
            head.insert("signature-input", input);
            head.insert("signature", signature);
            prop_assert!(outcome(&head).is_err());
        }
    }
}

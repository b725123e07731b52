//! The fleet's own keys, and the tokens they sign.
//!
//! A fleet on this machine needs no identity provider: the first start makes an Ed25519 key, publishes its
//! public half as a JWKS file that the edge reads, and `sweetops token` signs with it. The session key
//! seals the sessions of older clients so that any edge can open them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::failure::Failure;
use crate::state::{StateDir, read_optional, write_atomic};

/// What the first start made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Minted {
    /// At least one key was missing and has been made.
    New,
    /// Every key was there.
    Existing,
}

/// Makes the keys that are missing; never replaces one.
pub(crate) fn ensure(state: &StateDir) -> Result<Minted> {
    let (private, public, session) = paths(state);
    let mut minted = Minted::Existing;
    if read_optional(&private)?.is_none() {
        let pair = Ed25519KeyPair::generate()
            .map_err(|_| anyhow::anyhow!("the system gave no random bytes for a signing key"))?;
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)
            .map_err(|_| anyhow::anyhow!("the new signing key cannot be encoded"))?;
        write_atomic(&private, der.as_ref())?;
        minted = Minted::New;
    }
    let jwks = jwks(&signing_key(state)?)?;
    if read_optional(&public)?.as_deref() != Some(jwks.as_bytes()) {
        write_atomic(&public, jwks.as_bytes())?;
    }
    if read_optional(&session)?.is_none() {
        write_atomic(&session, random_hex::<32>()?.as_bytes())?;
        minted = Minted::New;
    }
    Ok(minted)
}

fn paths(state: &StateDir) -> (std::path::PathBuf, std::path::PathBuf, std::path::PathBuf) {
    let keys = state.keys();
    (
        keys.join("jwt.pk8"),
        keys.join("jwks.json"),
        keys.join("session.key"),
    )
}

fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0_u8; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
    Ok(hex(&bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

struct SigningKey {
    der: Vec<u8>,
    public: Vec<u8>,
    key_id: String,
}

fn signing_key(state: &StateDir) -> Result<SigningKey> {
    let (path, ..) = paths(state);
    let der = read_optional(&path)?.ok_or_else(|| {
        Failure::new(format!("there is no signing key at {}", path.display()))
            .hint("`sweetops up` makes one at the first start")
    })?;
    let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|e| {
        Failure::new(format!("{} is not an Ed25519 key: {e}", path.display()))
            .hint("remove the file and run `sweetops up`; tokens signed before will be refused")
    })?;
    let public = pair.public_key().as_ref().to_vec();
    let key_id = thumbprint(&public);
    Ok(SigningKey {
        der,
        public,
        key_id,
    })
}

/// The key's name: its JWK thumbprint (RFC 7638).
fn thumbprint(public: &[u8]) -> String {
    let x = URL_SAFE_NO_PAD.encode(public);
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref())
}

fn jwks(key: &SigningKey) -> Result<String> {
    let jwk = serde_json::json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
        "kid": key.key_id, "x": URL_SAFE_NO_PAD.encode(&key.public),
    }]});
    let text = serde_json::to_string_pretty(&jwk).context("cannot encode the public key")?;
    Ok(text + "\n")
}

/// What a token is to say.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    /// `iss`, as the edge expects it.
    pub(crate) issuer: String,
    /// `aud`, as the edge expects it.
    pub(crate) audience: String,
    /// `sub`: who calls.
    pub(crate) subject: String,
    /// `tenant`, if any.
    pub(crate) tenant: Option<String>,
    /// `scope`, space-separated.
    pub(crate) scope: String,
    /// How long the token is good for.
    pub(crate) ttl: Duration,
}

/// A signed token.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Token {
    /// The compact JWT.
    pub(crate) token: String,
    /// When it ends.
    pub(crate) expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

/// Signs a token with the fleet's key.
pub(crate) fn sign(state: &StateDir, request: &TokenRequest, now: Timestamp) -> Result<Token> {
    let key = signing_key(state)?;
    let expires_at = now
        .checked_add(request.ttl)
        .ok()
        .and_then(|at| Timestamp::from_second(at.as_second()).ok())
        .ok_or_else(|| {
            Failure::new("the token would outlive the calendar").hint("give a shorter --ttl")
        })?;
    let claims = Claims {
        iss: &request.issuer,
        aud: &request.audience,
        sub: &request.subject,
        iat: now.as_second(),
        exp: expires_at.as_second(),
        jti: uuid::Uuid::new_v4().to_string(),
        scope: &request.scope,
        tenant: request.tenant.as_deref(),
    };
    let header = Header {
        kid: Some(key.key_id),
        ..Header::new(Algorithm::EdDSA)
    };
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&key.der))
        .context("cannot sign the token")?;
    Ok(Token { token, expires_at })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn a_signed_token_verifies_with_the_published_key() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::locate(Some(home.path()), |_| None).unwrap();
        state.create().unwrap();
        assert_eq!(ensure(&state).unwrap(), Minted::New);
        let before = std::fs::read(state.keys().join("session.key")).unwrap();
        assert_eq!(ensure(&state).unwrap(), Minted::Existing);
        assert_eq!(
            std::fs::read(state.keys().join("session.key")).unwrap(),
            before
        );
        assert_eq!(before.len(), 64);
        for file in ["jwt.pk8", "jwks.json", "session.key"] {
            let mode = std::fs::metadata(state.keys().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }

        let request = TokenRequest {
            issuer: "sweetmcp".into(),
            audience: "fleet".into(),
            subject: "ana".into(),
            tenant: Some("acme".into()),
            scope: "mcp admin".into(),
            ttl: Duration::from_secs(60),
        };
        let token = sign(&state, &request, Timestamp::now()).unwrap();
        let jwks: JwkSet =
            serde_json::from_slice(&std::fs::read(state.keys().join("jwks.json")).unwrap())
                .unwrap();
        let header = jsonwebtoken::decode_header(&token.token).unwrap();
        let jwk = jwks.find(&header.kid.unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["fleet"]);
        validation.set_issuer(&["sweetmcp"]);
        let claims = jsonwebtoken::decode::<serde_json::Value>(
            &token.token,
            &DecodingKey::from_jwk(jwk).unwrap(),
            &validation,
        )
        .unwrap()
        .claims;
        assert_eq!(claims["sub"], "ana");
        assert_eq!(claims["tenant"], "acme");
        assert_eq!(claims["scope"], "mcp admin");
        assert_eq!(claims["exp"].as_i64(), Some(token.expires_at.as_second()));
    }

    #[test]
    fn without_keys_the_error_says_how_to_get_them() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::locate(Some(home.path()), |_| None).unwrap();
        let told = crate::failure::tell(&signing_key(&state).err().unwrap());
        assert_eq!(
            told.hint.as_deref(),
            Some("`sweetops up` makes one at the first start")
        );
    }
}

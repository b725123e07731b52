//! Who calls: a bearer token becomes a [`Caller`], or the request ends here.
//!
//! Keys come from a JWKS file and are read again when the file changes, so keys rotate without a restart;
//! a file that cannot be read leaves the keys in force. The algorithm is the key's, never the token's:
//! `none`, a public key used as an HMAC secret, and a `kid` that names no key all end in the same refusal.
//! A verified token is remembered until it expires, since verifying RS256 again on each call costs more
//! than everything else that the edge does to it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mcp::{Cause, Failure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::sync::Mutex;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8192;
/// Longest subject and tenant, in bytes; they enter headers and log lines.
const NAME_BYTES_MAX: usize = 256;
/// Most keys that a JWKS file may hold, and most bytes.
const KEYS_MAX: usize = 64;
const JWKS_BYTES_MAX: u64 = 1 << 20;
/// Verified tokens that are remembered at once.
const REMEMBERED_MAX: usize = 16_384;
/// How often the key file is looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// Who calls. Only [`Identity::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's `sub`.
    pub subject: String,
    /// The token's `tenant`, or `default`.
    pub tenant: String,
    scopes: Vec<String>,
    expires_unix_s: u64,
}

/// What only the edge itself has: it sees everything.
const EVERYTHING: &str = "*";

/// The scopes of a claim (RFC 6749, section 3.3); what is none is left out.
fn scopes(claim: &str) -> Vec<String> {
    let allowed = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    claim
        .split(' ')
        .filter(|scope| !scope.is_empty() && *scope != EVERYTHING && scope.bytes().all(allowed))
        .map(str::to_owned)
        .collect()
}

impl Caller {
    /// The edge itself, for what it asks in the background.
    #[must_use]
    pub fn edge() -> Caller {
        Caller {
            subject: "sweetmcp-edge".to_owned(),
            tenant: "default".to_owned(),
            scopes: vec![EVERYTHING.to_owned()],
            expires_unix_s: u64::MAX,
        }
    }

    /// Everything that the token grants.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Whether the token grants one of these, or none is needed.
    #[must_use]
    pub fn has_one_of(&self, needed: &[String]) -> bool {
        needed.is_empty() || needed.iter().any(|scope| self.has_scope(scope))
    }

    /// Whether the token grants a scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|s| s == scope)
    }

    /// A stable number for this principal, for limits and stickiness. Tenant and subject are kept apart
    /// by their lengths, so no two principals can be made to share one by choosing odd names.
    #[must_use]
    pub fn key(&self) -> u64 {
        let mut hash = Sha256::new();
        hash.update((self.tenant.len() as u64).to_le_bytes());
        hash.update(&self.tenant);
        hash.update(&self.subject);
        first_u64(&hash.finalize())
    }
}

/// The first eight bytes of a digest as a number.
pub(crate) fn first_u64(digest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

/// What tokens must say.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The `iss` that is trusted.
    pub issuer: String,
    /// The `aud` that a token must name.
    pub audience: String,
    /// Clocks may differ by this much.
    pub leeway: Duration,
}

/// The keys in force and the tokens they have verified.
pub struct Identity {
    keys: ArcSwap<Vec<Key>>,
    rules: Rules,
    remembered: Mutex<HashMap<[u8; 32], Arc<Caller>>>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    tenant: Option<String>,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no JWKS, or holds no key that can be used.
    #[error("{path} is no usable JWKS (RFC 7517): {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Identity {
    /// Loads the keys.
    ///
    /// # Errors
    /// When the file cannot be read or holds no usable key.
    pub fn load(path: &Path, rules: Rules) -> Result<Identity, KeysError> {
        Ok(Identity {
            keys: ArcSwap::from_pointee(read_keys(path)?),
            rules,
            remembered: Mutex::default(),
        })
    }

    /// Verifies an `Authorization` header's value.
    ///
    /// # Errors
    /// [`Cause::Unauthenticated`], with a text that says what is wrong with the token and nothing of
    /// what it holds.
    pub fn verify_header(&self, authorization: Option<&[u8]>) -> Result<Arc<Caller>, Failure> {
        let refuse = |text: &str| Failure::say(Cause::Unauthenticated, text);
        let value = authorization
            .ok_or_else(|| refuse("a bearer token is needed: send Authorization: Bearer TOKEN"))?;
        let token = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refuse("Authorization must be: Bearer TOKEN"))?;
        self.verify(token)
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// As [`Identity::verify_header`].
    pub fn verify(&self, token: &str) -> Result<Arc<Caller>, Failure> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Failure::say(
                Cause::Unauthenticated,
                "the token is too long",
            ));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let now = unix_seconds();
        if let Some(caller) = self.recall(&digest, now) {
            return Ok(caller);
        }
        let caller = Arc::new(self.check(token)?);
        self.remember(digest, &caller, now);
        Ok(caller)
    }

    /// Whether a caller's token still holds; for connections that outlive it.
    #[must_use]
    pub fn is_current(&self, caller: &Caller) -> bool {
        caller.expires_unix_s + self.rules.leeway.as_secs() > unix_seconds()
    }

    /// How long what a caller does may go on: until its token ends.
    pub fn left(&self, caller: &Caller) -> Duration {
        let until = caller
            .expires_unix_s
            .saturating_add(self.rules.leeway.as_secs());
        Duration::from_secs(until.saturating_sub(unix_seconds()))
    }

    fn recall(&self, digest: &[u8; 32], now: u64) -> Option<Arc<Caller>> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        remembered
            .get(digest)
            .filter(|caller| caller.expires_unix_s + self.rules.leeway.as_secs() > now)
            .cloned()
    }

    fn remember(&self, digest: [u8; 32], caller: &Arc<Caller>, now: u64) {
        let leeway = self.rules.leeway.as_secs();
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, caller| caller.expires_unix_s + leeway > now);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, Arc::clone(caller));
    }

    fn check(&self, token: &str) -> Result<Caller, Failure> {
        let refuse = |text: &str| Failure::say(Cause::Unauthenticated, text);
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| refuse("the token is no JWT that is accepted here"))?;
        if let Some(typ) = &header.typ
            && !["JWT", "at+jwt", "application/at+jwt"]
                .iter()
                .any(|t| typ.eq_ignore_ascii_case(t))
        {
            return Err(refuse("the token's typ is not that of an access token"));
        }
        let keys = self.keys.load();
        let key = find_key(&keys, header.kid.as_deref())
            .filter(|key| key.algorithms.contains(&header.alg))
            .ok_or_else(|| refuse("the token is not signed by a key that is trusted here"))?;
        let mut validation = Validation::new(header.alg);
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = self.rules.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation)
            .map_err(|error| refuse(explain(&error)))?
            .claims;
        let tenant = claims.tenant.unwrap_or_else(|| "default".to_owned());
        for name in [&claims.sub, &tenant] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(refuse("the token's sub or tenant is empty or too long"));
            }
        }
        Ok(Caller {
            subject: claims.sub,
            tenant,
            scopes: scopes(&claims.scope),
            expires_unix_s: claims.exp,
        })
    }

    /// Reads the key file again whenever it has changed, for as long as the process runs.
    pub async fn follow(self: Arc<Self>, path: PathBuf) {
        let mut seen = modified(&path);
        let mut ticks = tokio::time::interval(RELOAD_EVERY);
        loop {
            ticks.tick().await;
            let now = modified(&path);
            if now == seen {
                continue;
            }
            match read_keys(&path) {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "keys reloaded");
                    self.keys.store(Arc::new(keys));
                    // A key may be gone: what it verified counts no more.
                    self.remembered
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .clear();
                }
                Err(error) => tracing::warn!(
                    error = telemetry::error_chain(&error),
                    "the changed key file is not used"
                ),
            }
            seen = now;
        }
    }
}

fn modified(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// The key that a token names, or the only one there is when it names none.
fn find_key<'a>(keys: &'a [Key], id: Option<&str>) -> Option<&'a Key> {
    match id {
        Some(id) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        None if keys.len() == 1 => keys.first(),
        None => None,
    }
}

fn explain(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token's issuer is not trusted here",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidSignature => "the token's signature does not hold",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss, aud or sub",
        _ => "the token is not valid",
    }
}

fn read_keys(path: &Path) -> Result<Vec<Key>, KeysError> {
    let read = |source| KeysError::Read {
        path: path.to_owned(),
        source,
    };
    let invalid = |reason: String| KeysError::Invalid {
        path: path.to_owned(),
        reason,
    };
    if std::fs::metadata(path).map_err(read)?.len() > JWKS_BYTES_MAX {
        return Err(invalid(format!("larger than {JWKS_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let set: JwkSet = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    if set.keys.len() > KEYS_MAX {
        return Err(invalid(format!("more than {KEYS_MAX} keys")));
    }
    let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
    if keys.is_empty() {
        return Err(invalid(
            "no key of type OKP (Ed25519), RSA or EC for signatures".to_owned(),
        ));
    }
    Ok(keys)
}

/// The key with the algorithms its type allows. Symmetric keys are not taken: a JWKS is public.
fn usable(jwk: &Jwk) -> Option<Key> {
    let algorithms = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        _ => return None,
    };
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithms,
        decoding: DecodingKey::from_jwk(jwk).ok()?,
    })
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    struct Mint {
        encoding: EncodingKey,
        public: Vec<u8>,
    }

    fn mint() -> Mint {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        Mint {
            encoding: EncodingKey::from_ed_der(pkcs8.as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    fn identity(mint: &Mint) -> (Identity, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let x = URL_SAFE_NO_PAD.encode(&mint.public);
        let jwks = json!({"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":x,"alg":"EdDSA","use":"sig"}]});
        std::fs::write(&path, jwks.to_string()).unwrap();
        let rules = Rules {
            issuer: "sweetmcp".into(),
            audience: "sweetmcp".into(),
            leeway: Duration::from_secs(30),
        };
        (Identity::load(&path, rules).unwrap(), dir)
    }

    fn claims(change: Value) -> Value {
        let now = unix_seconds();
        let mut claims = json!({"sub":"ana","iss":"sweetmcp","aud":"sweetmcp","exp":now + 60,"scope":"mcp admin"});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn token(mint: &Mint, kid: Option<&str>, change: Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, &claims(change), &mint.encoding).unwrap()
    }

    #[test]
    fn a_good_token_names_its_caller() {
        let mint = mint();
        let (identity, _dir) = identity(&mint);
        for kid in [Some("k1"), None] {
            let caller = identity
                .verify(&token(&mint, kid, json!({"tenant":"acme"})))
                .unwrap();
            assert_eq!(
                (caller.subject.as_str(), caller.tenant.as_str()),
                ("ana", "acme")
            );
            assert!(caller.has_scope("admin") && !caller.has_scope("adm"));
        }
    }

    #[test]
    fn what_does_not_hold_is_refused_without_quoting_it() {
        let good = mint();
        let other = mint();
        let (identity, _dir) = identity(&good);
        let now = unix_seconds();
        let part = |v: Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let none = format!(
            "{}.{}.",
            part(json!({"alg":"none","typ":"JWT"})),
            part(claims(json!({})))
        );
        let confused = {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = Some("k1".into());
            jsonwebtoken::encode(
                &header,
                &claims(json!({})),
                &EncodingKey::from_secret(&good.public),
            )
            .unwrap()
        };
        for (case, token, text) in [
            (
                "expired",
                token(&good, None, json!({"exp": now - 3600})),
                "expired",
            ),
            (
                "not yet",
                token(&good, None, json!({"nbf": now + 3600})),
                "not valid yet",
            ),
            ("wrong key", token(&other, None, json!({})), "signature"),
            (
                "wrong issuer",
                token(&good, None, json!({"iss":"evil"})),
                "issuer",
            ),
            (
                "wrong audience",
                token(&good, None, json!({"aud":"other"})),
                "audience",
            ),
            (
                "unknown kid",
                token(&good, Some("../../etc/passwd"), json!({})),
                "trusted",
            ),
            ("no subject", token(&good, None, json!({"sub":""})), "sub"),
            ("alg none", none, "no JWT"),
            ("key confusion", confused, "trusted"),
            ("garbage", "abc".to_owned(), "no JWT"),
            ("oversized", "a".repeat(TOKEN_BYTES_MAX + 1), "too long"),
        ] {
            let failure = identity.verify(&token).unwrap_err();
            assert_eq!(failure.cause, Cause::Unauthenticated, "{case}");
            assert!(
                failure.message.contains(text),
                "{case}: {}",
                failure.message
            );
        }
        assert!(identity.verify_header(None).is_err());
        assert!(identity.verify_header(Some(b"Basic abc")).is_err());
    }

    #[test]
    fn principals_of_two_tenants_never_share_a_key() {
        let caller = |tenant: &str, subject: &str| Caller {
            subject: subject.into(),
            tenant: tenant.into(),
            scopes: vec![],
            expires_unix_s: 0,
        };
        assert_ne!(caller("a", "bc").key(), caller("ab", "c").key());
        assert_eq!(caller("a", "b").key(), caller("a", "b").key());
    }
}

//! Who may sign: a JWKS (RFC 7517) of Ed25519, P-256 and HMAC keys.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Keys of one set.
const KEYS_MAX: usize = 4096;
/// Shortest HMAC key, in bytes: as long as what it makes.
const SECRET_BYTES_MIN: usize = 32;

/// Keys by their id.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, Key>);

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    id: String,
    subject: Option<String>,
    check: Check,
}

enum Check {
    Ed25519(UnparsedPublicKey<Vec<u8>>),
    P256(UnparsedPublicKey<Vec<u8>>),
    Hmac(Box<hmac::Key>),
}

impl std::fmt::Debug for Check {
    /// A secret is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Check::Ed25519(_) => "Ed25519",
            Check::P256(_) => "P256",
            Check::Hmac(_) => "Hmac",
        })
    }
}

/// Why a set cannot be used. Says nothing of what a key is made of.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It is no JWKS.
    #[error("no JWKS (RFC 7517), at line {line}")]
    Json {
        /// Where it ends to be one.
        line: usize,
    },
    /// A key cannot be used.
    #[error("key {number} (from 1): {reason}")]
    Key {
        /// Which.
        number: usize,
        /// Why.
        reason: &'static str,
    },
    /// There are too many, or none.
    #[error("a set must have 1 to {KEYS_MAX} keys")]
    Count,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// A key as it is written. `sub` is ours: the subject that the key is kept for.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    sub: Option<String>,
}

impl Keys {
    /// Reads a JWKS. All of its keys must be usable, so that none is missing unseen.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn from_jwks(text: &str) -> Result<Keys, KeysError> {
        let set: Set =
            serde_json::from_str(text).map_err(|error| KeysError::Json { line: error.line() })?;
        if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
            return Err(KeysError::Count);
        }
        let mut keys = HashMap::new();
        for (index, jwk) in set.keys.into_iter().enumerate() {
            let refused = |reason| KeysError::Key {
                number: index + 1,
                reason,
            };
            let key = key(jwk).map_err(refused)?;
            if keys.insert(key.id.clone(), key).is_some() {
                return Err(refused("another key has its kid"));
            }
        }
        Ok(Keys(keys))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)
    }
}

fn key(jwk: Jwk) -> Result<Key, &'static str> {
    let id = jwk.kid.filter(|id| !id.is_empty()).ok_or("it has no kid")?;
    let bytes = |text: Option<String>| {
        let text = text.ok_or("a part of it is missing")?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| "a part of it is no Base64url")
    };
    let check = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => {
            let x = bytes(jwk.x)?;
            if x.len() != 32 {
                return Err("x must have 32 bytes");
            }
            Check::Ed25519(UnparsedPublicKey::new(&ED25519, x))
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes(jwk.x)?, bytes(jwk.y)?);
            if x.len() != 32 || y.len() != 32 {
                return Err("x and y must have 32 bytes each");
            }
            // Uncompressed (SEC 1, section 2.3.3).
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            Check::P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point))
        }
        ("oct", None) => {
            let secret = bytes(jwk.k)?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err("k must have 32 bytes or more");
            }
            Check::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
        }
        _ => return Err("it must be OKP with Ed25519, EC with P-256, or oct"),
    };
    Ok(Key {
        id,
        subject: jwk.sub,
        check,
    })
}

impl Key {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The name that RFC 9421 has for its algorithm.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.check {
            Check::Ed25519(_) => "ed25519",
            Check::P256(_) => "ecdsa-p256-sha256",
            Check::Hmac(_) => "hmac-sha256",
        }
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            Check::Ed25519(key) | Check::P256(key) => key.verify(message, signature).is_ok(),
            Check::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

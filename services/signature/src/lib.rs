//! Signed HTTP requests: HTTP Message Signatures (RFC 9421) over a body's digest (RFC 9530).
//!
//! [`verify`] looks at a request's head and says who signed it, or why it is refused: no or a wrong signature, too old, from the
//! future, or over too little of the request. What is left to the caller is what needs more than the head: whether the body is
//! the one that was signed ([`Signed::is_body`]), and whether the nonce was seen before ([`Signed::nonce`]). Pure: time is an
//! argument, and nothing is remembered.
//!
//! - [`Keys`]: who may sign, as a JWKS (RFC 7517)
//! - [`Request`], [`Rules`]: what is looked at, and how
//! - [`Signed`], [`Refused`]: what comes of it

mod components;
mod digest;
mod keys;

use std::time::Duration;

use http::HeaderMap;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry, Parameters, Parser};

pub use components::Request;
pub use keys::{Keys, KeysError};

/// Signatures of one request that are looked at; each hop may add its own.
const SIGNATURES_MAX: usize = 4;
/// Components of one signature.
const COMPONENTS_MAX: usize = 64;
/// Longest header of a signature, in bytes.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// Shortest and longest nonce, in characters.
const NONCE_CHARS: std::ops::RangeInclusive<usize> = 8..=256;

/// What a signature must be like beside right.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long after `created` it counts.
    pub age_max: Duration,
    /// How far clocks may differ.
    pub leeway: Duration,
}

impl Rules {
    /// How long a nonce must be remembered: a request that is repeated later is too old anyway.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.age_max + self.leeway * 2
    }
}

/// A request whose head was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The key that signed it.
    pub key_id: String,
    /// The subject that the key is kept for; `None` if anybody may use it.
    pub subject: Option<String>,
    /// What no other request of this key may have.
    pub nonce: String,
    digests: Option<digest::Digests>,
}

impl Signed {
    /// Whether this is the body that was signed. Without a signed digest only an empty one is.
    #[must_use]
    pub fn is_body(&self, body: &[u8]) -> bool {
        match &self.digests {
            Some(digests) => digests.fit(body),
            None => body.is_empty(),
        }
    }
}

/// Why a request is refused. The text is for its client and holds nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A header of the signature is missing, stands for several, or cannot be read.
    #[error("Signature-Input and Signature are not as RFC 9421 has them")]
    Unreadable,
    /// No signature is by a key that is known here.
    #[error("no signature is by a key that is known here")]
    Key,
    /// The signature does not fit the request.
    #[error("the signature does not hold for this request")]
    Wrong,
    /// It was made too long ago, or has expired.
    #[error("the signature is too old")]
    Late,
    /// It was made in the future.
    #[error("the signature's created lies in the future")]
    Early,
    /// A parameter is missing.
    #[error("a signature needs created, keyid, and a nonce of 8 to 256 characters")]
    Parameters,
    /// Something that would change what the request means is not signed.
    #[error(
        "a signature must cover @method, @authority, @path, @query where there is one, authorization, mcp-session-id where there is one, and content-digest where there is a body"
    )]
    Covers,
    /// A component that cannot be had here.
    #[error("the signature covers a component that is not known here, or not there")]
    Component,
    /// The digest cannot be read, or is of no known algorithm.
    #[error("Content-Digest must have sha-256 or sha-512")]
    Digest,
}

/// Whether a request says that it is signed.
#[must_use]
pub fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key("signature") || headers.contains_key("signature-input")
}

/// Verifies the first signature that is by a known key.
///
/// # Errors
/// Why the request is refused.
pub fn verify(
    keys: &Keys,
    rules: &Rules,
    request: &Request<'_>,
    now_unix_s: u64,
) -> Result<Signed, Refused> {
    let inputs = dictionary(request.headers, "signature-input")?;
    let signatures = dictionary(request.headers, "signature")?;
    if inputs.len() > SIGNATURES_MAX {
        return Err(Refused::Unreadable);
    }
    for (label, input) in &inputs {
        let ListEntry::InnerList(covered) = input else {
            return Err(Refused::Unreadable);
        };
        let Some(key) = text(&covered.params, "keyid").and_then(|id| keys.get(id)) else {
            continue;
        };
        let Some(ListEntry::Item(signature)) = signatures.get(label) else {
            return Err(Refused::Unreadable);
        };
        let signature = signature.bare_item.as_byte_sequence();
        return one(
            key,
            rules,
            request,
            covered,
            signature.ok_or(Refused::Unreadable)?,
            now_unix_s,
        );
    }
    Err(Refused::Key)
}

fn one(
    key: &keys::Key,
    rules: &Rules,
    request: &Request<'_>,
    covered: &InnerList,
    signature: &[u8],
    now_unix_s: u64,
) -> Result<Signed, Refused> {
    let parameters = &covered.params;
    if text(parameters, "alg").is_some_and(|alg| alg != key.algorithm()) {
        return Err(Refused::Wrong);
    }
    let base = components::base(request, covered)?;
    if !key.verify(base.as_bytes(), signature) {
        return Err(Refused::Wrong);
    }
    in_time(parameters, rules, now_unix_s)?;
    let nonce = text(parameters, "nonce").filter(|n| NONCE_CHARS.contains(&n.len()));
    let nonce = nonce.ok_or(Refused::Parameters)?.to_owned();
    let names = components::names(covered);
    if !components::suffice(request, &names) {
        return Err(Refused::Covers);
    }
    let digests = match names.contains(&"content-digest") {
        true => Some(digest::Digests::read(request.headers)?),
        false => None,
    };
    Ok(Signed {
        key_id: key.id().to_owned(),
        subject: key.subject().map(str::to_owned),
        nonce,
        digests,
    })
}

fn in_time(parameters: &Parameters, rules: &Rules, now: u64) -> Result<(), Refused> {
    let seconds = |name| {
        let value = parameters.get(name).map(BareItem::as_integer)?;
        Some(value.and_then(|value| u64::try_from(i64::from(value)).ok()))
    };
    let leeway = rules.leeway.as_secs();
    let created = seconds("created").flatten().ok_or(Refused::Parameters)?;
    if created > now.saturating_add(leeway) {
        return Err(Refused::Early);
    }
    let until = created.saturating_add(rules.age_max.as_secs());
    let expires = match seconds("expires") {
        None => until,
        Some(expires) => expires.ok_or(Refused::Parameters)?.min(until),
    };
    if expires.saturating_add(leeway) < now {
        return Err(Refused::Late);
    }
    Ok(())
}

fn text<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p str> {
    Some(parameters.get(name)?.as_string()?.as_str())
}

/// A header that is a dictionary, its lines together.
fn dictionary(headers: &HeaderMap, name: &str) -> Result<Dictionary, Refused> {
    let value = components::field(headers, name).ok_or(Refused::Unreadable)?;
    if value.len() > HEADER_BYTES_MAX {
        return Err(Refused::Unreadable);
    }
    Parser::new(value.as_str())
        .parse()
        .map_err(|_| Refused::Unreadable)
}

/// The inner list as `Signature-Input` has it, in its one right form.
fn signature_params(covered: &InnerList) -> Option<String> {
    let list: sfv::List = vec![covered.clone().into()];
    list.serialize()
}

#[cfg(test)]
mod tests;

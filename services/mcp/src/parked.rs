//! Calls that wait for input, as the `requestState` that their client sends back.
//!
//! A server of the older era keeps its call open while it asks for input. The instance that holds it
//! answers the modern client with `input_required` and a state that says where the call waits. The state
//! goes through the client, so it is sealed ([`crate::seal`]) and bound to the principal, to an end of
//! life, and to the request it belongs to. The instance's name stands readable in front, so that an edge
//! can send the retry to the instance that holds the call without holding a key.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::failure::{Cause, Failure};
use crate::members::Members;
use crate::seal::{KeyRing, NONCE_BYTES};

/// Longest name of an instance, in bytes.
pub const INSTANCE_BYTES_MAX: usize = 64;
/// Longest state that is looked at, in bytes.
pub const STATE_BYTES_MAX: usize = 8192;
/// Longest note that a parked call carries, in bytes of JSON.
pub const NOTE_BYTES_MAX: usize = 4096;

/// The state's form; part of what is authenticated.
const FORM: &str = "p1";

/// A call that waits.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The instance that holds the call.
    pub instance: String,
    /// Names the call within its instance; drawn at random.
    pub call: [u8; 16],
    /// Who called.
    pub principal: String,
    /// The caller's tenant.
    pub tenant: String,
    /// Seconds since 1970 until which the call waits.
    pub expires_unix_s: u64,
    /// What the retry must ask for again.
    pub request: RequestDigest,
    /// Anything more that the instance wants back.
    pub note: Option<Box<RawValue>>,
}

/// Stands for method, name and arguments of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// Digests a request. Blanks and the order of members do not matter, since a client may write its
    /// retry anew; values do.
    #[must_use]
    pub fn of(method: &str, name: Option<&str>, params: Option<&RawValue>) -> RequestDigest {
        let arguments = params
            .and_then(|raw| Members::parse(raw).ok())
            .and_then(|members| members.get("arguments").map(RawValue::to_owned));
        let mut hash = Sha256::new();
        part(&mut hash, method.as_bytes());
        part(&mut hash, name.unwrap_or_default().as_bytes());
        match arguments {
            None => part(&mut hash, b""),
            Some(raw) => match serde_json::from_str::<Value>(raw.get()) {
                Ok(value) => canonical(&mut hash, &value),
                // Deeper than is read: its bytes stand for it.
                Err(_) => part(&mut hash, raw.get().as_bytes()),
            },
        }
        RequestDigest(hash.finalize().into())
    }
}

fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Hashes a value so that two values agree only if they are the same. The reader bounds the depth.
fn canonical(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Array(items) => {
            hash.update(b"[");
            hash.update((items.len() as u64).to_le_bytes());
            for item in items {
                canonical(hash, item);
            }
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            hash.update(b"{");
            hash.update((members.len() as u64).to_le_bytes());
            for (name, item) in members {
                part(hash, name.as_bytes());
                canonical(hash, item);
            }
        }
        plain => {
            hash.update(b".");
            part(hash, plain.to_string().as_bytes());
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    c: [u8; 16],
    p: String,
    t: String,
    e: u64,
    d: RequestDigest,
    n: Option<Box<RawValue>>,
}

/// Why a state leads to no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParkedError {
    /// Not sealed by a key of the ring, or changed.
    #[error("requestState is not one of ours")]
    Forged,
    /// The call waited until its time was over.
    #[error("requestState has expired")]
    Expired,
    /// Another principal's, or of another request.
    #[error("requestState belongs to another request")]
    Foreign,
    /// The instance's name or the note does not fit.
    #[error("the parked call does not fit its state")]
    TooLarge,
}

impl From<ParkedError> for Failure {
    fn from(error: ParkedError) -> Failure {
        match error {
            ParkedError::TooLarge => Failure::new(Cause::Internal),
            told => Failure::say(Cause::InvalidParams, told.to_string()),
        }
    }
}

/// The instance that a state names in clear; to route by, not to trust.
#[must_use]
pub fn instance_of(state: &str) -> Option<&str> {
    if state.len() > STATE_BYTES_MAX {
        return None;
    }
    let (instance, _) = state
        .strip_prefix(FORM)?
        .strip_prefix('.')?
        .split_once('.')?;
    is_instance(instance).then_some(instance)
}

fn is_instance(name: &str) -> bool {
    (1..=INSTANCE_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Parked {
    /// Seals the call into a `requestState`.
    ///
    /// # Errors
    /// [`ParkedError::TooLarge`] when the instance's name is not 1 to [`INSTANCE_BYTES_MAX`] letters,
    /// digits, `-` and `_`, or the note is longer than [`NOTE_BYTES_MAX`].
    pub fn seal(&self, keys: &KeyRing, nonce: [u8; NONCE_BYTES]) -> Result<String, ParkedError> {
        let note = self.note.as_ref().map_or(0, |raw| raw.get().len());
        if !is_instance(&self.instance) || note > NOTE_BYTES_MAX {
            return Err(ParkedError::TooLarge);
        }
        let plain = serde_json::to_vec(&Wire {
            c: self.call,
            p: self.principal.clone(),
            t: self.tenant.clone(),
            e: self.expires_unix_s,
            d: self.request,
            n: self.note.clone(),
        })
        .expect("strings and raw values always serialise");
        Ok(keys.seal_bytes(FORM, Some(&self.instance), &plain, nonce))
    }

    /// Opens a state that came back, and checks that this caller may use it for this request.
    ///
    /// # Errors
    /// See [`ParkedError`]. That a state is used once only is for the instance to see to: it holds the
    /// call.
    pub fn open(
        keys: &KeyRing,
        state: &str,
        principal: &str,
        tenant: &str,
        request: RequestDigest,
        now_unix_s: u64,
    ) -> Result<Parked, ParkedError> {
        let instance = instance_of(state).ok_or(ParkedError::Forged)?;
        let plain = keys
            .open_bytes(FORM, Some(instance), state)
            .ok_or(ParkedError::Forged)?;
        let wire: Wire = serde_json::from_slice(&plain).map_err(|_| ParkedError::Forged)?;
        if wire.p != principal || wire.t != tenant || wire.d != request {
            return Err(ParkedError::Foreign);
        }
        if wire.e <= now_unix_s {
            return Err(ParkedError::Expired);
        }
        Ok(Parked {
            instance: instance.to_owned(),
            call: wire.c,
            principal: wire.p,
            tenant: wire.t,
            expires_unix_s: wire.e,
            request,
            note: wire.n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::tests::ring;
    use proptest::prelude::*;

    fn digest(params: &str) -> RequestDigest {
        let params: Box<RawValue> = serde_json::from_str(params).unwrap();
        RequestDigest::of("tools/call", Some("add"), Some(&params))
    }

    fn parked() -> Parked {
        Parked {
            instance: "app-1".into(),
            call: [3; 16],
            principal: "ana".into(),
            tenant: "acme".into(),
            expires_unix_s: 1000,
            request: digest(r#"{"arguments":{"a":1,"b":[2]}}"#),
            note: None,
        }
    }

    #[test]
    fn a_state_opens_for_its_own_request_alone() {
        let state = parked().seal(&ring(&[1]), [9; NONCE_BYTES]).unwrap();
        assert_eq!(instance_of(&state), Some("app-1"));
        let same = r#"{ "arguments" : {"b":[2], "a":1}, "inputResponses":{} }"#;
        let open = |keys: &[u8], who: &str, tenant: &str, params: &str, now| {
            Parked::open(&ring(keys), &state, who, tenant, digest(params), now).map(|p| p.call)
        };
        for (keys, who, tenant, params, now, expected) in [
            (&[1][..], "ana", "acme", same, 999, Ok([3; 16])),
            (&[2, 1], "ana", "acme", same, 999, Ok([3; 16])),
            (&[2], "ana", "acme", same, 999, Err(ParkedError::Forged)),
            (&[1], "ana", "acme", same, 1000, Err(ParkedError::Expired)),
            (&[1], "bob", "acme", same, 999, Err(ParkedError::Foreign)),
            (&[1], "ana", "evil", same, 999, Err(ParkedError::Foreign)),
            (
                &[1],
                "ana",
                "acme",
                r#"{"arguments":{"a":2,"b":[2]}}"#,
                999,
                Err(ParkedError::Foreign),
            ),
            (&[1], "ana", "acme", "{}", 999, Err(ParkedError::Foreign)),
        ] {
            assert_eq!(
                open(keys, who, tenant, params, now),
                expected,
                "{who} {tenant} {params}"
            );
        }
    }

    #[test]
    fn digests_tell_method_name_and_values_apart() {
        let none = RequestDigest::of("tools/call", Some("a"), None);
        assert_ne!(none, RequestDigest::of("prompts/get", Some("a"), None));
        assert_ne!(none, RequestDigest::of("tools/call", Some("b"), None));
        for (one, other) in [
            ("[1,[2]]", "[[1],2]"),
            ("\"1\"", "1"),
            ("{\"a\":{}}", "{\"a\":[]}"),
            ("null", "{}"),
        ] {
            let digest = |text: &str| digest(&format!(r#"{{"arguments":{text}}}"#));
            assert_ne!(digest(one), digest(other), "{one} {other}");
        }
    }

    #[test]
    fn a_session_is_no_state_and_names_have_bounds() {
        let mut wrong = parked();
        for name in ["", "a.b", "a/b", &"x".repeat(INSTANCE_BYTES_MAX + 1)] {
            wrong.instance = name.into();
            assert_eq!(
                wrong.seal(&ring(&[1]), [0; NONCE_BYTES]),
                Err(ParkedError::TooLarge)
            );
            assert_eq!(
                instance_of(&format!("p1.{name}.")),
                if name == "a.b" { Some("a") } else { None }
            );
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_taken(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
            let parked = parked();
            let state = parked.seal(&ring(&[1]), [9; NONCE_BYTES]).unwrap();
            let at = at.index(state.len());
            let mut changed = state.clone();
            changed.replace_range(at..=at, &with);
            prop_assume!(changed != state);
            let opened = Parked::open(&ring(&[1]), &changed, "ana", "acme", parked.request, 0);
            prop_assert_eq!(opened.map(|p| p.call), Err(ParkedError::Forged));
        }
    }
}

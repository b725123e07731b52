//! What goes through the client's hands and must come back as it was: request states and task ids.
//!
//! `NAME.SEALED`: the instance's name stands in clear, so that whoever forwards the request finds the instance again; the rest
//! is sealed with the fleet's keys ([`mcp::seal`]), the name and the purpose with it. Inside stand the caller, the request and
//! the end of its life: a seal serves nobody else, no other request, and no longer. It outlives the process: an upstream's
//! state and tasks are good for a restarted instance of the same name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp::{members::Members, seal::KeyRing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plugin::Client;

/// The longest text that is looked at, in bytes.
const SEALED_BYTES_MAX: usize = 256 << 10;
/// Members of `params` that differ between a request and its retry.
const OF_ONE_TURN: [&str; 3] = ["_meta", "inputResponses", "requestState"];

/// What a seal is for; one is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The number of a parked call.
    Parked,
    /// An upstream server's own request state.
    State,
    /// An upstream server's task.
    Task,
}

impl Purpose {
    /// The seal's form, which no other token of the fleet has.
    fn form(self) -> &'static str {
        match self {
            Self::Parked => "app-parked",
            Self::State => "app-state",
            Self::Task => "app-task",
        }
    }
}

/// What a seal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// What it is about.
    pub(crate) value: String,
    /// What it belongs to: a request's digest, or a plugin.
    pub(crate) of: String,
}

/// Why a text opens to nothing. The client is told no more than that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// Not sealed here, or changed since.
    #[error("it was not made here, or was changed")]
    Forged,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// It is another caller's.
    #[error("it is another caller's")]
    Foreign,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    o: String,
    p: String,
    t: String,
    /// Seconds since 1970.
    e: u64,
}

/// One instance's name and the fleet's keys.
#[derive(Debug)]
pub(crate) struct Sealer {
    instance: String,
    keys: KeyRing,
}

impl Sealer {
    /// Makes a sealer.
    pub(crate) fn new(instance: &str, keys: KeyRing) -> Self {
        Self {
            instance: instance.to_owned(),
            keys,
        }
    }

    /// Seals `sealed` for `client` until `life` after `now`; `None` if it is too large.
    pub(crate) fn seal(
        &self,
        purpose: Purpose,
        sealed: &Sealed,
        client: &Client,
        now: SystemTime,
        life: Duration,
    ) -> Option<String> {
        let wire = Wire {
            v: sealed.value.clone(),
            o: sealed.of.clone(),
            p: client.principal.clone(),
            t: client.tenant.clone(),
            e: seconds(now + life),
        };
        let bytes = serde_json::to_vec(&wire).ok()?;
        let form = purpose.form();
        let whole = self
            .keys
            .seal_bytes(form, Some(&self.instance), &bytes, rand::random());
        // The form is known from where the text comes back; the instance's name is not.
        let text = whole.strip_prefix(form)?.strip_prefix('.')?;
        (text.len() <= SEALED_BYTES_MAX).then(|| text.to_owned())
    }

    /// Opens what was sealed for `client`.
    pub(crate) fn open(
        &self,
        purpose: Purpose,
        text: &str,
        client: &Client,
        now: SystemTime,
    ) -> Result<Sealed, SealError> {
        let wire = self.unseal(purpose, text).ok_or(SealError::Forged)?;
        if wire.e <= seconds(now) {
            return Err(SealError::Expired);
        }
        if (&wire.p, &wire.t) != (&client.principal, &client.tenant) {
            return Err(SealError::Foreign);
        }
        Ok(Sealed {
            value: wire.v,
            of: wire.o,
        })
    }

    fn unseal(&self, purpose: Purpose, text: &str) -> Option<Wire> {
        if text.len() > SEALED_BYTES_MAX {
            return None;
        }
        let form = purpose.form();
        let whole = format!("{form}.{text}");
        let bytes = self.keys.open_bytes(form, Some(&self.instance), &whole)?;
        serde_json::from_slice(&bytes).ok()
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Returns a digest of what a request and its retry have in common, however their JSON is written.
pub(crate) fn request_digest(method: &str, params: &Members<'_>) -> String {
    let lasting: serde_json::Map<String, Value> = params
        .iter()
        .filter(|(name, _)| !OF_ONE_TURN.contains(name))
        .filter_map(|(name, raw)| Some((name.to_owned(), serde_json::from_str(raw.get()).ok()?)))
        .collect();
    let text = format!("{method}\n{}", Value::Object(lasting));
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(keys: &[u8]) -> Sealer {
        let keys: Vec<_> = keys.iter().map(|key| [*key; 32]).collect();
        Sealer::new("app.1", KeyRing::new(&keys).unwrap())
    }

    fn client(principal: &str) -> Client {
        Client {
            principal: principal.into(),
            ..Client::default()
        }
    }

    #[test]
    fn a_seal_serves_its_caller_its_purpose_and_its_time() {
        let sealer = sealer(&[1]);
        let sealed = Sealed {
            value: "v".into(),
            of: "o".into(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let text = sealer
            .seal(
                Purpose::State,
                &sealed,
                &client("ana"),
                now,
                Duration::from_secs(10),
            )
            .unwrap();
        assert!(text.starts_with("app.1."), "{text}");
        let open = |purpose, text: &str, who: &str, after| {
            sealer.open(
                purpose,
                text,
                &client(who),
                now + Duration::from_secs(after),
            )
        };
        assert_eq!(open(Purpose::State, &text, "ana", 9), Ok(sealed));
        for (purpose, who, after, want) in [
            (Purpose::State, "ana", 10, SealError::Expired),
            (Purpose::State, "bob", 0, SealError::Foreign),
            (Purpose::Task, "ana", 0, SealError::Forged),
        ] {
            assert_eq!(open(purpose, &text, who, after), Err(want));
        }
        let other = self::sealer(&[2]).seal(
            Purpose::State,
            &Sealed {
                value: String::new(),
                of: String::new(),
            },
            &client("ana"),
            now,
            Duration::from_secs(10),
        );
        for changed in [
            text.replacen("app.1", "app.2", 1),
            format!("{}A", &text[..text.len() - 1]),
            text[..text.len() - 4].to_owned(),
            "app.1.".to_owned(),
            String::new(),
            other.unwrap(),
        ] {
            if changed != text {
                assert_eq!(
                    open(Purpose::State, &changed, "ana", 0),
                    Err(SealError::Forged)
                );
            }
        }
    }

    #[test]
    fn a_seal_outlives_its_process_and_its_key_for_as_long_as_the_ring_has_it() {
        let sealed = Sealed {
            value: "v".into(),
            of: "o".into(),
        };
        let life = Duration::from_secs(10);
        let text = sealer(&[1]).seal(Purpose::Task, &sealed, &client("ana"), UNIX_EPOCH, life);
        let text = text.unwrap();
        for (keys, want) in [
            (&[1][..], Ok(sealed.clone())),
            (&[2, 1], Ok(sealed)),
            (&[2], Err(SealError::Forged)),
        ] {
            let opened = sealer(keys).open(Purpose::Task, &text, &client("ana"), UNIX_EPOCH);
            assert_eq!(opened, want, "{keys:?}");
        }
    }

    #[test]
    fn a_retry_is_the_same_request_and_another_is_not() {
        let digest = |params: &str| {
            let raw = serde_json::from_str(params).unwrap();
            request_digest("tools/call", &Members::parse(raw).unwrap())
        };
        let first = digest(r#"{"name":"a","arguments":{"x":1,"y":2},"_meta":{"a":1}}"#);
        let retry =
            r#"{"arguments":{"y":2,"x":1},"name":"a","requestState":"s","inputResponses":{}}"#;
        assert_eq!(first, digest(retry));
        assert_ne!(first, digest(r#"{"name":"a","arguments":{"x":1,"y":3}}"#));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_calmly(text in "(app\\.1\\.)?[ -~]{0,200}") {
            let sealer = sealer(&[1]);
            let opened = sealer.open(Purpose::Parked, &text, &client("ana"), UNIX_EPOCH);
            prop_assert_eq!(opened, Err(SealError::Forged));
        }
    }
}

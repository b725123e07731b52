//! Sessions of the older era as sealed tokens.
//!
//! `Mcp-Session-Id` holds the whole session: revision, client, principal, tenant, end of life; sealed with
//! the fleet's keys ([`crate::seal`]). Any edge with the key serves any request of any session, nothing is
//! stored, and losing an instance loses no session. A session serves only the principal that opened it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::call::ClientMeta;
use crate::revision::Revision;
pub use crate::seal::{KEY_BYTES, KeyRing, NONCE_BYTES};

/// Longest `clientInfo` and `capabilities` together that a session takes, in bytes of JSON.
pub const CLIENT_BYTES_MAX: usize = 4096;
/// Longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// Version of the token's form; part of what is authenticated.
const FORM: &str = "s2";

/// What a session knows.
#[derive(Debug, Clone)]
pub struct Session {
    /// Drawn at random; names the session in logs and for stickiness.
    pub id: [u8; 16],
    /// The negotiated revision.
    pub revision: Revision,
    /// What the client said in `initialize`.
    pub client: ClientMeta,
    /// Who opened it.
    pub principal: String,
    /// The principal's tenant.
    pub tenant: String,
    /// Seconds since 1970 when it ends.
    pub expires_unix_s: u64,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    i: [u8; 16],
    r: String,
    n: Option<Box<RawValue>>,
    c: Box<RawValue>,
    p: String,
    t: String,
    e: u64,
}

/// Why a token opens no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not sealed by a key of the ring, or changed.
    #[error("the session token is not one of ours")]
    Forged,
    /// Its time is over.
    #[error("the session has expired")]
    Expired,
    /// What the client says of itself is too long to carry.
    #[error("clientInfo and capabilities exceed {CLIENT_BYTES_MAX} bytes")]
    TooLarge,
}

impl KeyRing {
    /// Seals a session into a token of visible ASCII.
    ///
    /// # Errors
    /// [`SessionError::TooLarge`] when the client's own words do not fit.
    pub fn seal(
        &self,
        session: &Session,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<String, SessionError> {
        let said = session
            .client
            .info
            .as_ref()
            .map_or(0, |raw| raw.get().len())
            + session.client.capabilities.get().len();
        if said > CLIENT_BYTES_MAX {
            return Err(SessionError::TooLarge);
        }
        let plain = serde_json::to_vec(&Wire {
            i: session.id,
            r: session.revision.as_str().to_owned(),
            n: session.client.info.clone(),
            c: session.client.capabilities.clone(),
            p: session.principal.clone(),
            t: session.tenant.clone(),
            e: session.expires_unix_s,
        })
        .expect("strings and raw values always serialise");
        Ok(self.seal_bytes(FORM, None, &plain, nonce))
    }

    /// Opens a token.
    ///
    /// # Errors
    /// [`SessionError::Forged`] or [`SessionError::Expired`]. Whose session it is, the caller checks.
    pub fn open(&self, token: &str, now_unix_s: u64) -> Result<Session, SessionError> {
        let session = self.unseal(token).ok_or(SessionError::Forged)?;
        if session.expires_unix_s <= now_unix_s {
            return Err(SessionError::Expired);
        }
        Ok(session)
    }

    fn unseal(&self, token: &str) -> Option<Session> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let plain = self.open_bytes(FORM, None, token)?;
        let wire: Wire = serde_json::from_slice(&plain).ok()?;
        Some(Session {
            id: wire.i,
            revision: Revision::parse(&wire.r)?,
            client: ClientMeta {
                info: wire.n,
                capabilities: wire.c,
            },
            principal: wire.p,
            tenant: wire.t,
            expires_unix_s: wire.e,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::tests::ring;
    use proptest::prelude::*;

    fn session() -> Session {
        Session {
            id: [7; 16],
            revision: Revision::V2025_06_18,
            client: ClientMeta::plain("c"),
            principal: "ana".into(),
            tenant: "acme".into(),
            expires_unix_s: 1000,
        }
    }

    #[test]
    fn a_token_opens_until_it_ends() {
        let token = ring(&[1]).seal(&session(), [9; NONCE_BYTES]).unwrap();
        let opened = ring(&[1]).open(&token, 999).unwrap();
        assert_eq!(opened.principal, "ana");
        assert_eq!(opened.revision, Revision::V2025_06_18);
        assert_eq!(
            ring(&[1]).open(&token, 1000).unwrap_err(),
            SessionError::Expired
        );
    }

    #[test]
    fn keys_rotate_without_losing_sessions() {
        let token = ring(&[1]).seal(&session(), [9; NONCE_BYTES]).unwrap();
        assert!(ring(&[2, 1]).open(&token, 0).is_ok());
        assert_eq!(
            ring(&[2]).open(&token, 0).unwrap_err(),
            SessionError::Forged
        );
    }

    #[test]
    fn a_client_cannot_make_the_token_grow_without_end() {
        let mut big = session();
        let text = format!("{:?}", "x".repeat(CLIENT_BYTES_MAX));
        big.client.info = Some(serde_json::from_str(&text).unwrap());
        assert_eq!(
            ring(&[1]).seal(&big, [0; NONCE_BYTES]).unwrap_err(),
            SessionError::TooLarge
        );
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_taken(at in 3usize..200, with in "[A-Za-z0-9_-]") {
            let ring = ring(&[1]);
            let token = ring.seal(&session(), [9; NONCE_BYTES]).unwrap();
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &with);
            // The last character of unpadded Base64 has spare bits that must be zero to be read at all.
            prop_assume!(changed != token);
            prop_assert_eq!(ring.open(&changed, 0).unwrap_err(), SessionError::Forged);
        }

        #[test]
        fn any_text_is_refused_calmly(token in ".{0,300}") {
            prop_assert!(ring(&[1]).open(&token, 0).is_err());
        }
    }
}

//! What leaves the fleet and comes back unread: sealed with a key ring, opened with any live key of it.
//!
//! A token is `FORM.clear.BASE64`, where the Base64 holds key id, nonce and ciphertext of
//! XChaCha20-Poly1305. The form says what the token is for and is authenticated with the clear part, so a
//! session never opens as a parked call, nor the other way round.
//!
//! Keys rotate: the first of the ring seals, the others still open what they sealed. A key is found by its
//! id, not by trying all of them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of the nonce; drawn at random for each seal.
pub const NONCE_BYTES: usize = 24;
/// Most keys of a ring.
pub const KEYS_MAX: usize = 16;

const KEY_ID_BYTES: usize = 4;

/// The keys of a fleet: the first seals, all open.
#[derive(Clone)]
pub struct KeyRing(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID_BYTES],
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys)", self.0.len())
    }
}

impl KeyRing {
    /// A ring of 1 to [`KEYS_MAX`] keys, newest first; `None` for any other number.
    #[must_use]
    pub fn new(keys: &[[u8; KEY_BYTES]]) -> Option<KeyRing> {
        let ring: Vec<_> = keys
            .iter()
            .map(|key| Key {
                id: key_id(key),
                cipher: XChaCha20Poly1305::new(key.into()),
            })
            .collect();
        (1..=KEYS_MAX)
            .contains(&ring.len())
            .then_some(KeyRing(ring))
    }

    /// Seals `plain`, of at most some megabytes, into a token of visible ASCII. `form` and `clear` stand
    /// readable before it; a form holds no dot, and what it is for uses no other.
    ///
    /// # Panics
    /// When the cipher refuses: for no message that fits into memory here.
    #[must_use]
    pub fn seal_bytes(
        &self,
        form: &str,
        clear: Option<&str>,
        plain: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> String {
        let key = &self.0[0];
        let head = head(form, clear);
        let payload = Payload {
            msg: plain,
            aad: head.as_bytes(),
        };
        let sealed = key
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a message of a few kilobytes always encrypts");
        let bytes = [key.id.as_slice(), &nonce, &sealed].concat();
        format!("{head}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens what [`KeyRing::seal_bytes`] made with the same form and clear part; `None` for anything else.
    #[must_use]
    pub fn open_bytes(&self, form: &str, clear: Option<&str>, token: &str) -> Option<Vec<u8>> {
        let head = head(form, clear);
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(&head)?).ok()?;
        let (id, rest) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        self.0.iter().filter(|key| key.id == *id).find_map(|key| {
            let payload = Payload {
                msg: sealed,
                aad: head.as_bytes(),
            };
            key.cipher.decrypt(&XNonce::from(*nonce), payload).ok()
        })
    }
}

fn head(form: &str, clear: Option<&str>) -> String {
    match clear {
        Some(clear) => format!("{form}.{clear}."),
        None => format!("{form}."),
    }
}

/// Names a key without telling anything of it.
fn key_id(key: &[u8; KEY_BYTES]) -> [u8; KEY_ID_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"sweetmcp key id")
        .chain_update(key)
        .finalize();
    let mut id = [0; KEY_ID_BYTES];
    id.copy_from_slice(&digest[..KEY_ID_BYTES]);
    id
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ring whose keys are each one byte, repeated.
    pub(crate) fn ring(keys: &[u8]) -> KeyRing {
        let keys: Vec<_> = keys.iter().map(|k| [*k; KEY_BYTES]).collect();
        KeyRing::new(&keys).unwrap()
    }

    #[test]
    fn the_newest_key_seals_and_every_live_one_opens() {
        let old = ring(&[1]).seal_bytes("f", None, b"x", [9; NONCE_BYTES]);
        let rotated = ring(&[2, 1]);
        let new = rotated.seal_bytes("f", None, b"x", [9; NONCE_BYTES]);
        for (opener, token, opens) in [
            (&rotated, &old, true),
            (&rotated, &new, true),
            (&ring(&[2]), &old, false),
            (&ring(&[1]), &new, false),
        ] {
            assert_eq!(opener.open_bytes("f", None, token).is_some(), opens);
        }
    }

    #[test]
    fn form_and_clear_part_are_authenticated() {
        let ring = ring(&[1]);
        let token = ring.seal_bytes("f", Some("app-1"), b"x", [9; NONCE_BYTES]);
        assert!(ring.open_bytes("f", Some("app-1"), &token).is_some());
        let moved = token.replace("app-1", "app-2");
        assert!(ring.open_bytes("f", Some("app-2"), &moved).is_none());
        let other = format!("g{}", &token[1..]);
        assert!(ring.open_bytes("g", Some("app-1"), &other).is_none());
    }

    #[test]
    fn a_ring_has_a_bound() {
        assert!(KeyRing::new(&[]).is_none());
        assert!(KeyRing::new(&[[0; KEY_BYTES]; KEYS_MAX + 1]).is_none());
    }
}

//! `Content-Digest` (RFC 9530).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Algorithm, SHA256, SHA512, digest};
use http::HeaderMap;
use sfv::ListEntry;

use crate::{Refused, dictionary};

/// The digests that a body must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests(Vec<(Hash, Vec<u8>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Hash::Sha256 => &SHA256,
            Hash::Sha512 => &SHA512,
        }
    }
}

impl Digests {
    /// Reads those of known algorithms, of which there must be one.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Digests, Refused> {
        let said = dictionary(headers, "content-digest").map_err(|_| Refused::Digest)?;
        let mut digests = Vec::new();
        for (name, hash) in [("sha-256", Hash::Sha256), ("sha-512", Hash::Sha512)] {
            match said.get(name) {
                None => {}
                Some(ListEntry::Item(item)) => {
                    let bytes = item.bare_item.as_byte_sequence().ok_or(Refused::Digest)?;
                    digests.push((hash, bytes.to_vec()));
                }
                Some(ListEntry::InnerList(_)) => return Err(Refused::Digest),
            }
        }
        if digests.is_empty() {
            return Err(Refused::Digest);
        }
        Ok(Digests(digests))
    }

    /// Whether a body has them all.
    pub(crate) fn fit(&self, body: &[u8]) -> bool {
        self.0.iter().all(|(hash, said)| {
            let found = digest(hash.algorithm(), body);
            verify_slices_are_equal(found.as_ref(), said).is_ok()
        })
    }
}

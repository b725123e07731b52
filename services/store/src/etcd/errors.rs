//! What etcd says, as what a caller can do about it.

use std::error::Error as _;

use crate::{Error, RANGE_BYTES_MAX, RANGE_ENTRIES_MAX};

/// Begins what etcd says of a lease that it does not know.
const LEASE_GONE: &str = "etcdserver: requested lease not found";
/// What the client says of a renewal that found no lease.
const LEASE_NOT_RENEWED: &str = "lease not found";
/// etcd's own bound on a request.
const TOO_LARGE: &str = "etcdserver: request is too large";
/// etcd takes no more writes.
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// More came than this side takes.
const OUT_OF_RANGE: &str = "decoded message length too large";

/// Names an error of the client.
pub(super) fn etcd_error(attempt: &'static str, error: etcd_client::Error) -> Error {
    let said = error.to_string();
    if said.contains(NO_SPACE) {
        return Error::Full { attempt };
    }
    if said.contains(TOO_LARGE) {
        return Error::Invalid {
            what: "transaction",
            detail: "it is larger than etcd takes; start etcd with --max-request-bytes 8388608"
                .to_owned(),
        };
    }
    if said.contains(OUT_OF_RANGE) {
        return range_too_large();
    }
    Error::backend(attempt, error)
}

/// Refuses a range that has more than anybody may read at once.
pub(super) fn range_too_large() -> Error {
    Error::Invalid {
        what: "range",
        detail: format!("more than {RANGE_ENTRIES_MAX} entries or {RANGE_BYTES_MAX} bytes"),
    }
}

/// Whether etcd says that there is no such lease.
pub(super) fn is_lease_gone(error: &Error) -> bool {
    let Some(source) = error.source() else {
        return false;
    };
    let said = source.to_string();
    said.contains(LEASE_GONE) || said.contains(LEASE_NOT_RENEWED)
}

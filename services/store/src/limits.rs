//! Bounds of everything that goes in or out, checked before a backend sees it.

use std::collections::HashSet;
use std::time::Duration;

use crate::{Compare, Error, Op, Result};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most operations in a transaction, and most comparisons.
pub const TXN_OPS_MAX: usize = 128;
/// Most bytes of keys and values in a transaction.
pub const TXN_BYTES_MAX: usize = 4 << 20;
/// Most entries that a range returns.
pub const RANGE_ENTRIES_MAX: usize = 10_000;
/// Most bytes of keys and values that a range returns.
pub const RANGE_BYTES_MAX: usize = 64 << 20;
/// Shortest lease.
pub const LEASE_TTL_MIN: Duration = Duration::from_millis(10);
/// Longest lease: whoever wants to keep something longer renews it.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(48 * 3600);

fn refuse(what: &'static str, detail: impl Into<String>) -> Error {
    Error::Invalid {
        what,
        detail: detail.into(),
    }
}

/// Accepts a non-empty key without control characters.
pub(crate) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(refuse("key", "it is empty"));
    }
    check_prefix(key)
}

/// Accepts the beginning of a key; empty means all keys.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(refuse(
            "key",
            format!("{} bytes; at most {KEY_BYTES_MAX}", prefix.len()),
        ));
    }
    if prefix.chars().any(char::is_control) {
        return Err(refuse("key", format!("control character in {prefix:?}")));
    }
    Ok(())
}

/// Accepts a lease's time to live.
pub(crate) fn check_ttl(ttl: Duration) -> Result<()> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(refuse(
        "time to live",
        format!("{ttl:?}; allowed are {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?}"),
    ))
}

/// Accepts a transaction: every key and value in bounds, no key changed twice.
pub(crate) fn check_txn(compares: &[Compare], ops: &[Op]) -> Result<()> {
    if ops.len() > TXN_OPS_MAX || compares.len() > TXN_OPS_MAX {
        let detail = format!(
            "{} comparisons, {} operations; at most {TXN_OPS_MAX} each",
            compares.len(),
            ops.len()
        );
        return Err(refuse("transaction", detail));
    }
    for compare in compares {
        match compare {
            Compare::ModRevision { key, .. } | Compare::CreateRevision { key, .. } => {
                check_key(key)?;
            }
            Compare::LeaseAlive { .. } => {}
        }
    }
    let mut keys = HashSet::new();
    let mut bytes = 0;
    for op in ops {
        check_key(op.key())?;
        if let Op::Put { value, key, .. } = op
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(refuse(
                "value",
                format!(
                    "{} bytes at `{key}`; at most {VALUE_BYTES_MAX}",
                    value.len()
                ),
            ));
        }
        if !keys.insert(op.key()) {
            return Err(refuse(
                "transaction",
                format!("key `{}` is changed twice", op.key()),
            ));
        }
        bytes += op.bytes();
    }
    if bytes > TXN_BYTES_MAX {
        return Err(refuse(
            "transaction",
            format!("{bytes} bytes; at most {TXN_BYTES_MAX}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> Op {
        Op::put(key, vec![0; bytes])
    }

    #[test]
    fn transactions_in_and_out_of_bounds() {
        let many = |n: usize| (0..n).map(|i| put(&format!("k{i}"), 1)).collect::<Vec<_>>();
        let cases: Vec<(&str, Vec<Op>, Option<&str>)> = vec![
            ("empty", vec![], None),
            ("one", vec![put("a", 1)], None),
            ("largest value", vec![put("a", VALUE_BYTES_MAX)], None),
            (
                "longest key",
                vec![put(&"k".repeat(KEY_BYTES_MAX), 1)],
                None,
            ),
            ("most operations", many(TXN_OPS_MAX), None),
            ("no key", vec![put("", 1)], Some("key refused: it is empty")),
            (
                "long key",
                vec![put(&"k".repeat(513), 1)],
                Some("key refused: 513 bytes; at most 512"),
            ),
            (
                "control character",
                vec![put("a\nb", 1)],
                Some(r#"key refused: control character in "a\nb""#),
            ),
            (
                "large value",
                vec![put("a", VALUE_BYTES_MAX + 1)],
                Some("value refused: 1048577 bytes at `a`; at most 1048576"),
            ),
            (
                "twice",
                vec![put("a", 1), Op::delete("a")],
                Some("transaction refused: key `a` is changed twice"),
            ),
            (
                "many",
                many(129),
                Some("transaction refused: 0 comparisons, 129 operations; at most 128 each"),
            ),
            (
                "heavy",
                (0..5)
                    .map(|i| put(&format!("k{i}"), VALUE_BYTES_MAX - 2))
                    .collect(),
                Some("transaction refused: 5242880 bytes; at most 4194304"),
            ),
        ];
        for (name, ops, expected) in cases {
            let found = check_txn(&[], &ops).err().map(|e| e.to_string());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}

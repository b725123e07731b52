//! The layout of keys, and what names may be part of one.

use crate::{Error, Result, Role};

/// Name of the lock that a rollout holds.
pub const DEPLOY_LOCK: &str = "deploy";

/// Where everything about rollouts stands: watch it to hear of them.
pub const ROLLOUTS: &str = "rollouts/";

/// Longest name of an instance, process, release or rollout, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

pub(crate) const INSTANCES: &str = "instances/";
pub(crate) const ACKS: &str = "acks/app/";
pub(crate) const TRAFFIC: &str = "traffic/app";
pub(crate) const DESIRED: &str = "fleet/desired";
pub(crate) const RELEASES: &str = "releases/";
pub(crate) const PROCESSES: &str = "processes/";
pub(crate) const ROLLOUT: &str = "rollouts/current";
pub(crate) const ROLLOUT_HISTORY: &str = "rollouts/history/";
pub(crate) const ROLLOUT_COMMANDS: &str = "rollouts/commands/";

/// Accepts a name that can stand in a key, a file name and a metric label: short, plain, no separator.
///
/// # Errors
/// [`Error::Name`] otherwise.
pub fn check_name(name: &str) -> Result<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let begins_well = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if begins_well && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(Error::Name {
        found: name.chars().take(NAME_BYTES_MAX).collect(),
    })
}

pub(crate) fn instances_of(role: Role) -> String {
    format!("{INSTANCES}{role}/")
}

pub(crate) fn instance(role: Role, name: &str) -> Result<String> {
    Ok(format!("{}{}", instances_of(role), check_name(name)?))
}

pub(crate) fn ack(edge: &str) -> Result<String> {
    Ok(format!("{ACKS}{}", check_name(edge)?))
}

pub(crate) fn release(id: &str) -> Result<String> {
    Ok(format!("{RELEASES}{}", check_name(id)?))
}

pub(crate) fn process(name: &str) -> Result<String> {
    Ok(format!("{PROCESSES}{}", check_name(name)?))
}

pub(crate) fn rollout_in_history(id: &str) -> Result<String> {
    Ok(format!("{ROLLOUT_HISTORY}{}", check_name(id)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_stand_in_a_key() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for good in ["edge-1", "app-1a2b3c4d-1", "A.b_c", "0", &longest] {
            assert_eq!(check_name(good).unwrap(), good);
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", ".hidden", "..", "a/b", "a b", "ä", "a\n", &long] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}

//! How calls are split between releases of the app.
//!
//! One release is stable and gets everything that nobody else has a right to. Others have shares, in basis points of
//! the whole. A share with an end falls back to stable by itself, so that a rollout whose driver has died does not go on
//! sending calls to a release that nobody judges.

use serde::{Deserialize, Serialize};

/// The whole, in basis points.
pub const WHOLE_BPS: u16 = 10_000;

/// Most shares beside stable.
const SHARES_MAX: usize = 16;

/// How calls are split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Release that gets what is not given away.
    pub stable: String,
    /// What is given away.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Who decided so.
    #[serde(default)]
    pub author: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What one release gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The release.
    pub release: String,
    /// How much, in 1/10,000 of all calls.
    pub basis_points: u16,
    /// When the share falls to stable, in milliseconds of Unix time; never if absent.
    #[serde(default)]
    pub expires_unix_ms: Option<u64>,
}

impl Share {
    /// Whether the share still counts.
    #[must_use]
    pub fn is_in_force(&self, now_unix_ms: u64) -> bool {
        self.expires_unix_ms
            .is_none_or(|expires| now_unix_ms < expires)
    }
}

/// How a split contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// No release would get the rest.
    #[error("no stable release is named")]
    NoStable,
    /// A release has no usable name.
    #[error("{0:?} is not the name of a release")]
    Name(String),
    /// More is given away than there is.
    #[error("shares sum to {0} basis points of {WHOLE_BPS}")]
    Sum(u32),
    /// A release appears twice; stable's share is what is left.
    #[error("release {0} is named twice")]
    Twice(String),
    /// More shares than anybody can judge.
    #[error("{0} shares; at most {SHARES_MAX}")]
    Many(usize),
}

impl Traffic {
    /// Everything to one release.
    pub fn all_to(
        stable: impl Into<String>,
        author: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            stable: stable.into(),
            shares: Vec::new(),
            author: author.into(),
            reason: reason.into(),
        }
    }

    /// Adds a share.
    #[must_use]
    pub fn with_share(
        mut self,
        release: impl Into<String>,
        basis_points: u16,
        expires_unix_ms: Option<u64>,
    ) -> Self {
        self.shares.push(Share {
            release: release.into(),
            basis_points,
            expires_unix_ms,
        });
        self
    }

    /// Accepts a split that can be carried out.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), TrafficError> {
        if self.stable.is_empty() {
            return Err(TrafficError::NoStable);
        }
        if self.shares.len() > SHARES_MAX {
            return Err(TrafficError::Many(self.shares.len()));
        }
        let mut seen = Vec::with_capacity(self.shares.len() + 1);
        for release in
            std::iter::once(&self.stable).chain(self.shares.iter().map(|share| &share.release))
        {
            if crate::check_name(release).is_err() {
                return Err(TrafficError::Name(release.clone()));
            }
            if seen.contains(&release) {
                return Err(TrafficError::Twice(release.clone()));
            }
            seen.push(release);
        }
        let sum = self
            .shares
            .iter()
            .map(|share| u32::from(share.basis_points))
            .sum();
        if sum > u32::from(WHOLE_BPS) {
            Err(TrafficError::Sum(sum))
        } else {
            Ok(())
        }
    }

    /// What each release gets at a time, stable first; shares of zero are left out, and the sum is always the whole.
    ///
    /// Does not need [`Traffic::validate`]: what is given away beyond the whole is cut, later shares first.
    #[must_use]
    pub fn effective(&self, now_unix_ms: u64) -> Vec<(String, u16)> {
        let mut left = WHOLE_BPS;
        let mut others: Vec<(String, u16)> = Vec::with_capacity(self.shares.len());
        for share in self
            .shares
            .iter()
            .filter(|share| share.is_in_force(now_unix_ms))
        {
            let given = share.basis_points.min(left);
            if given == 0 || share.release == self.stable {
                continue;
            }
            left -= given;
            match others
                .iter_mut()
                .find(|(release, _)| *release == share.release)
            {
                Some((_, sum)) => *sum += given,
                None => others.push((share.release.clone(), given)),
            }
        }
        let stable = (left > 0).then(|| (self.stable.clone(), left));
        stable.into_iter().chain(others).collect()
    }

    /// Whether a share has run out, so that less is sent away than was asked for.
    #[must_use]
    pub fn has_expired(&self, now_unix_ms: u64) -> bool {
        self.shares
            .iter()
            .any(|share| share.basis_points > 0 && !share.is_in_force(now_unix_ms))
    }

    /// When [`Traffic::effective`] changes next by itself, in milliseconds of Unix time.
    #[must_use]
    pub fn next_expiry(&self, now_unix_ms: u64) -> Option<u64> {
        let ends = self.shares.iter().filter_map(|share| share.expires_unix_ms);
        ends.filter(|end| *end > now_unix_ms).min()
    }

    /// All releases named, stable first.
    pub fn releases(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.stable.as_str())
            .chain(self.shares.iter().map(|share| share.release.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traffic(shares: &[(&str, u16, Option<u64>)]) -> Traffic {
        let stable = Traffic::all_to("s", "test", "");
        shares.iter().fold(stable, |all, (release, bps, end)| {
            all.with_share(*release, *bps, *end)
        })
    }

    #[test]
    fn splits_that_contradict_themselves() {
        let many: Vec<String> = (0..17).map(|i| format!("r{i}")).collect();
        let many: Vec<_> = many
            .iter()
            .map(|release| (release.as_str(), 1, None))
            .collect();
        let cases: &[(Traffic, Option<TrafficError>)] = &[
            (traffic(&[]), None),
            (traffic(&[("c", 10_000, None)]), None),
            (traffic(&[("c", 0, Some(5)), ("d", 500, None)]), None),
            (Traffic::all_to("", "", ""), Some(TrafficError::NoStable)),
            (
                Traffic::all_to("a/b", "", ""),
                Some(TrafficError::Name("a/b".into())),
            ),
            (
                traffic(&[("c", 6000, None), ("d", 4001, None)]),
                Some(TrafficError::Sum(10_001)),
            ),
            (
                traffic(&[("c", 1, None), ("c", 1, None)]),
                Some(TrafficError::Twice("c".into())),
            ),
            (
                traffic(&[("s", 1, None)]),
                Some(TrafficError::Twice("s".into())),
            ),
            (traffic(&many), Some(TrafficError::Many(17))),
        ];
        for (traffic, expected) in cases {
            assert_eq!(traffic.validate().err(), *expected, "{traffic:?}");
        }
    }

    #[test]
    fn shares_at_a_time() {
        let canary = traffic(&[("c", 500, Some(100)), ("d", 2500, None)]);
        let before = [("s", 7000), ("c", 500), ("d", 2500)];
        let after = [("s", 7500), ("d", 2500)];
        let cases = [
            (0, &before[..], false, Some(100)),
            (99, &before[..], false, Some(100)),
            (100, &after[..], true, None),
        ];
        for (now, shares, expired, next) in cases {
            assert_eq!(canary.effective(now), owned(shares), "at {now}");
            assert_eq!(canary.has_expired(now), expired, "at {now}");
            assert_eq!(canary.next_expiry(now), next, "at {now}");
        }
        assert_eq!(
            traffic(&[("c", 10_000, None)]).effective(0),
            owned(&[("c", 10_000)])
        );
    }

    fn owned(shares: &[(&str, u16)]) -> Vec<(String, u16)> {
        shares
            .iter()
            .map(|(release, bps)| ((*release).to_owned(), *bps))
            .collect()
    }

    proptest! {
        #[test]
        fn every_call_goes_somewhere_and_only_once(
            shares in prop::collection::vec(("[s-v]", 0_u16..=12_000, prop::option::of(0_u64..100)), 0..6),
            now in 0_u64..120,
        ) {
            let shares: Vec<_> = shares.iter().map(|(release, bps, end)| (release.as_str(), *bps, *end)).collect();
            let split = traffic(&shares);
            let effective = split.effective(now);
            prop_assert_eq!(effective.iter().map(|(_, bps)| u32::from(*bps)).sum::<u32>(), u32::from(WHOLE_BPS));
            prop_assert!(effective.iter().all(|(_, bps)| *bps > 0));
            let mut names: Vec<_> = effective.iter().map(|(release, _)| release).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), effective.len());
            // What is valid is given exactly.
            if split.validate().is_ok() {
                for share in split.shares.iter().filter(|share| share.basis_points > 0) {
                    let given = effective.iter().find(|(release, _)| *release == share.release).map(|(_, bps)| *bps);
                    prop_assert_eq!(given, share.is_in_force(now).then_some(share.basis_points));
                }
            }
        }
    }
}

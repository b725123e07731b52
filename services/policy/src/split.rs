//! Which release serves the call: shares in basis points, sticky by key.
//!
//! The space of 64-bit positions is cut into 10,000 equal parts. The first candidate owns the lowest parts, the next
//! candidate those above, the stable release the rest. A call's position comes from its sticky key, so a session keeps its
//! release; and because **a growing share only moves its upper end**, a session that is on the candidate stays on it
//! through every step of a rollout, and share 0 gives all of them back. With several candidates this holds for the first; the
//! growth of one moves those above it.
//!
//! Keys are salted with the first candidate's name: the position of a session differs from one rollout to the next, so that
//! not the same users try every release first. All edges agree on positions, whatever their version, because
//! [`sticky_key`] and the salt depend on bytes alone.
//!
//! # How exactly a share holds
//!
//! Calls without a session take their positions from [`Turns`], which walks the space evenly: the share then holds within a
//! few calls over any run of them (BRG-20 asks for half a point over 20,000). Independent random positions would not do:
//! at a share of 50 % they stray further than half a point in one run of 20,000 out of six.
//!
//! That is also the limit for sessions. Where a session goes is fixed by its key, so a share of *n* sessions strays as *n*
//! tosses of a coin do (standard deviation 0.35 points for 20,000 sessions at 50 %), and more if some sessions call
//! more than others. Stickiness has this price; judge a canary by the calls it got, not by the share it was meant to get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dice::{mix, scale};

/// All of the traffic, in basis points.
pub const WHOLE: u16 = 10_000;

/// The shares in force, made anew whenever they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    stable: Arc<str>,
    candidates: Vec<Slice>,
    salt: u64,
}

/// A candidate's part of the space: from the previous end to its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    release: Arc<str>,
    end: u16,
}

/// What the call brings.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// A release that a header or the tenant's rule asks for. Ignored if the split does not know it.
    pub pinned: Option<&'a str>,
    /// [`sticky_key`] of the session; `None` for a call that belongs to no session.
    pub sticky: Option<u64>,
    /// The position of a call without a sticky key: [`Turns::next`], or entropy where the share need hold on average only.
    pub random: u64,
}

/// Why the call goes where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A header or the tenant's rule asked for it.
    Pinned,
    /// The session's position.
    Sticky,
    /// The position that the call brought, as it belongs to no session.
    Random,
}

/// The release that serves the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The release's name.
    pub release: &'a Arc<str>,
    /// Why this one.
    pub reason: Reason,
}

/// The shares contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// More than the whole was given away.
    #[error("the shares add up to {sum} basis points, and there are only 10000")]
    TooMuch {
        /// The sum of all shares, in basis points.
        sum: u64,
    },
    /// A release appears twice, or is a candidate beside itself.
    #[error("release {release} appears twice in one split")]
    Twice {
        /// The release's name.
        release: String,
    },
}

/// Positions for calls without a session that fill the space evenly: each lies a golden section of the space after the last
/// (Weyl's sequence), so that any run of them is as even as can be. One for all splits of a gateway; it outlives them.
#[derive(Debug)]
pub struct Turns(AtomicU64);

impl Turns {
    /// Starts anywhere; gateways should start at different places.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self(AtomicU64::new(random))
    }

    /// Takes the next position.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// Hashes a session's name to its sticky key, the same on every edge and in every version (FNV-1a, 64 bits, then mixed).
#[must_use]
pub fn sticky_key(session: &[u8]) -> u64 {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(session.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

impl Split {
    /// Gives each candidate its share (basis points, in this order) and the rest to `stable`.
    ///
    /// A candidate with share 0 gets only calls that are pinned to it.
    ///
    /// # Errors
    /// [`SplitError`] when the shares exceed the whole or name a release twice.
    pub fn new<'a>(
        stable: &str,
        shares: impl IntoIterator<Item = (&'a str, u16)>,
    ) -> Result<Self, SplitError> {
        let mut candidates: Vec<Slice> = Vec::new();
        let mut sum = 0_u64;
        for (release, share) in shares {
            if release == stable || candidates.iter().any(|known| &*known.release == release) {
                return Err(SplitError::Twice {
                    release: release.to_owned(),
                });
            }
            sum += u64::from(share);
            let end = u16::try_from(sum)
                .ok()
                .filter(|end| *end <= WHOLE)
                .ok_or(SplitError::TooMuch { sum })?;
            candidates.push(Slice {
                release: release.into(),
                end,
            });
        }
        let salt = candidates
            .first()
            .map_or(0, |first| sticky_key(first.release.as_bytes()));
        Ok(Self {
            stable: stable.into(),
            candidates,
            salt,
        })
    }

    /// Chooses the release for one call.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> Choice<'_> {
        if let Some(release) = facts.pinned.and_then(|name| self.named(name)) {
            return Choice {
                release,
                reason: Reason::Pinned,
            };
        }
        let (position, reason) = match facts.sticky {
            Some(key) => (mix(key ^ self.salt), Reason::Sticky),
            None => (facts.random, Reason::Random),
        };
        Choice {
            release: self.at(position),
            reason,
        }
    }

    /// The release that gets what no candidate owns.
    #[must_use]
    pub fn stable(&self) -> &Arc<str> {
        &self.stable
    }

    /// All releases of the split, the stable one first.
    pub fn releases(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.stable).chain(self.candidates.iter().map(|slice| &slice.release))
    }

    fn named(&self, name: &str) -> Option<&Arc<str>> {
        self.releases().find(|release| &***release == name)
    }

    fn at(&self, position: u64) -> &Arc<str> {
        let part = scale(position, u64::from(WHOLE));
        let owner = self
            .candidates
            .iter()
            .find(|slice| part < u64::from(slice.end));
        owner.map_or(&self.stable, |slice| &slice.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn release(split: &Split, sticky: Option<u64>, random: u64) -> &str {
        split
            .choose(&Facts {
                pinned: None,
                sticky,
                random,
            })
            .release
    }

    /// Points of a hundred by which the candidate's part of 20,000 calls differs from its share.
    fn points_off(share: u16, call: impl Fn(&Split, u64) -> bool) -> f64 {
        let split = Split::new("old", [("new", share)]).unwrap();
        let on_new = (0..20_000).filter(|&number| call(&split, number)).count();
        assert!((share != 0 || on_new == 0) && (share != WHOLE || on_new == 20_000));
        (on_new as f64 / 200.0 - f64::from(share) / 100.0).abs()
    }

    /// Five standard deviations of 20,000 independent draws, in points.
    fn chance(share: u16) -> f64 {
        let part = f64::from(share) / f64::from(WHOLE);
        5.0 * (part * (1.0 - part) / 20_000.0).sqrt() * 100.0
    }

    #[test]
    fn sessions_stray_from_their_share_only_as_far_as_chance() {
        for share in [0, 100, 500, 2_500, 5_000, 9_999, 10_000] {
            for seed in 0..5 {
                let off = points_off(share, |split, call| {
                    let session = sticky_key(format!("session-{seed}-{call}").as_bytes());
                    release(split, Some(session), 0) == "new"
                });
                assert!(
                    off <= chance(share) + 0.01,
                    "{off} points from {share} basis points, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_pinned_call_goes_where_it_asks_even_at_share_zero() {
        let split = Split::new("old", [("new", 0), ("other", 10_000)]).unwrap();
        for (pinned, expect, reason) in [
            (Some("new"), "new", Reason::Pinned),
            (Some("old"), "old", Reason::Pinned),
            (Some("gone"), "other", Reason::Sticky),
            (None, "other", Reason::Sticky),
        ] {
            let choice = split.choose(&Facts {
                pinned,
                sticky: Some(1),
                random: 0,
            });
            assert_eq!(
                (&**choice.release, choice.reason),
                (expect, reason),
                "{pinned:?}"
            );
        }
        assert_eq!(
            split
                .choose(&Facts {
                    pinned: None,
                    sticky: None,
                    random: 3
                })
                .reason,
            Reason::Random
        );
        assert_eq!(
            split.releases().map(|name| &**name).collect::<Vec<_>>(),
            ["old", "new", "other"]
        );
    }

    #[test]
    fn shares_that_contradict_are_refused() {
        let twice = |release: &str| SplitError::Twice {
            release: release.to_owned(),
        };
        let cases: [(&[(&str, u16)], SplitError); 4] = [
            (&[("new", 10_001)], SplitError::TooMuch { sum: 10_001 }),
            (
                &[("a", 6_000), ("b", 6_000)],
                SplitError::TooMuch { sum: 12_000 },
            ),
            (&[("a", 1), ("a", 2)], twice("a")),
            (&[("old", 1)], twice("old")),
        ];
        for (shares, expect) in cases {
            assert_eq!(
                Split::new("old", shares.iter().copied()).unwrap_err(),
                expect
            );
        }
    }

    #[test]
    fn the_next_rollout_tries_other_sessions_first() {
        let first = Split::new("v1", [("v2", 1_000)]).unwrap();
        let next = Split::new("v2", [("v3", 1_000)]).unwrap();
        let both = (0..20_000).map(mix).filter(|&key| {
            release(&first, Some(key), 0) == "v2" && release(&next, Some(key), 0) == "v3"
        });
        let both = both.count();
        assert!(
            (150..250).contains(&both),
            "1 % of 20,000 by chance, found {both}"
        );
    }

    #[test]
    fn sticky_keys_never_change_between_versions() {
        assert_eq!(sticky_key(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(
            sticky_key(b"a"),
            mix(0xaf63_dc4c_8601_ec8c),
            "FNV-1a test vector"
        );
        assert_eq!(
            sticky_key(b"foobar"),
            mix(0x8594_4171_f739_67e8),
            "FNV-1a test vector"
        );
    }

    proptest! {
        // Every share and every start, as a share that holds from one start only would hold by luck.
        #[test]
        fn brg_20_shares_hold_within_half_a_point_over_20k_calls(share in 0..=WHOLE, start: u64) {
            let turns = Turns::new(start);
            let off = points_off(share, |split, _| release(split, None, turns.next()) == "new");
            prop_assert!(off <= 0.05, "{} points from {} basis points", off, share);
        }

        // Calls of different kinds may alternate; then each kind sees every second, third, ... position.
        #[test]
        fn shares_hold_for_every_nth_call(share in 0..=WHOLE, start: u64, nth in 2_usize..20) {
            let turns = Turns::new(start);
            let off = points_off(share, |split, _| {
                let positions: Vec<u64> = (0..nth).map(|_| turns.next()).collect();
                release(split, None, positions[0]) == "new"
            });
            prop_assert!(off <= 0.5, "{} points from {} basis points, every {}th", off, share, nth);
        }

        #[test]
        fn a_session_on_the_candidate_stays_while_the_share_grows(key: u64, low in 0..=WHOLE, more in 0..=WHOLE) {
            let high = low.saturating_add(more).min(WHOLE);
            let at = |share| release(&Split::new("old", [("new", share)]).unwrap(), Some(key), 0).to_owned();
            if at(low) == "new" {
                prop_assert_eq!(at(high), "new");
            }
            prop_assert_eq!(at(0), "old");
            prop_assert_eq!(at(WHOLE), "new");
        }
    }
}

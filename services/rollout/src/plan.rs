//! A strategy bound to two releases: what will be done, and a hash that names it.
//!
//! The hash covers everything that decides how the rollout goes, so that an approval, a second
//! `deploy` of the same thing or a resumed driver can tell whether it is still the same plan.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::quantity::BasisPoints;
use crate::strategy::{Invalid, Problem, Strategy};

/// A release and what its instances must report about themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The content hash that names the release.
    pub id: String,
    /// The configuration digest its instances must report, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// The binary digest its instances must report, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_digest: Option<String>,
}

impl Release {
    /// A release of which only the name is known.
    #[must_use]
    pub fn named(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            config_digest: None,
            binary_digest: None,
        }
    }
}

/// What will be done. Made only by [`Plan::new`], so that its strategy is one that was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    candidate: Release,
    stable: Option<Release>,
    replicas: u32,
    strategy: Strategy,
}

/// The most instances of one release.
const REPLICAS_MAX: u32 = 10_000;

impl Plan {
    /// The plan to replace `stable` by `candidate`, with `replicas` instances in the end. Without
    /// a stable release there is nothing to compare with: the steps are skipped.
    ///
    /// # Errors
    /// Everything in the strategy that is out of range, a candidate that is the stable release
    /// already, and a number of replicas outside 1 to 10 000.
    pub fn new(
        candidate: Release,
        stable: Option<Release>,
        replicas: u32,
        strategy: Strategy,
    ) -> Result<Self, Invalid> {
        let plan = Self {
            candidate,
            stable,
            replicas,
            strategy,
        };
        plan.check()?;
        Ok(plan)
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let mut problems = self.strategy.problems();
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            let allowed = format!("1 to {REPLICAS_MAX}");
            problems.push(Problem::new(
                "replicas",
                &self.replicas.to_string(),
                &allowed,
            ));
        }
        if self.stable_id() == Some(&self.candidate.id) {
            let allowed = "a release other than the one that is stable now";
            problems.push(Problem::new("release", &self.candidate.id, allowed));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Invalid { problems })
        }
    }

    /// The release that comes.
    #[must_use]
    pub fn candidate(&self) -> &Release {
        &self.candidate
    }

    /// The release that goes, and that an abort returns to.
    #[must_use]
    pub fn stable(&self) -> Option<&Release> {
        self.stable.as_ref()
    }

    pub(crate) fn stable_id(&self) -> Option<&String> {
        self.stable.as_ref().map(|release| &release.id)
    }

    /// Instances of the candidate at full traffic.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// How it is done.
    #[must_use]
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// Instances that must be ready before the candidate may have `weight`.
    #[must_use]
    pub fn replicas_for(&self, weight: BasisPoints) -> u32 {
        weight.of(self.replicas).max(1)
    }

    /// SHA-256 of the whole plan in hexadecimal; the first 12 characters are shown to people.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        clippy::expect_used,
        reason = "a plan has only strings and numbers, which always have a JSON form"
    )]
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).expect("a plan is plain data");
        let digest = Sha256::digest(&text);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(weight: u16) -> Plan {
        let strategy = Strategy::canary(BasisPoints::percent(weight));
        let stable = Some(Release::named("old"));
        Plan::new(Release::named("new"), stable, 3, strategy).unwrap()
    }

    #[test]
    fn the_hash_names_the_plan() {
        assert_eq!(plan(5).hash(), plan(5).hash());
        assert_ne!(plan(5).hash(), plan(6).hash());
        let read: Plan = serde_json::from_str(&serde_json::to_string(&plan(5)).unwrap()).unwrap();
        assert_eq!(read.hash(), plan(5).hash());
        assert_eq!(plan(5).hash().len(), 64);
    }

    #[test]
    fn the_live_release_is_no_candidate() {
        let same = Some(Release::named("a"));
        let error = Plan::new(Release::named("a"), same, 0, Strategy::default()).unwrap_err();
        insta::assert_snapshot!(error, @r"
        replicas is 0, allowed: 1 to 10000
        release is a, allowed: a release other than the one that is stable now
        ");
    }
}

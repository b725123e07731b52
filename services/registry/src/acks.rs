//! When a split of traffic is in force: when every live edge has said so.

use std::sync::Arc;
use std::time::Duration;

use store::Revision;
use tokio::sync::watch;

use crate::{Fleet, Role};

/// Which edges send by a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckReport {
    /// The generation asked for, or a later one.
    pub generation: Revision,
    /// Edges that have acknowledged it.
    pub acked: Vec<String>,
    /// Edges among those whose leased shares have run out: they send everything to stable.
    pub expired: Vec<String>,
    /// Live edges that have not acknowledged it.
    pub missing: Vec<String>,
}

impl AckReport {
    /// Judges a fleet. Edges that are gone are not asked for; those that drain still send, and are.
    #[must_use]
    pub fn of(fleet: &Fleet, generation: Revision) -> Self {
        let mut report = Self {
            generation,
            ..Self::default()
        };
        for edge in fleet.live(Role::Edge) {
            match fleet
                .acks
                .get(&edge.name)
                .filter(|ack| ack.generation >= generation)
            {
                Some(ack) => {
                    report.acked.push(edge.name.clone());
                    if ack.expired {
                        report.expired.push(edge.name.clone());
                    }
                }
                None => report.missing.push(edge.name.clone()),
            }
        }
        report
    }

    /// Whether no live edge is missing. True of a fleet without edges: nobody sends otherwise.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Waits until every live edge has acknowledged `generation`, or until `timeout`; tells which have and which have not.
///
/// Edges that die meanwhile are no longer waited for, edges that join are.
pub async fn wait_until_acked(
    fleet: &mut watch::Receiver<Arc<Fleet>>,
    generation: Revision,
    timeout: Duration,
) -> AckReport {
    let sees_it = |fleet: &Fleet| fleet.is_synced && fleet.generation >= generation;
    let all =
        fleet.wait_for(|fleet| sees_it(fleet) && AckReport::of(fleet, generation).is_complete());
    // On time-out and at the follower's end alike the last known fleet is judged.
    drop(tokio::time::timeout(timeout, all).await);
    AckReport::of(&fleet.borrow(), generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ack, Instance};

    #[test]
    fn who_has_acknowledged() {
        let mut fleet = Fleet::default();
        assert!(AckReport::of(&fleet, 7).is_complete());
        for (edge, generation, expired) in [
            ("a", Some(7), false),
            ("b", Some(6), false),
            ("c", None, false),
            ("d", Some(8), true),
        ] {
            fleet.instances.push(Arc::new(Instance::new(
                Role::Edge,
                edge,
                "r",
                "127.0.0.1:1",
            )));
            if let Some(generation) = generation {
                fleet.acks.insert(
                    edge.to_owned(),
                    Ack {
                        generation,
                        at_unix_ms: 0,
                        expired,
                    },
                );
            }
        }
        // Of the dead nobody is asked for, and apps do not send.
        fleet.acks.insert(
            "dead".to_owned(),
            Ack {
                generation: 1,
                at_unix_ms: 0,
                expired: false,
            },
        );
        fleet
            .instances
            .push(Arc::new(Instance::new(Role::App, "e", "r", "127.0.0.1:1")));
        let report = AckReport::of(&fleet, 7);
        assert_eq!(
            (report.acked.as_slice(), report.missing.as_slice()),
            (&["a".into(), "d".into()][..], &["b".into(), "c".into()][..])
        );
        assert_eq!(report.expired, ["d"]);
        assert!(!report.is_complete());
    }
}

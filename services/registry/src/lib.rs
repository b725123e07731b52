//! What the fleet knows about itself: typed records over the store, and the one place that knows their keys.
//!
//! | Key | Record | Written by |
//! |---|---|---|
//! | `instances/{role}/{name}` | [`Instance`], leased | the instance itself ([`Registration`]) |
//! | `acks/app/{edge}` | [`Ack`], on the edge's lease | the edge ([`Registration::acknowledge`]) |
//! | `traffic/app` | [`Traffic`]; its `mod_revision` is the generation | whoever rolls out |
//! | `fleet/desired` | [`Desired`] | operators, rollouts |
//! | `releases/{id}` | [`Release`] | whoever makes a release known |
//! | `processes/{name}` | [`Process`] | the local agent |
//! | `rollouts/current`, `rollouts/history/{id}` | [`RolloutRecord`] | rollouts, fenced by the deploy lock |
//! | `rollouts/commands/{id}` | [`RolloutCommand`] | operators; taken by the rollout |
//!
//! Records are JSON. Unknown fields are ignored and missing ones have defaults where that is safe, because instances of
//! two releases read each other's records during a rollout. A record that cannot be read is left out and reported,
//! never a reason to stop.
//!
//! What it does not know: how traffic is sent (edge), when weights change (rollout).

mod instance;
mod keys;
mod records;
mod traffic;

mod records_io;
mod rollout_journal;

mod backoff;
mod registration;

mod acks;
mod fleet;
mod watcher;

mod error;

pub use acks::{AckReport, wait_until_acked};
pub use backoff::Backoff;
pub use error::{Error, Result};
pub use fleet::Fleet;
pub use instance::{Ack, Instance, InstanceState, Load, Metadata, PluginPhase, PluginState, Role};
pub use keys::{DEPLOY_LOCK, NAME_BYTES_MAX, ROLLOUTS, check_name};
pub use records::{
    Desired, Pool, Process, ProcessState, Release, RolloutCommand, RolloutEvent, RolloutRecord,
};
pub use records_io::{Registry, Versioned};
pub use registration::{Cadence, Registration, RegistrationState};
pub use rollout_journal::{COMMANDS_MAX, HISTORY_MAX};
pub use traffic::{Share, Traffic, TrafficError, WHOLE_BPS};
pub use watcher::{synced, watch_fleet};

/// Milliseconds of Unix time now, as the records count it.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The clock that leases end by.

use std::time::Duration;

use crate::{Error, Result};

/// A time that can be compared across processes of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which boot of which machine.
    pub(super) boot: String,
    /// Milliseconds since then, those asleep included.
    pub(super) millis: i64,
}

impl Moment {
    /// Milliseconds since boot, a while from now.
    pub(super) fn after(&self, while_: Duration) -> i64 {
        self.millis
            .saturating_add(i64::try_from(while_.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Tells the time; a test's clock stands still until moved.
pub(super) trait Clock: Send + Sync + 'static {
    fn now(&self) -> Moment;
}

/// CLOCK_BOOTTIME of this boot.
pub(super) struct SystemClock {
    boot: String,
}

impl SystemClock {
    pub(super) fn read() -> Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| Error::backend("reading the boot id", error))?;
        Ok(Self {
            boot: boot.trim().to_owned(),
        })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let millis = time
            .tv_sec
            .saturating_mul(1000)
            .saturating_add(time.tv_nsec / 1_000_000);
        Moment {
            boot: self.boot.clone(),
            millis,
        }
    }
}

//! Label values of a metric, bounded: a client cannot fill the memory of ours or of Prometheus.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::IntCounter;

/// What a value becomes that is one too many.
pub const OVERFLOW_LABEL: &str = "other";

/// Longest value of a label, in bytes; a longer one overflows.
const VALUE_BYTES_MAX: usize = 128;

/// The first N values seen of one label; all further ones are [`OVERFLOW_LABEL`] and counted. Cheap
/// to clone; clones share the values.
#[derive(Clone, Debug)]
pub struct BoundedLabels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    values: RwLock<HashSet<Box<str>>>,
    values_max: usize,
    overflows: IntCounter,
}

impl BoundedLabels {
    /// Room for `values_max` values; `overflows` counts the uses of any other.
    pub fn new(values_max: usize, overflows: IntCounter) -> Self {
        Self(Arc::new(Inner {
            values: RwLock::default(),
            values_max,
            overflows,
        }))
    }

    /// The value itself while there is room for it, else [`OVERFLOW_LABEL`].
    pub fn admit<'v>(&self, value: &'v str) -> &'v str {
        if value == OVERFLOW_LABEL || self.knows(value) || self.learn(value) {
            return value;
        }
        self.0.overflows.inc();
        OVERFLOW_LABEL
    }

    /// Makes room: the value will not be used again, as when an instance has gone.
    pub fn forget(&self, value: &str) {
        self.0
            .values
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(value);
    }

    fn knows(&self, value: &str) -> bool {
        self.0
            .values
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(value)
    }

    fn learn(&self, value: &str) -> bool {
        let mut values = self
            .0
            .values
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another thread may have learned it meanwhile.
        let room = values.len() < self.0.values_max && value.len() <= VALUE_BYTES_MAX;
        values.contains(value) || (room && values.insert(value.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metr_06_one_too_many_is_other_and_counted() {
        let overflows = IntCounter::new("overflows_total", "help").unwrap();
        let labels = BoundedLabels::new(2, overflows.clone());
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for (value, expect, overflowed) in [
            ("a", "a", 0),
            (&*long, "other", 1),
            ("b", "b", 1),
            ("c", "other", 2),
            ("a", "a", 2),
            ("other", "other", 2),
        ] {
            assert_eq!(
                (labels.admit(value), overflows.get()),
                (expect, overflowed),
                "{value}"
            );
        }
        labels.forget("a");
        assert_eq!(labels.admit("c"), "c");
    }
}

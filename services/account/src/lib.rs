//! The account of calls: how many, what they cost, their bytes and their time, by tenant, subject, tool and day.
//!
//! # On disk
//!
//! Each writer (an edge) has a folder of its own, which it holds locked, and in it for each day (UTC):
//!
//! * `DAY-N.journal`: one line a call, in the order in which they ended. Segments are numbered from 1.
//! * `DAY.json`: the sums of the segments up to the number it names. It is replaced by a rename, and the segments that
//!   it holds are removed after that; those still there are passed over.
//!
//! So the sums of a day are `DAY.json` plus the segments with a higher number, whenever the writer was killed.
//!
//! # What is exact
//!
//! [`Book::write`] returns when the lines are in the kernel's hands, in one `write`. The edge tells no client an answer
//! before that. So after the writer was killed (`kill -9`, a panic, no memory), **every call whose answer a client has got
//! is counted, once**; a call that was under way may be counted too, if its answer was ready but not yet sent. A line that
//! was cut off belongs to a call that was not answered; it is not counted. What a power failure or a crash of the kernel may
//! take is what was written since the last [`Book::file`]'s `sync_data`, which the edge asks for every second.

mod book;
mod day;
mod read;

pub use book::{Book, Fold};
pub use day::Day;
pub use read::{Accounts, Total, read, read_day};

use serde::{Deserialize, Serialize};

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The caller's tenant.
    pub tenant: String,
    /// The caller.
    pub subject: String,
    /// The tool, or the method of what is no tool call.
    pub tool: String,
    /// What it adds.
    pub sums: Sums,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Calls.
    pub calls: u64,
    /// Those that ended with an error, or not at all.
    pub failed: u64,
    /// Units of cost.
    pub cost: u64,
    /// Bytes of requests.
    pub bytes_in: u64,
    /// Bytes of answers.
    pub bytes_out: u64,
    /// Microseconds under way.
    pub time_us: u64,
}

impl Sums {
    /// Adds.
    pub fn add(&mut self, other: &Sums) {
        for (sum, more) in [
            (&mut self.calls, other.calls),
            (&mut self.failed, other.failed),
            (&mut self.cost, other.cost),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.time_us, other.time_us),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Whose calls, and of what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The tenant.
    pub tenant: String,
    /// The subject.
    pub subject: String,
    /// The tool or method.
    pub tool: String,
}

/// Stands for whatever is past a bound.
pub const OTHER: &str = "(other)";

/// A line of a journal.
type Line<'a> = (
    std::borrow::Cow<'a, str>,
    std::borrow::Cow<'a, str>,
    std::borrow::Cow<'a, str>,
    u64,
    u64,
    u64,
    u64,
    u64,
);

/// The sums of a day, as `DAY.json` has them.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Folded {
    /// Number of the last segment that is in it.
    through: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    sums: Sums,
}

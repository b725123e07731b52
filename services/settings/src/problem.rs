//! What is wrong with a configuration, all of it at once, each with its place and what to write instead.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::quantity::shorten;

/// Problems beyond this many are counted, not described: their cause is one, and a reader stops sooner.
const PROBLEMS_MAX: usize = 64;

/// Where a value, or a mistake, comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// The file as a whole.
    File {
        /// Name of the file, as it was given.
        #[serde(serialize_with = "shared")]
        file: Arc<str>,
    },
    /// A place in the file.
    Position {
        /// Name of the file, as it was given.
        #[serde(serialize_with = "shared")]
        file: Arc<str>,
        /// Counted from one.
        line: usize,
        /// Counted from one, in characters.
        column: usize,
    },
    /// A variable of the environment.
    Environment {
        /// The variable's name.
        #[serde(serialize_with = "shared")]
        variable: Arc<str>,
    },
}

fn shared<S: serde::Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { file } => formatter.write_str(file),
            Self::Position { file, line, column } => write!(formatter, "{file}:{line}:{column}"),
            Self::Environment { variable } => write!(formatter, "environment variable {variable}"),
        }
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is.
    pub origin: Origin,
    /// The key it concerns, in dots: `edge.http.body_limit`; empty for the file as a whole.
    pub key: String,
    /// What stands there, shortened; `***` in place of a secret.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
    /// A line that would be right.
    pub write: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.origin)?;
        if !self.key.is_empty() {
            write!(formatter, ": {}", self.key)?;
        }
        write!(
            formatter,
            "\n  found:   {}\n  allowed: {}",
            self.found, self.allowed
        )?;
        match &self.write {
            Some(line) => write!(formatter, "\n  write:   {line}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the file, then of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Errors {
    /// The mistakes; never empty.
    pub problems: Vec<Problem>,
    /// How many more there are that are not described.
    pub omitted: usize,
}

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len() + self.omitted;
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(formatter, "the configuration has {count} {noun}")?;
        for problem in &self.problems {
            write!(formatter, "\n\n{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(formatter, "\n\nand {omitted} more"),
        }
    }
}

/// Gathers problems while a configuration is read to its end.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    problems: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// Adds one; the description is made only if there is room for it.
    pub(crate) fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem());
        } else {
            self.omitted += 1;
        }
    }

    /// Ends the gathering: `value` if nothing is wrong.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Errors> {
        if let (true, Some(value)) = (self.problems.is_empty(), value) {
            return Ok(value);
        }
        self.problems.sort_by_key(|problem| match &problem.origin {
            Origin::Position { line, column, .. } => (0, *line, *column),
            Origin::File { .. } => (1, 0, 0),
            Origin::Environment { .. } => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        });
        Err(Errors {
            problems: self.problems,
            omitted: self.omitted,
        })
    }
}

/// Shows a text in quotes, escaped and shortened, without the credentials a URL may carry.
pub(crate) fn quote(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!(
                "\"{}://***{}\"",
                shorten(&text[..scheme]),
                shorten(&text[at..])
            )
        }
        _ => format!("\"{}\"", shorten(text)),
    }
}

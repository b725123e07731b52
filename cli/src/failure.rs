//! Errors for people: what went wrong, why, and what to do next.
//!
//! Any `anyhow` error may end a verb. A [`Failure`] somewhere in its chain adds the next step and the exit
//! code; without one the exit is [`Exit::ERROR`] and no advice is given.

use std::error::Error;
use std::fmt;

use crate::exit::Exit;

/// An error that knows its exit code and the reader's next step.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: Exit,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// Says what was being attempted and what stood in the way.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit: Exit::ERROR,
            source: None,
        }
    }

    /// Adds what the reader can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends the command with this code instead of [`Exit::ERROR`].
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Keeps the error that caused this one.
    pub(crate) fn source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

/// What is shown of an error: one line per link of its chain, the hint, the exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The error and its causes, outermost first, repeated words left out.
    pub(crate) lines: Vec<String>,
    /// The next step.
    pub(crate) hint: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

/// Takes an error apart for printing.
pub(crate) fn tell(error: &anyhow::Error) -> Told {
    let mut told = Told {
        lines: Vec::new(),
        hint: None,
        exit: Exit::ERROR,
    };
    let mut found = false;
    for link in error.chain() {
        let line = link.to_string();
        // Some libraries print their source in their own message; once is enough.
        if !told.lines.last().is_some_and(|last| last.contains(&line)) {
            told.lines.push(line);
        }
        if let Some(failure) = link.downcast_ref::<Failure>() {
            if !found {
                told.exit = failure.exit;
                found = true;
            }
            if told.hint.is_none() {
                told.hint.clone_from(&failure.hint);
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_first_failure_in_the_chain_decides_exit_and_hint() {
        let inner = Failure::new("store.db is locked")
            .hint("run `sweetops status`")
            .exit(Exit::REFUSED);
        let error = Err::<(), _>(inner)
            .context("cannot read the fleet")
            .unwrap_err();
        let told = tell(&error);
        assert_eq!(told.lines, ["cannot read the fleet", "store.db is locked"]);
        assert_eq!(told.hint.as_deref(), Some("run `sweetops status`"));
        assert_eq!(told.exit, Exit::REFUSED);
    }

    #[test]
    fn a_cause_already_quoted_is_not_repeated() {
        let error = anyhow::Error::new(
            Failure::new("cannot open x: permission denied").source("permission denied"),
        );
        assert_eq!(tell(&error).lines, ["cannot open x: permission denied"]);
        assert_eq!(tell(&error).exit, Exit::ERROR);
    }
}

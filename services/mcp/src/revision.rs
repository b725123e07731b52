//! The five published revisions of the protocol and the two eras they fall into.

use std::fmt;

/// A published revision of the protocol, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: the first; HTTP with server-sent events.
    V2024_11_05,
    /// 2025-03-26: streamable HTTP, JSON-RPC batches.
    V2025_03_26,
    /// 2025-06-18: no batches, structured tool output, `MCP-Protocol-Version`.
    V2025_06_18,
    /// 2025-11-25: the last with sessions.
    V2025_11_25,
    /// 2026-07-28: stateless; the form used inside the fleet.
    V2026_07_28,
}

/// How a revision keeps what it knows of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// `initialize`, then a session (`Mcp-Session-Id`).
    Legacy,
    /// Each request says all that is needed (`params._meta`).
    Modern,
}

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: [Revision; 5] = [
        Revision::V2024_11_05,
        Revision::V2025_03_26,
        Revision::V2025_06_18,
        Revision::V2025_11_25,
        Revision::V2026_07_28,
    ];

    /// The newest revision that begins with `initialize`.
    pub const LATEST_LEGACY: Revision = Revision::V2025_11_25;

    /// The newest revision, which the fleet speaks inside.
    pub const LATEST: Revision = Revision::V2026_07_28;

    /// Reads a revision as it stands on the wire (`2025-06-18`); `None` if there is no such one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Revision> {
        Revision::ALL.into_iter().find(|r| r.as_str() == text)
    }

    /// The revision as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Revision::V2024_11_05 => "2024-11-05",
            Revision::V2025_03_26 => "2025-03-26",
            Revision::V2025_06_18 => "2025-06-18",
            Revision::V2025_11_25 => "2025-11-25",
            Revision::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era this revision belongs to.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Revision::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }

    /// Whether a POST may carry an array of messages: only ever in 2025-03-26.
    #[must_use]
    pub const fn takes_batches(self) -> bool {
        matches!(self, Revision::V2025_03_26)
    }

    /// Answers the version that an `initialize` asks for: the same if it is a legacy one that we speak,
    /// else the newest legacy one. `initialize` never leads to a stateless revision.
    #[must_use]
    pub fn negotiate(requested: &str) -> Revision {
        match Revision::parse(requested) {
            Some(revision) if revision.era() == Era::Legacy => revision,
            _ => Revision::LATEST_LEGACY,
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_revision_reads_back_and_stands_in_its_era() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
            assert_eq!(
                revision.era() == Era::Modern,
                revision >= Revision::V2026_07_28
            );
        }
        assert_eq!(Revision::parse("2026-07-29"), None);
    }

    #[test]
    fn initialize_gets_its_own_version_or_the_newest_with_sessions() {
        for (asked, answered) in [
            ("2024-11-05", Revision::V2024_11_05),
            ("2025-03-26", Revision::V2025_03_26),
            ("2025-11-25", Revision::V2025_11_25),
            ("2026-07-28", Revision::V2025_11_25),
            ("2099-01-01", Revision::V2025_11_25),
            ("", Revision::V2025_11_25),
        ] {
            assert_eq!(Revision::negotiate(asked), answered, "{asked}");
        }
    }
}

//! The methods of the protocol, and which of them may run twice.

use std::fmt;

/// Whether sending a request again can do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Running it twice changes nothing: it may be retried, hedged, coalesced.
    Safe,
    /// It must reach a server at most once.
    Unsafe,
}

/// A method's name, known or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// `initialize` (legacy)
    Initialize,
    /// `ping` (legacy)
    Ping,
    /// `server/discover` (modern)
    Discover,
    /// `tools/list`
    ToolsList,
    /// `tools/call`
    ToolsCall,
    /// `resources/list`
    ResourcesList,
    /// `resources/templates/list`
    ResourceTemplatesList,
    /// `resources/read`
    ResourcesRead,
    /// `prompts/list`
    PromptsList,
    /// `prompts/get`
    PromptsGet,
    /// `completion/complete`
    Complete,
    /// `logging/setLevel` (legacy)
    SetLevel,
    /// `notifications/initialized` (legacy)
    Initialized,
    /// `notifications/cancelled`
    Cancelled,
    /// Anything else, as sent. Never used as a metric label.
    Other(Box<str>),
}

/// Every method we know by name, with that name.
const KNOWN: [(&str, Method); 14] = [
    ("initialize", Method::Initialize),
    ("ping", Method::Ping),
    ("server/discover", Method::Discover),
    ("tools/list", Method::ToolsList),
    ("tools/call", Method::ToolsCall),
    ("resources/list", Method::ResourcesList),
    ("resources/templates/list", Method::ResourceTemplatesList),
    ("resources/read", Method::ResourcesRead),
    ("prompts/list", Method::PromptsList),
    ("prompts/get", Method::PromptsGet),
    ("completion/complete", Method::Complete),
    ("logging/setLevel", Method::SetLevel),
    ("notifications/initialized", Method::Initialized),
    ("notifications/cancelled", Method::Cancelled),
];

impl Method {
    /// Reads a method's name.
    #[must_use]
    pub fn parse(name: &str) -> Method {
        KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map_or_else(|| Method::Other(name.into()), |(_, method)| method.clone())
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Method::Other(name) => name,
            known => known.label(),
        }
    }

    /// The name for a metric label or a log field: unknown methods are all `other`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        KNOWN
            .iter()
            .find(|(_, method)| method == self)
            .map_or("other", |(name, _)| name)
    }

    /// Whether the method takes no answer.
    #[must_use]
    pub fn is_notification(&self) -> bool {
        self.as_str().starts_with("notifications/")
    }

    /// Whether 2026-07-28 has this method; the others are answered at the edge or not at all.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        !matches!(
            self,
            Method::Initialize | Method::Ping | Method::SetLevel | Method::Initialized
        )
    }

    /// The member of `params` that `Mcp-Name` mirrors, if any.
    #[must_use]
    pub fn name_member(&self) -> Option<&'static str> {
        match self {
            Method::ToolsCall | Method::PromptsGet => Some("name"),
            Method::ResourcesRead => Some("uri"),
            _ => None,
        }
    }

    /// Whether the method itself is safe to repeat. A `tools/call` is not, unless its tool says so:
    /// [`crate::tool::Hints::repeat`].
    #[must_use]
    pub fn repeat(&self) -> Repeat {
        match self {
            Method::ToolsCall | Method::Other(_) | Method::Cancelled => Repeat::Unsafe,
            _ => Repeat::Safe,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_read_back() {
        for (name, method) in KNOWN {
            assert_eq!(Method::parse(name), method);
            assert_eq!(method.as_str(), name);
        }
    }

    #[test]
    fn unknown_methods_keep_their_name_but_are_no_label() {
        let method = Method::parse("x/y");
        assert_eq!(method.as_str(), "x/y");
        assert_eq!(method.label(), "other");
        assert_eq!(method.repeat(), Repeat::Unsafe);
    }
}

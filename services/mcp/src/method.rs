//! The methods of the protocol: who sends them, in which revisions, and which of them may run twice.

use std::fmt;

use crate::revision::Revision;

/// Whether sending a request again can do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Running it twice changes nothing: it may be retried, hedged, coalesced.
    Safe,
    /// It must reach a server at most once.
    Unsafe,
}

/// What a message of a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client asks a server.
    Request,
    /// A server asks a client: a message of its own in the legacy era, an entry of `inputRequests` in
    /// the modern one.
    ServerRequest,
    /// A client tells a server.
    Notification,
    /// A server tells a client.
    ServerNotification,
    /// Either side tells the other.
    EitherNotification,
}

/// Where a method stands in the history of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first revision that has it.
    pub first: Revision,
    /// The last one that has it.
    pub last: Revision,
}

impl Span {
    /// Whether `revision` lies within.
    #[must_use]
    pub fn has(self, revision: Revision) -> bool {
        (self.first..=self.last).contains(&revision)
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident $name:literal $kind:ident $first:ident $last:ident;)*) => {
        /// A method's name, known or not.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Method {
            $($(#[$doc])* $variant,)*
            /// Anything else, as sent. Never used as a metric label.
            Other(Box<str>),
        }

        /// Every method we know by name, with that name, what it is and since when until when.
        const KNOWN: &[(&str, Method, Kind, Span)] = &[
            $(($name, Method::$variant, Kind::$kind, Span { first: Revision::$first, last: Revision::$last }),)*
        ];
    };
}

methods! {
    // variant              name                                     kind               first        last
    /// `initialize`
    Initialize              "initialize"                             Request            V2024_11_05 V2025_11_25;
    /// `ping`, of either side
    Ping                    "ping"                                   Request            V2024_11_05 V2025_11_25;
    /// `server/discover`
    Discover                "server/discover"                        Request            V2026_07_28 V2026_07_28;
    /// `tools/list`
    ToolsList               "tools/list"                             Request            V2024_11_05 V2026_07_28;
    /// `tools/call`
    ToolsCall               "tools/call"                             Request            V2024_11_05 V2026_07_28;
    /// `resources/list`
    ResourcesList           "resources/list"                         Request            V2024_11_05 V2026_07_28;
    /// `resources/templates/list`
    ResourceTemplatesList   "resources/templates/list"               Request            V2024_11_05 V2026_07_28;
    /// `resources/read`
    ResourcesRead           "resources/read"                         Request            V2024_11_05 V2026_07_28;
    /// `resources/subscribe`
    ResourcesSubscribe      "resources/subscribe"                    Request            V2024_11_05 V2025_11_25;
    /// `resources/unsubscribe`
    ResourcesUnsubscribe    "resources/unsubscribe"                  Request            V2024_11_05 V2025_11_25;
    /// `prompts/list`
    PromptsList             "prompts/list"                           Request            V2024_11_05 V2026_07_28;
    /// `prompts/get`
    PromptsGet              "prompts/get"                            Request            V2024_11_05 V2026_07_28;
    /// `completion/complete`
    Complete                "completion/complete"                    Request            V2024_11_05 V2026_07_28;
    /// `logging/setLevel`
    SetLevel                "logging/setLevel"                       Request            V2024_11_05 V2025_11_25;
    /// `subscriptions/listen`
    SubscriptionsListen     "subscriptions/listen"                   Request            V2026_07_28 V2026_07_28;
    /// `tasks/get`: experimental in 2025-11-25, then of the tasks extension
    TasksGet                "tasks/get"                              Request            V2025_11_25 V2026_07_28;
    /// `tasks/update` of the tasks extension
    TasksUpdate             "tasks/update"                           Request            V2026_07_28 V2026_07_28;
    /// `tasks/cancel`: experimental in 2025-11-25, then of the tasks extension
    TasksCancel             "tasks/cancel"                           Request            V2025_11_25 V2026_07_28;
    /// `tasks/result` of 2025-11-25
    TasksResult             "tasks/result"                           Request            V2025_11_25 V2025_11_25;
    /// `tasks/list` of 2025-11-25
    TasksList               "tasks/list"                             Request            V2025_11_25 V2025_11_25;
    /// `sampling/createMessage`
    CreateMessage           "sampling/createMessage"                 ServerRequest      V2024_11_05 V2026_07_28;
    /// `roots/list`
    RootsList               "roots/list"                             ServerRequest      V2024_11_05 V2026_07_28;
    /// `elicitation/create`
    Elicit                  "elicitation/create"                     ServerRequest      V2025_06_18 V2026_07_28;
    /// `notifications/initialized`
    Initialized             "notifications/initialized"              Notification       V2024_11_05 V2025_11_25;
    /// `notifications/roots/list_changed`
    RootsChanged            "notifications/roots/list_changed"       Notification       V2024_11_05 V2025_11_25;
    /// `notifications/cancelled`
    Cancelled               "notifications/cancelled"                EitherNotification V2024_11_05 V2026_07_28;
    /// `notifications/progress`
    Progress                "notifications/progress"                 EitherNotification V2024_11_05 V2026_07_28;
    /// `notifications/message`
    LogMessage              "notifications/message"                  ServerNotification V2024_11_05 V2026_07_28;
    /// `notifications/tools/list_changed`
    ToolsChanged            "notifications/tools/list_changed"       ServerNotification V2024_11_05 V2026_07_28;
    /// `notifications/prompts/list_changed`
    PromptsChanged          "notifications/prompts/list_changed"     ServerNotification V2024_11_05 V2026_07_28;
    /// `notifications/resources/list_changed`
    ResourcesChanged        "notifications/resources/list_changed"   ServerNotification V2024_11_05 V2026_07_28;
    /// `notifications/resources/updated`
    ResourceUpdated         "notifications/resources/updated"        ServerNotification V2024_11_05 V2026_07_28;
    /// `notifications/elicitation/complete`
    ElicitationComplete     "notifications/elicitation/complete"     ServerNotification V2025_11_25 V2025_11_25;
    /// `notifications/subscriptions/acknowledged`
    Acknowledged            "notifications/subscriptions/acknowledged" ServerNotification V2026_07_28 V2026_07_28;
    /// `notifications/tasks/status` of 2025-11-25
    TaskStatus              "notifications/tasks/status"             EitherNotification V2025_11_25 V2025_11_25;
    /// `notifications/tasks` of the tasks extension
    Tasks                   "notifications/tasks"                    ServerNotification V2026_07_28 V2026_07_28;
}

impl Method {
    /// Every method that is known by name.
    pub fn all() -> impl Iterator<Item = &'static Method> {
        KNOWN.iter().map(|(_, method, _, _)| method)
    }

    /// Reads a method's name.
    #[must_use]
    pub fn parse(name: &str) -> Method {
        KNOWN.iter().find(|(known, ..)| *known == name).map_or_else(
            || Method::Other(name.into()),
            |(_, method, ..)| method.clone(),
        )
    }

    fn row(&self) -> Option<&'static (&'static str, Method, Kind, Span)> {
        KNOWN.iter().find(|(_, method, ..)| method == self)
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
        self.row().map_or("other", |(name, ..)| name)
    }

    /// What a message of this method is; `None` for a method that is not known.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.row().map(|(_, _, kind, _)| *kind)
    }

    /// The revisions that have this method; `None` for a method that is not known.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        self.row().map(|(.., span)| *span)
    }

    /// Whether `revision` has this method. One that is not known may be an extension's: every revision
    /// lets it through, and the server says whether it serves it.
    #[must_use]
    pub fn is_in(&self, revision: Revision) -> bool {
        self.span().is_none_or(|span| span.has(revision))
    }

    /// Whether the method takes no answer.
    #[must_use]
    pub fn is_notification(&self) -> bool {
        self.as_str().starts_with("notifications/")
    }

    /// Whether a client may send it in 2026-07-28; the others are answered at the edge or not at all.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        self.kind() != Some(Kind::ServerRequest) && self.is_in(Revision::LATEST)
    }

    /// Whether its complete result carries `ttlMs` and `cacheScope` in 2026-07-28.
    #[must_use]
    pub fn is_cacheable(&self) -> bool {
        matches!(
            self,
            Method::Discover
                | Method::ToolsList
                | Method::PromptsList
                | Method::ResourcesList
                | Method::ResourceTemplatesList
                | Method::ResourcesRead
        )
    }

    /// Whether a server may answer it with `input_required`.
    #[must_use]
    pub fn may_require_input(&self) -> bool {
        matches!(
            self,
            Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead
        )
    }

    /// The member of `params` that `Mcp-Name` mirrors, if any.
    #[must_use]
    pub fn name_member(&self) -> Option<&'static str> {
        match self {
            Method::ToolsCall | Method::PromptsGet => Some("name"),
            Method::ResourcesRead => Some("uri"),
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => Some("taskId"),
            _ => None,
        }
    }

    /// Whether the method itself is safe to repeat. A `tools/call` is not, unless its tool says so:
    /// [`crate::tool::Hints::repeat`].
    #[must_use]
    pub fn repeat(&self) -> Repeat {
        let once = matches!(
            self,
            Method::ToolsCall
                | Method::TasksUpdate
                | Method::CreateMessage
                | Method::Elicit
                | Method::Other(_)
        );
        match self {
            // Saying this twice tells nothing new.
            Method::Initialized => Repeat::Safe,
            _ if once || self.is_notification() => Repeat::Unsafe,
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
        for (name, method, kind, span) in KNOWN {
            assert_eq!(Method::parse(name), *method);
            assert_eq!(method.as_str(), *name);
            assert!(span.first <= span.last);
            let told = !matches!(kind, Kind::Request | Kind::ServerRequest);
            assert_eq!(method.is_notification(), told, "{name}");
        }
    }

    #[test]
    fn unknown_methods_keep_their_name_but_are_no_label() {
        let method = Method::parse("x/y");
        assert_eq!(method.as_str(), "x/y");
        assert_eq!(method.label(), "other");
        assert_eq!(method.repeat(), Repeat::Unsafe);
        assert!(method.is_modern());
    }

    #[test]
    fn what_a_client_may_send_follows_the_revisions() {
        for (name, legacy, modern) in [
            ("initialize", true, false),
            ("ping", true, false),
            ("logging/setLevel", true, false),
            ("resources/subscribe", true, false),
            ("notifications/roots/list_changed", true, false),
            ("tasks/result", true, false),
            ("server/discover", false, true),
            ("subscriptions/listen", false, true),
            ("tasks/update", false, true),
            ("tools/call", true, true),
            ("tasks/get", true, true),
            ("notifications/cancelled", true, true),
        ] {
            let method = Method::parse(name);
            assert_eq!(method.is_in(Revision::LATEST_LEGACY), legacy, "{name}");
            assert_eq!(method.is_modern(), modern, "{name}");
        }
        assert!(!Method::Elicit.is_in(Revision::V2025_03_26));
        assert!(!Method::Elicit.is_modern(), "clients never ask for input");
    }

    #[test]
    fn names_caching_and_rounds_are_those_of_the_newest_revision() {
        let listed = |pick: fn(&Method) -> bool| -> Vec<&str> {
            Method::all()
                .filter(|m| pick(m))
                .map(Method::as_str)
                .collect()
        };
        assert_eq!(
            listed(Method::may_require_input),
            ["tools/call", "resources/read", "prompts/get"]
        );
        assert_eq!(
            listed(|m| m.name_member().is_some()),
            [
                "tools/call",
                "resources/read",
                "prompts/get",
                "tasks/get",
                "tasks/update",
                "tasks/cancel"
            ]
        );
        assert_eq!(listed(Method::is_cacheable).len(), 6);
        assert!(
            listed(Method::is_cacheable)
                .iter()
                .all(|m| Method::parse(m).is_modern())
        );
    }
}

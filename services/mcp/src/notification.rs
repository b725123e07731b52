//! What one side tells the other: notifications, read as far as we look inside and written whole.
//!
//! Tokens and ids stay the JSON that came: a bridge swaps them and touches nothing else.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::call::META_SUBSCRIPTION_ID;
use crate::envelope::{self, Id};
use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};
use crate::method::Method;

/// How much a log message matters (RFC 5424), least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of RFC 5424")]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    /// Every level, least first.
    pub const ALL: [Level; 8] = [
        Level::Debug,
        Level::Info,
        Level::Notice,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Alert,
        Level::Emergency,
    ];

    /// Reads a level as it stands on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == text)
    }

    /// The level as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Alert => "alert",
            Level::Emergency => "emergency",
        }
    }
}

/// A list that may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// `notifications/tools/list_changed`
    Tools,
    /// `notifications/prompts/list_changed`
    Prompts,
    /// `notifications/resources/list_changed`
    Resources,
    /// `notifications/roots/list_changed`, from a client
    Roots,
}

impl List {
    /// The notification of its change.
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            List::Tools => Method::ToolsChanged,
            List::Prompts => Method::PromptsChanged,
            List::Resources => Method::ResourcesChanged,
            List::Roots => Method::RootsChanged,
        }
    }
}

/// A notification, as far as we look inside.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// Work goes on.
    Progress {
        /// The token that the request gave.
        token: Id,
        /// How far it is.
        progress: f64,
    },
    /// A log message.
    Log {
        /// How much it matters.
        level: Level,
    },
    /// Nobody waits for this request any more.
    Cancelled {
        /// The request's id.
        request: Id,
        /// Why, for people.
        reason: Option<String>,
    },
    /// A list changed.
    ListChanged(List),
    /// A resource changed.
    ResourceUpdated {
        /// Which one.
        uri: String,
    },
    /// A visit to a URL came to its end (2025-11-25).
    ElicitationComplete {
        /// The id that the elicitation gave.
        elicitation: String,
    },
    /// A `subscriptions/listen` stands.
    Acknowledged {
        /// What will be told.
        filter: Filter,
    },
    /// A task changed, in the form of either era.
    Task {
        /// Which one.
        task: String,
    },
    /// The handshake is done.
    Initialized,
    /// Any other.
    Other(Method),
}

impl Notification {
    /// Reads a notification.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when a member that the method needs is missing or of another type.
    pub fn read(method: &str, params: Option<&RawValue>) -> Result<Notification, Failure> {
        let method = Method::parse(method);
        let invalid = || {
            Failure::say(
                Cause::InvalidParams,
                format!("malformed params of {}", method.label()),
            )
        };
        let members = match params {
            Some(raw) => Members::parse(raw).map_err(|_| invalid())?,
            None => Members::default(),
        };
        let id = |name: &str| {
            members
                .get(name)
                .and_then(Id::parse)
                .filter(|id| id.as_json() != "null")
        };
        let text = |name: &str| members.get_str(name);
        Ok(match method {
            Method::Progress => Notification::Progress {
                token: id("progressToken").ok_or_else(invalid)?,
                progress: members
                    .get("progress")
                    .and_then(|raw| serde_json::from_str(raw.get()).ok())
                    .ok_or_else(invalid)?,
            },
            Method::LogMessage => Notification::Log {
                level: text("level")
                    .and_then(|t| Level::parse(&t))
                    .ok_or_else(invalid)?,
            },
            Method::Cancelled => Notification::Cancelled {
                request: id("requestId").ok_or_else(invalid)?,
                reason: text("reason"),
            },
            Method::ToolsChanged => Notification::ListChanged(List::Tools),
            Method::PromptsChanged => Notification::ListChanged(List::Prompts),
            Method::ResourcesChanged => Notification::ListChanged(List::Resources),
            Method::RootsChanged => Notification::ListChanged(List::Roots),
            Method::ResourceUpdated => Notification::ResourceUpdated {
                uri: text("uri").ok_or_else(invalid)?,
            },
            Method::ElicitationComplete => Notification::ElicitationComplete {
                elicitation: text("elicitationId").ok_or_else(invalid)?,
            },
            Method::Acknowledged => Notification::Acknowledged {
                filter: members
                    .get("notifications")
                    .and_then(|raw| Filter::read(raw).ok())
                    .ok_or_else(invalid)?,
            },
            Method::Tasks | Method::TaskStatus => Notification::Task {
                task: text("taskId").ok_or_else(invalid)?,
            },
            Method::Initialized => Notification::Initialized,
            other => Notification::Other(other),
        })
    }
}

/// Writes `notifications/progress`.
#[must_use]
pub fn progress(token: &Id, progress: f64, total: Option<f64>, message: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        progress_token: &'a Id,
        progress: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    }
    write(
        &Method::Progress,
        &Params {
            progress_token: token,
            progress,
            total,
            message,
        },
    )
}

/// Writes `notifications/message`.
#[must_use]
pub fn log(level: Level, logger: Option<&str>, data: &RawValue) -> Vec<u8> {
    #[derive(Serialize)]
    struct Params<'a> {
        level: Level,
        #[serde(skip_serializing_if = "Option::is_none")]
        logger: Option<&'a str>,
        data: &'a RawValue,
    }
    write(
        &Method::LogMessage,
        &Params {
            level,
            logger,
            data,
        },
    )
}

/// Writes `notifications/cancelled`.
#[must_use]
pub fn cancelled(request: &Id, reason: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        request_id: &'a Id,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    write(
        &Method::Cancelled,
        &Params {
            request_id: request,
            reason,
        },
    )
}

/// Writes the notification that a list changed.
#[must_use]
pub fn list_changed(list: List) -> Vec<u8> {
    envelope::write_notification(list.method().as_str(), None)
}

/// Writes `notifications/resources/updated`.
#[must_use]
pub fn resource_updated(uri: &str) -> Vec<u8> {
    write(&Method::ResourceUpdated, &serde_json::json!({ "uri": uri }))
}

/// Writes `notifications/elicitation/complete`.
#[must_use]
pub fn elicitation_complete(elicitation: &str) -> Vec<u8> {
    write(
        &Method::ElicitationComplete,
        &serde_json::json!({ "elicitationId": elicitation }),
    )
}

/// Writes `notifications/subscriptions/acknowledged`, which opens the stream of a `subscriptions/listen`.
#[must_use]
pub fn acknowledged(subscription: &Id, filter: &Filter) -> Vec<u8> {
    let mut params = Members::default();
    params.push("notifications", raw_of(filter));
    let params = with_meta(
        Some(&params.to_raw()),
        META_SUBSCRIPTION_ID,
        Some(subscription.as_raw()),
    );
    envelope::write_notification(Method::Acknowledged.as_str(), params.as_deref())
}

fn write(method: &Method, params: &impl Serialize) -> Vec<u8> {
    envelope::write_notification(method.as_str(), Some(&raw_of(params)))
}

/// Sets one member of `params` and leaves the others as they came.
#[must_use]
pub fn with_member(params: Option<&RawValue>, name: &str, value: &RawValue) -> Box<RawValue> {
    let mut members = members_of(params);
    members.set(name, value.to_owned());
    members.to_raw()
}

/// Sets or removes one member of `params._meta`; an empty `_meta` goes with its last member, and empty
/// parameters become none.
#[must_use]
pub fn with_meta(
    params: Option<&RawValue>,
    name: &str,
    value: Option<&RawValue>,
) -> Option<Box<RawValue>> {
    let mut members = members_of(params);
    let meta_before = members.get("_meta").map(RawValue::to_owned);
    let mut meta = members_of(meta_before.as_deref());
    match value {
        Some(value) => meta.set(name, value.to_owned()),
        None => meta.remove(name),
    }
    match meta.is_empty() {
        true => members.remove("_meta"),
        false => members.set("_meta", meta.to_raw()),
    }
    (!members.is_empty()).then(|| members.to_raw())
}

fn members_of(raw: Option<&RawValue>) -> Members<'_> {
    raw.and_then(|raw| Members::parse(raw).ok())
        .unwrap_or_default()
}

/// Most resources, and most tasks, of one filter.
pub const FILTER_ENTRIES_MAX: usize = 1024;

/// What a `subscriptions/listen` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Changes of the list of tools.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tools_list_changed: bool,
    /// Changes of the list of prompts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prompts_list_changed: bool,
    /// Changes of the list of resources.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resources_list_changed: bool,
    /// Changes of these resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_subscriptions: Vec<String>,
    /// Changes of these tasks (tasks extension).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task_ids: Vec<String>,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] when it has another form or more than [`FILTER_ENTRIES_MAX`] entries.
    pub fn read(raw: &RawValue) -> Result<Filter, Failure> {
        let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
        // An array would read as the members in order.
        let filter: Filter = is_object(raw)
            .then(|| serde_json::from_str(raw.get()).ok())
            .flatten()
            .ok_or_else(|| invalid("params.notifications must be a filter"))?;
        let most = filter
            .resource_subscriptions
            .len()
            .max(filter.task_ids.len());
        if most > FILTER_ENTRIES_MAX {
            return Err(invalid("params.notifications has too many entries"));
        }
        Ok(filter)
    }

    /// Whether a notification was asked for. A resource may be one below the one that was asked for.
    #[must_use]
    pub fn wants(&self, told: &Notification) -> bool {
        match told {
            Notification::ListChanged(List::Tools) => self.tools_list_changed,
            Notification::ListChanged(List::Prompts) => self.prompts_list_changed,
            Notification::ListChanged(List::Resources) => self.resources_list_changed,
            Notification::ResourceUpdated { uri } => {
                self.resource_subscriptions.iter().any(|wanted| {
                    uri.strip_prefix(wanted.as_str()).is_some_and(|rest| {
                        rest.is_empty()
                            || rest.starts_with(['/', '?', '#'])
                            || wanted.ends_with('/')
                    })
                })
            }
            Notification::Task { task } => self.task_ids.contains(task),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Body, Message};

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn read_back(bytes: &[u8]) -> Notification {
        let Ok(Body::One(Ok(Message::Notification { method, params }))) = envelope::read(bytes)
        else {
            panic!("no notification: {}", String::from_utf8_lossy(bytes));
        };
        Notification::read(&method, params).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_with_ids_as_they_were() {
        let token = Id::parse(&raw("12345678901234567890123")).unwrap();
        let text = Id::from_text("7");
        let filter = Filter {
            tools_list_changed: true,
            resource_subscriptions: vec!["a:b".into()],
            ..Filter::default()
        };
        for (bytes, expected) in [
            (
                progress(&token, 1.5, Some(3.0), Some("m")),
                Notification::Progress {
                    token,
                    progress: 1.5,
                },
            ),
            (
                log(Level::Alert, None, &raw("{}")),
                Notification::Log {
                    level: Level::Alert,
                },
            ),
            (
                cancelled(&text, Some("why")),
                Notification::Cancelled {
                    request: text.clone(),
                    reason: Some("why".into()),
                },
            ),
            (
                list_changed(List::Prompts),
                Notification::ListChanged(List::Prompts),
            ),
            (
                resource_updated("a:b"),
                Notification::ResourceUpdated { uri: "a:b".into() },
            ),
            (
                elicitation_complete("e"),
                Notification::ElicitationComplete {
                    elicitation: "e".into(),
                },
            ),
            (
                acknowledged(&text, &filter),
                Notification::Acknowledged { filter },
            ),
        ] {
            assert_eq!(read_back(&bytes), expected);
        }
    }

    #[test]
    fn what_lacks_its_members_is_refused() {
        for (method, params) in [
            ("notifications/progress", r#"{"progress":1}"#),
            (
                "notifications/progress",
                r#"{"progressToken":null,"progress":1}"#,
            ),
            (
                "notifications/progress",
                r#"{"progressToken":1,"progress":"1"}"#,
            ),
            ("notifications/message", r#"{"level":"loud"}"#),
            ("notifications/cancelled", "{}"),
            ("notifications/resources/updated", "[]"),
            (
                "notifications/subscriptions/acknowledged",
                r#"{"notifications":[]}"#,
            ),
        ] {
            assert!(
                Notification::read(method, Some(&raw(params))).is_err(),
                "{method} {params}"
            );
        }
    }

    #[test]
    fn members_are_swapped_one_at_a_time() {
        let params = raw(r#"{"progressToken":1,"x":1.0}"#);
        assert_eq!(
            with_member(Some(&params), "progressToken", &raw("\"t\"")).get(),
            r#"{"progressToken":"t","x":1.0}"#
        );
        let id = raw("9");
        let given = with_meta(None, META_SUBSCRIPTION_ID, Some(&id)).unwrap();
        assert_eq!(
            given.get(),
            r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":9}}"#
        );
        assert!(with_meta(Some(&given), META_SUBSCRIPTION_ID, None).is_none());
        let kept = with_meta(
            Some(&raw(r#"{"uri":"a","_meta":{"k":1.0}}"#)),
            META_SUBSCRIPTION_ID,
            None,
        );
        assert_eq!(kept.unwrap().get(), r#"{"uri":"a","_meta":{"k":1.0}}"#);
    }

    #[test]
    fn a_filter_lets_through_what_was_asked_for() {
        let filter = Filter {
            prompts_list_changed: true,
            resource_subscriptions: vec!["file:///a".into(), "x:/".into()],
            task_ids: vec!["t".into()],
            ..Filter::default()
        };
        let updated = |uri: &str| Notification::ResourceUpdated { uri: uri.into() };
        for (told, wanted) in [
            (Notification::ListChanged(List::Prompts), true),
            (Notification::ListChanged(List::Tools), false),
            (updated("file:///a"), true),
            (updated("file:///a/b"), true),
            (updated("file:///ab"), false),
            (updated("x:/y"), true),
            (Notification::Task { task: "t".into() }, true),
            (Notification::Log { level: Level::Info }, false),
        ] {
            assert_eq!(filter.wants(&told), wanted, "{told:?}");
        }
        assert_eq!(raw_of(&Filter::default()).get(), "{}");
        assert!(Filter::read(&raw(r#"{"unknown":1,"taskIds":["a"]}"#)).is_ok());
    }
}

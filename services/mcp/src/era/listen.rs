//! What servers tell unasked: the GET stream and `resources/subscribe` of the older era against
//! `subscriptions/listen`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::call::META_SUBSCRIPTION_ID;
use crate::envelope::{self, Id, Message};
use crate::members::{Members, raw_of};
use crate::method::Method;
use crate::notification::{
    FILTER_ENTRIES_MAX, Filter, List, Notification, acknowledged, with_meta,
};
use crate::revision::Revision;

use super::tasks::{self, Task};

/// What a server says that it tells unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerTells {
    /// `tools.listChanged`
    pub tools: bool,
    /// `prompts.listChanged`
    pub prompts: bool,
    /// `resources.listChanged`
    pub resources: bool,
    /// `resources.subscribe`
    pub updates: bool,
    /// The tasks extension
    pub tasks: bool,
}

impl ServerTells {
    /// Reads `capabilities` of `initialize` or `server/discover`.
    #[must_use]
    pub fn read(capabilities: &RawValue) -> ServerTells {
        let Ok(all) = Members::parse(capabilities) else {
            return ServerTells::default();
        };
        let says = |part: &str, what: &str| {
            all.get(part)
                .and_then(|raw| Members::parse(raw).ok())
                .is_some_and(|part| part.get(what).is_some_and(|v| v.get() == "true"))
        };
        ServerTells {
            tools: says("tools", "listChanged"),
            prompts: says("prompts", "listChanged"),
            resources: says("resources", "listChanged"),
            updates: says("resources", "subscribe"),
            tasks: tasks::is_extension_of(capabilities),
        }
    }

    /// The part of a filter that this server can serve.
    #[must_use]
    pub fn serve(self, wanted: &Filter) -> Filter {
        Filter {
            tools_list_changed: wanted.tools_list_changed && self.tools,
            prompts_list_changed: wanted.prompts_list_changed && self.prompts,
            resources_list_changed: wanted.resources_list_changed && self.resources,
            resource_subscriptions: match self.updates {
                true => wanted.resource_subscriptions.clone(),
                false => Vec::new(),
            },
            task_ids: match self.tasks {
                true => wanted.task_ids.clone(),
                false => Vec::new(),
            },
        }
    }
}

/// The GET stream of an older client, fed by a `subscriptions/listen` at a modern server.
#[derive(Debug)]
pub struct OldClientStream {
    revision: Revision,
    filter: Filter,
}

/// What to do with a message of the listen stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Send it to the client, in this form.
    Send(Vec<u8>),
    /// Nothing for the client.
    Nothing,
    /// The server ended the subscription: listen anew.
    Ended,
}

impl OldClientStream {
    /// A stream for a client of `revision` that subscribed to `uris` and has these tasks: older clients hear
    /// of every list that the server tells of, without asking, and of their tasks.
    #[must_use]
    pub fn new(
        revision: Revision,
        tells: ServerTells,
        uris: Vec<String>,
        tasks: Vec<String>,
    ) -> OldClientStream {
        let all = Filter {
            tools_list_changed: true,
            prompts_list_changed: true,
            resources_list_changed: true,
            resource_subscriptions: uris,
            task_ids: tasks,
        };
        OldClientStream {
            revision,
            filter: tells.serve(&all),
        }
    }

    /// The parameters of the `subscriptions/listen`; `None` when there is nothing to listen for.
    #[must_use]
    pub fn params(&self) -> Option<Box<RawValue>> {
        (self.filter != Filter::default()).then(|| {
            let mut params = Members::default();
            params.push("notifications", raw_of(&self.filter));
            params.to_raw()
        })
    }

    /// Turns a message of the listen stream into one for the client.
    #[must_use]
    pub fn hear(&self, message: &Message<'_>) -> Heard {
        let (method, params) = match message {
            Message::Notification { method, params } => (&**method, *params),
            Message::Response { .. } => return Heard::Ended,
            Message::Request { .. } => return Heard::Nothing,
        };
        let read = Notification::read(method, params);
        if !read.as_ref().is_ok_and(|told| self.filter.wants(told)) {
            return Heard::Nothing;
        }
        if let Ok(Notification::Task { .. }) = read {
            return match params.map(Task::read) {
                Some(Ok(task)) => Heard::Send(task_status(&task)),
                _ => Heard::Nothing,
            };
        }
        if !Method::parse(method).is_in(self.revision) {
            return Heard::Nothing;
        }
        let params = with_meta(params, META_SUBSCRIPTION_ID, None);
        Heard::Send(envelope::write_notification(method, params.as_deref()))
    }
}

fn task_status(task: &Task<'_>) -> Vec<u8> {
    let params = with_meta(Some(&task.legacy()), META_SUBSCRIPTION_ID, None);
    envelope::write_notification(Method::TaskStatus.as_str(), params.as_deref())
}

/// What a client may have missed whose `subscriptions/listen` stands anew, told in place of the new
/// acknowledgement: that everything changed which it says will be told. Empty for any other message.
#[must_use]
pub fn missed(acknowledgement: &Message<'_>) -> Vec<Vec<u8>> {
    let Some(granted) = Granted::read(acknowledgement) else {
        return Vec::new();
    };
    let updated = granted.filter.resource_subscriptions.iter().map(|uri| {
        let mut params = Members::default();
        params.push("uri", raw_of(uri));
        granted.notification(Method::ResourceUpdated, Some(params.to_raw()))
    });
    granted.lists_changed().chain(updated).collect()
}

/// As [`missed`], of the lists alone.
#[must_use]
pub fn lists_changed(acknowledgement: &Message<'_>) -> Vec<Vec<u8>> {
    let granted = Granted::read(acknowledgement);
    granted.map_or_else(Vec::new, |granted| granted.lists_changed().collect())
}

/// What an acknowledgement says will be told.
struct Granted {
    filter: Filter,
    subscription: Option<Box<RawValue>>,
}

impl Granted {
    fn read(acknowledgement: &Message<'_>) -> Option<Granted> {
        let Message::Notification { method, params } = acknowledgement else {
            return None;
        };
        let Ok(Notification::Acknowledged { filter }) = Notification::read(method, *params) else {
            return None;
        };
        let params = params.and_then(|raw| Members::parse(raw).ok());
        let meta = params
            .as_ref()
            .and_then(|params| Members::parse(params.get("_meta")?).ok());
        let subscription = meta.as_ref().and_then(|m| m.get(META_SUBSCRIPTION_ID));
        Some(Granted {
            subscription: subscription.map(ToOwned::to_owned),
            filter,
        })
    }

    fn lists_changed(&self) -> impl Iterator<Item = Vec<u8>> {
        [
            (self.filter.tools_list_changed, List::Tools),
            (self.filter.prompts_list_changed, List::Prompts),
            (self.filter.resources_list_changed, List::Resources),
        ]
        .into_iter()
        .filter(|(told, _)| *told)
        .map(|(_, list)| self.notification(list.method(), None))
    }

    fn notification(&self, method: Method, params: Option<Box<RawValue>>) -> Vec<u8> {
        let subscription = self.subscription.as_deref();
        let params = with_meta(params.as_deref(), META_SUBSCRIPTION_ID, subscription);
        envelope::write_notification(method.as_str(), params.as_deref())
    }
}

/// All the `subscriptions/listen` of modern clients at one connection to an older server.
///
/// Resources are subscribed to when the first listener wants them and let go with the last.
#[derive(Debug, Default)]
pub struct Subscriptions {
    listeners: BTreeMap<u64, Listener>,
    next: u64,
}

#[derive(Debug)]
struct Listener {
    id: Id,
    filter: Filter,
}

/// Most listeners at one connection.
pub const LISTENERS_MAX: usize = 4096;

/// What a new listener causes.
#[derive(Debug)]
pub struct Opened {
    /// Names the listener from now on.
    pub listener: u64,
    /// The first message of its stream.
    pub acknowledged: Vec<u8>,
    /// Resources to be subscribed to at the server.
    pub subscribe: Vec<String>,
}

impl Subscriptions {
    /// Adds a listener; `None` when there are [`LISTENERS_MAX`] already.
    ///
    /// `id` is that of the client's `subscriptions/listen`; it stands in everything it is told.
    pub fn open(&mut self, id: Id, wanted: &Filter, tells: ServerTells) -> Option<Opened> {
        if self.listeners.len() == LISTENERS_MAX {
            return None;
        }
        let mut filter = tells.serve(wanted);
        filter.resource_subscriptions.truncate(FILTER_ENTRIES_MAX);
        let subscribe = self.only_in(&filter.resource_subscriptions);
        let listener = self.next;
        self.next += 1;
        let acknowledged = acknowledged(&id, &filter);
        self.listeners.insert(listener, Listener { id, filter });
        Some(Opened {
            listener,
            acknowledged,
            subscribe,
        })
    }

    /// Removes a listener: the resources that nobody listens to any more, to be unsubscribed from.
    pub fn close(&mut self, listener: u64) -> Vec<String> {
        match self.listeners.remove(&listener) {
            None => Vec::new(),
            Some(gone) => self.only_in(&gone.filter.resource_subscriptions),
        }
    }

    /// Those of `uris` that no listener has, each once.
    fn only_in(&self, uris: &[String]) -> Vec<String> {
        let mut only: Vec<String> = Vec::new();
        for uri in uris {
            let had = self
                .listeners
                .values()
                .any(|l| l.filter.resource_subscriptions.contains(uri));
            if !had && !only.contains(uri) {
                only.push(uri.clone());
            }
        }
        only
    }

    /// Everything that is subscribed to, for a connection that begins anew.
    #[must_use]
    pub fn subscribed(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .listeners
            .values()
            .flat_map(|l| l.filter.resource_subscriptions.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// What each listener is told of a notification of the server.
    #[must_use]
    pub fn tell(&self, method: &str, params: Option<&RawValue>) -> Vec<(u64, Vec<u8>)> {
        let Ok(told) = Notification::read(method, params) else {
            return Vec::new();
        };
        self.listeners
            .iter()
            .filter(|(_, l)| l.filter.wants(&told))
            .map(|(key, l)| {
                let params = with_meta(params, META_SUBSCRIPTION_ID, Some(l.id.as_raw()));
                (
                    *key,
                    envelope::write_notification(method, params.as_deref()),
                )
            })
            .collect()
    }

    /// The last message of a listener's stream, when it is the server that ends.
    #[must_use]
    pub fn farewell(&self, listener: u64) -> Option<Vec<u8>> {
        let id = &self.listeners.get(&listener)?.id;
        let mut result = Members::default();
        result.push("resultType", raw_of("complete"));
        let result = with_meta(
            Some(&result.to_raw()),
            META_SUBSCRIPTION_ID,
            Some(id.as_raw()),
        )?;
        Some(envelope::write_result(id, &result))
    }
}

/// Writes `resources/subscribe` or `resources/unsubscribe`.
#[must_use]
pub fn write_subscribe(id: &Id, method: &Method, uri: &str) -> Vec<u8> {
    let mut params = Members::default();
    params.push("uri", raw_of(uri));
    envelope::write_request(Some(id), method.as_str(), &params.to_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Body;

    const ALL: ServerTells = ServerTells {
        tools: true,
        prompts: true,
        resources: true,
        updates: true,
        tasks: true,
    };

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).replace(r#""jsonrpc":"2.0","#, "")
    }

    #[test]
    fn an_old_clients_stream_listens_for_all_that_the_server_tells() {
        let tells = ServerTells::read(&raw(
            r#"{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
        ));
        let stream = OldClientStream::new(
            Revision::V2025_11_25,
            tells,
            vec!["a:b".into()],
            vec!["t".into()],
        );
        assert_eq!(
            stream.params().unwrap().get(),
            r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"],"taskIds":["t"]}}"#
        );
        let silent = OldClientStream::new(
            Revision::V2025_03_26,
            ServerTells::default(),
            vec!["a:b".into()],
            vec!["t".into()],
        );
        assert!(silent.params().is_none());
    }

    #[test]
    fn an_old_client_hears_changes_without_the_subscription() {
        let tells = ServerTells {
            prompts: false,
            ..ALL
        };
        let (uris, tasks) = (vec!["a:b".into()], vec!["t".into()]);
        let stream = OldClientStream::new(Revision::V2025_11_25, tells, uris, tasks);
        let meta = r#""_meta":{"io.modelcontextprotocol/subscriptionId":1}"#;
        for (message, heard) in [
            (
                format!(
                    r#"{{"method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{}},{meta}}}}}"#
                ),
                "nothing",
            ),
            (
                format!(r#"{{"method":"notifications/tools/list_changed","params":{{{meta}}}}}"#),
                r#"{"method":"notifications/tools/list_changed"}"#,
            ),
            (
                format!(
                    r#"{{"method":"notifications/resources/updated","params":{{"uri":"a:b",{meta}}}}}"#
                ),
                r#"{"method":"notifications/resources/updated","params":{"uri":"a:b"}}"#,
            ),
            (
                format!(
                    r#"{{"method":"notifications/resources/updated","params":{{"uri":"a:c",{meta}}}}}"#
                ),
                "nothing",
            ),
            (
                format!(r#"{{"method":"notifications/prompts/list_changed","params":{{{meta}}}}}"#),
                "nothing",
            ),
            (
                format!(
                    r#"{{"method":"notifications/tasks","params":{{"taskId":"t","status":"completed","ttlMs":1,"result":{{}},{meta}}}}}"#
                ),
                r#"{"method":"notifications/tasks/status","params":{"taskId":"t","status":"completed","ttl":1}}"#,
            ),
            (
                format!(
                    r#"{{"method":"notifications/tasks","params":{{"taskId":"x","status":"working",{meta}}}}}"#
                ),
                "nothing",
            ),
            (r#"{"id":1,"result":{}}"#.into(), "ended"),
        ] {
            let message = message.replacen('{', r#"{"jsonrpc":"2.0","#, 1);
            let Ok(Body::One(Ok(read))) = envelope::read(message.as_bytes()) else {
                panic!("{message}");
            };
            let got = match stream.hear(&read) {
                Heard::Send(bytes) => text(&bytes),
                Heard::Nothing => "nothing".into(),
                Heard::Ended => "ended".into(),
            };
            assert_eq!(got, heard, "{message}");
        }
    }

    #[test]
    fn who_listens_anew_hears_that_all_it_listens_to_may_have_changed() {
        let meta = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"l"}"#;
        let changed = |list: &str| {
            format!(r#"{{"method":"notifications/{list}/list_changed","params":{{{meta}}}}}"#)
        };
        let updated = format!(
            r#"{{"method":"notifications/resources/updated","params":{{"uri":"a:b",{meta}}}}}"#
        );
        for (granted, told) in [
            ("{}", vec![]),
            (r#"{"toolsListChanged":true}"#, vec![changed("tools")]),
            (
                r#"{"promptsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a:b"]}"#,
                vec![changed("prompts"), changed("resources"), updated],
            ),
        ] {
            let message = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{granted},{meta}}}}}"#
            );
            let Ok(Body::One(Ok(read))) = envelope::read(message.as_bytes()) else {
                panic!("{message}");
            };
            let texts = |all: Vec<Vec<u8>>| all.iter().map(|m| text(m)).collect::<Vec<String>>();
            assert_eq!(texts(missed(&read)), told);
            let lists = told
                .into_iter()
                .filter(|told| told.contains("list_changed"));
            assert_eq!(texts(lists_changed(&read)), lists.collect::<Vec<String>>());
        }
    }

    #[test]
    fn listeners_share_one_subscription_at_an_old_server() {
        let mut all = Subscriptions::default();
        let wants = |uris: &[&str]| Filter {
            resource_subscriptions: uris.iter().map(|u| (*u).to_owned()).collect(),
            ..Filter::default()
        };
        let first = all
            .open(Id::from_number(1), &wants(&["a:1", "a:2", "a:1"]), ALL)
            .unwrap();
        assert_eq!(first.subscribe, ["a:1", "a:2"]);
        let second = all
            .open(Id::from_text("l"), &wants(&["a:2", "a:3"]), ALL)
            .unwrap();
        assert_eq!(second.subscribe, ["a:3"]);
        assert_eq!(
            text(&second.acknowledged),
            r#"{"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:2","a:3"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#
        );
        assert_eq!(all.subscribed(), ["a:1", "a:2", "a:3"]);
        assert_eq!(all.close(first.listener), ["a:1"]);
        assert_eq!(all.close(first.listener), [""; 0]);
        assert_eq!(all.close(second.listener), ["a:2", "a:3"]);
        let unserved = all
            .open(Id::from_number(2), &wants(&["a:1"]), ServerTells::default())
            .unwrap();
        assert!(unserved.subscribe.is_empty());
    }

    #[test]
    fn each_listener_hears_what_it_asked_for_under_its_own_id() {
        let mut all = Subscriptions::default();
        let tools = Filter {
            tools_list_changed: true,
            ..Filter::default()
        };
        let one = all.open(Id::from_number(1), &tools, ALL).unwrap().listener;
        let two = all.open(Id::from_text("x"), &tools, ALL).unwrap().listener;
        all.open(Id::from_number(3), &Filter::default(), ALL)
            .unwrap();
        let told = all.tell(
            "notifications/tools/list_changed",
            Some(&raw(r#"{"_meta":{"k":1.0}}"#)),
        );
        let told: Vec<_> = told.iter().map(|(l, bytes)| (*l, text(bytes))).collect();
        let form = |id: &str| {
            format!(
                r#"{{"method":"notifications/tools/list_changed","params":{{"_meta":{{"k":1.0,"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
            )
        };
        assert_eq!(told, [(one, form("1")), (two, form("\"x\""))]);
        assert!(
            all.tell("notifications/message", Some(&raw(r#"{"level":"info"}"#)))
                .is_empty()
        );
        assert_eq!(
            text(&all.farewell(two).unwrap()),
            r#"{"id":"x","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}}"#
        );
    }

    #[test]
    fn old_servers_are_subscribed_to_one_resource_at_a_time() {
        let message = write_subscribe(&Id::from_number(4), &Method::ResourcesSubscribe, "a:b");
        assert_eq!(
            text(&message),
            r#"{"id":4,"method":"resources/subscribe","params":{"uri":"a:b"}}"#
        );
    }
}

//! Everything that is offered, merged: one immutable snapshot that every request reads without a lock.
//!
//! Names get their plugin's prefix, collisions are refused (the plugin that is configured first keeps the name), and every
//! list is in the order of names, so that two apps with the same plugins answer the same bytes. A cursor is the name after
//! which the next page begins: it holds on any app and after any change.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonschema::Validator;
use mcp::{
    Cause, Failure,
    call::META_SERVER_INFO,
    members::Members,
    mirror::{self, Mirror},
};
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{Freshness, Item, Listing, Scope, State, builtin::hex};

/// How many things one page has.
pub const PAGE_MAX: usize = 250;
/// The longest name that is served, prefix included: what every known client takes.
pub const NAME_BYTES_MAX: usize = 64;
/// The largest definition whose schema is compiled, in bytes.
const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// The member of a list's `_meta` that names what is missing from it.
pub const META_MISSING: &str = "dev.sweetmcp/missing";

/// What one plugin brings to the catalogue.
#[derive(Debug, Clone)]
pub struct Contribution {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// How its tools and prompts are called.
    pub naming: Arc<Naming>,
    /// What it offers.
    pub listing: Arc<Listing>,
    /// Whether it can be asked.
    pub state: State,
    /// What it can do beside its lists.
    pub can: Can,
    /// What it offers and is not served, as `tools/echo`: its definition is not the pinned one.
    pub held: Vec<String>,
}

/// How a plugin's tools and prompts are called in public.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naming {
    /// Before every name.
    pub prefix: String,
    /// Whole names in place of prefix and own name.
    pub names: BTreeMap<String, String>,
}

impl Naming {
    fn public(&self, own: &str) -> String {
        let named = self.names.get(own).cloned();
        named.unwrap_or_else(|| format!("{}{own}", self.prefix))
    }
}

/// What plugins can do beside their lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Can {
    /// Complete arguments.
    pub complete: bool,
    /// Tell of resources' changes.
    pub subscribe: bool,
    /// Tell what they do while they do it.
    pub log: bool,
    /// Work in tasks.
    pub tasks: Tasks,
}

/// Who says which calls become tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tasks {
    /// None do.
    #[default]
    None,
    /// Each tool's definition does (`execution.taskSupport` of 2025-11-25).
    Tool,
    /// The server does, call by call (extension of 2026-07-28).
    Server,
}

impl Can {
    /// Asks for each by its JSON Pointer into a server's capabilities.
    pub fn of(has: impl Fn(&str) -> bool) -> Self {
        Self {
            complete: has("/completions"),
            subscribe: has("/resources/subscribe"),
            log: has("/logging"),
            tasks: if has("/extensions/io.modelcontextprotocol~1tasks") {
                Tasks::Server
            } else if has("/tasks/requests/tools/call") {
                Tasks::Tool
            } else {
                Tasks::None
            },
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            complete: self.complete || other.complete,
            subscribe: self.subscribe || other.subscribe,
            log: self.log || other.log,
            tasks: self.tasks.max(other.tasks),
        }
    }
}

/// A list of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
}

impl List {
    const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    fn of(self, listing: &Listing) -> &[Item] {
        match self {
            Self::Tools => &listing.tools,
            Self::Prompts => &listing.prompts,
            Self::Resources => &listing.resources,
            Self::Templates => &listing.templates,
        }
    }

    /// Whether its keys are names, which get a prefix, or URIs, which do not.
    fn has_names(self) -> bool {
        matches!(self, Self::Tools | Self::Prompts)
    }
}

/// One thing that is offered.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Index of the plugin, in configured order.
    pub plugin: usize,
    /// The plugin's own name for it.
    pub key: String,
    /// Arguments of a tool that stand in the head too.
    pub mirrors: Vec<Mirror>,
    /// The definition under its public name.
    raw: Box<RawValue>,
    /// The compiled `inputSchema`, made when it is first needed; `None` if it cannot be compiled.
    arguments: Arc<OnceLock<Option<Validator>>>,
}

impl Entry {
    fn new(plugin: usize, key: String, raw: Box<RawValue>, mirrors: Vec<Mirror>) -> Self {
        Self {
            plugin,
            key,
            mirrors,
            raw,
            arguments: Arc::default(),
        }
    }

    /// Holds arguments against the tool's `inputSchema`. Returns the result that says what does not fit, if anything does
    /// not. A schema that cannot be compiled refuses nothing: the plugin looks for itself.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for arguments that are no object.
    pub fn check_arguments(
        &self,
        arguments: Option<&RawValue>,
    ) -> Result<Option<Box<RawValue>>, Failure> {
        let arguments: Value = match arguments {
            None => json!({}),
            Some(raw) => serde_json::from_str(raw.get())
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| {
                    Failure::say(Cause::InvalidParams, "params.arguments must be an object")
                })?,
        };
        let compiled = self.arguments.get_or_init(|| compile(&self.raw));
        let problems = compiled
            .as_ref()
            .map(|validator| crate::schema::misfits(validator, &arguments))
            .unwrap_or_default();
        if problems.is_empty() {
            return Ok(None);
        }
        to_raw_value(&crate::schema::refusal(&problems))
            .map(Some)
            .map_err(|_| Failure::new(Cause::Internal))
    }
}

fn input_schema(definition: &RawValue) -> Option<Value> {
    let members = Members::parse(definition).ok()?;
    serde_json::from_str(members.get("inputSchema")?.get()).ok()
}

fn compile(definition: &RawValue) -> Option<Validator> {
    if definition.get().len() > SCHEMA_BYTES_MAX {
        return None;
    }
    crate::schema::options()
        .build(&input_schema(definition)?)
        .ok()
}

/// Something that is not offered, or may be out of date, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's state.
    pub state: &'static str,
    /// What is missing and why.
    pub reason: String,
    /// The plugin that has the name in its place; whoever may not see that one is not told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<String>,
    /// The list that it is missing from; `None` for what may be missing from any.
    #[serde(skip)]
    pub list: Option<List>,
}

/// The merged snapshot.
#[derive(Debug, Default)]
pub struct Catalogue {
    lists: BTreeMap<List, BTreeMap<String, Entry>>,
    /// The pages of each list, ready to be sent, by the name after which they begin.
    pages: BTreeMap<(List, Option<String>), Arc<RawValue>>,
    missing: Vec<Missing>,
    freshness: Freshness,
    can: Can,
    digests: BTreeMap<List, String>,
    digest: String,
}

impl Catalogue {
    /// Merges what the plugins bring, in their configured order.
    pub fn merge(contributions: &[Contribution]) -> Self {
        let mut catalogue = Self {
            freshness: freshness(contributions),
            missing: contributions
                .iter()
                .flat_map(|from| missing(from).into_iter().chain(held(from)))
                .collect(),
            can: contributions
                .iter()
                .fold(Can::default(), |so_far, from| so_far.or(from.can)),
            ..Self::default()
        };
        for list in List::ALL {
            let entries = catalogue.entries(list, contributions);
            catalogue.lists.insert(list, entries);
        }
        catalogue.finish();
        catalogue
    }

    fn entries(&mut self, list: List, contributions: &[Contribution]) -> BTreeMap<String, Entry> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (plugin, from) in contributions.iter().enumerate() {
            for item in list.of(&from.listing) {
                let (reason, taken_by) = match public(item, list, from) {
                    Ok((name, raw, mirrors)) => match entries.get(&name) {
                        None => {
                            let entry = Entry::new(plugin, item.key.clone(), raw, mirrors);
                            entries.insert(name, entry);
                            continue;
                        }
                        Some(first) => {
                            let first = contributions.get(first.plugin);
                            let first = first.map(|first| first.plugin.to_string());
                            (taken(&name), first)
                        }
                    },
                    Err(reason) => (reason, None),
                };
                self.missing.push(Missing {
                    plugin: from.plugin.to_string(),
                    state: from.state.as_str(),
                    reason,
                    taken_by,
                    list: Some(list),
                });
            }
        }
        entries
    }

    /// Leaves out what these plugins offer, and that they are missing. What depends on who asks is for nobody else's
    /// cache.
    pub fn without(&self, hidden: &[(usize, Arc<str>)]) -> Self {
        let is_hidden = |plugin: usize| hidden.iter().any(|(index, _)| *index == plugin);
        let seen = |entries: &BTreeMap<String, Entry>| -> BTreeMap<String, Entry> {
            entries
                .iter()
                .filter(|(_, entry)| !is_hidden(entry.plugin))
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .collect()
        };
        let missing = self.missing.iter();
        let is_named = |plugin: &str| hidden.iter().any(|(_, name)| **name == *plugin);
        let named = |one: &&Missing| !is_named(&one.plugin);
        let told = |one: &Missing| Missing {
            taken_by: one.taken_by.clone().filter(|plugin| !is_named(plugin)),
            ..one.clone()
        };
        let mut catalogue = Self {
            lists: self
                .lists
                .iter()
                .map(|(list, all)| (*list, seen(all)))
                .collect(),
            missing: missing.filter(named).map(told).collect(),
            freshness: Freshness {
                scope: Scope::Private,
                ..self.freshness
            },
            can: self.can,
            ..Self::default()
        };
        catalogue.finish();
        catalogue
    }

    /// Writes what is derived from the lists.
    fn finish(&mut self) {
        self.fingerprint();
        for list in List::ALL {
            let mut after = None;
            while let Ok((page, next)) = self.write_page(list, after.as_deref()) {
                self.pages.insert((list, after), page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
    }

    /// Returns what stands under a public name.
    pub fn find(&self, list: List, name: &str) -> Option<&Entry> {
        self.lists.get(&list)?.get(name)
    }

    /// Returns the plugin that serves a URI: the one that lists it, or the one with the most exact template for it.
    pub fn owner(&self, uri: &str) -> Option<usize> {
        let listed = self.find(List::Resources, uri).map(|entry| entry.plugin);
        listed.or_else(|| {
            let templates = self.lists.get(&List::Templates)?;
            let fixed = |template: &str| template.find('{').unwrap_or(template.len());
            templates
                .iter()
                .filter(|(template, _)| uri.starts_with(&template[..fixed(template)]))
                .max_by_key(|(template, _)| fixed(template))
                .map(|(_, entry)| entry.plugin)
        })
    }

    /// Returns how many things a list has.
    pub fn len(&self, list: List) -> usize {
        self.lists.get(&list).map_or(0, BTreeMap::len)
    }

    /// Returns the public names of a plugin's tools.
    pub fn tools_of(&self, plugin: usize) -> impl Iterator<Item = &str> {
        self.tool_entries(plugin).map(|(name, _)| name)
    }

    /// Returns the arguments that calls of a plugin's tools repeat in their head, by public name.
    pub fn mirrors_of(&self, plugin: usize) -> impl Iterator<Item = (&str, &[Mirror])> {
        self.tool_entries(plugin)
            .filter(|(_, entry)| !entry.mirrors.is_empty())
            .map(|(name, entry)| (name, entry.mirrors.as_slice()))
    }

    fn tool_entries(&self, plugin: usize) -> impl Iterator<Item = (&str, &Entry)> {
        let tools = self.lists.get(&List::Tools);
        tools
            .into_iter()
            .flatten()
            .filter(move |(_, entry)| entry.plugin == plugin)
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// Returns what is missing, and why.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Returns how long the lists hold.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Returns the SHA-256 of all definitions, in hexadecimal: equal digests mean equal lists.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the digest of one list.
    pub fn digest_of(&self, list: List) -> Option<&str> {
        self.digests.get(&list).map(String::as_str)
    }

    /// Returns what the plugins can do beside their lists.
    pub fn can(&self) -> Can {
        self.can
    }

    /// Returns a page of a list as a `result`, after `cursor`.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for a cursor that was not ours.
    pub fn page(&self, list: List, cursor: Option<&str>) -> Result<Arc<RawValue>, Failure> {
        let key = (list, cursor.map(read_cursor).transpose()?);
        if let Some(page) = self.pages.get(&key) {
            return Ok(Arc::clone(page));
        }
        // A cursor from before a change.
        Ok(self.write_page(list, key.1.as_deref())?.0)
    }

    /// Writes the page after a name. Returns it with the name after which the next one begins.
    fn write_page(
        &self,
        list: List,
        after: Option<&str>,
    ) -> Result<(Arc<RawValue>, Option<String>), Failure> {
        let from = match after {
            None => std::ops::Bound::Unbounded,
            Some(name) => std::ops::Bound::Excluded(name),
        };
        let nothing = BTreeMap::new();
        let entries = self.lists.get(&list).unwrap_or(&nothing);
        let mut rest = entries.range::<str, _>((from, std::ops::Bound::Unbounded));
        let page: Vec<(&String, &RawValue)> = rest
            .by_ref()
            .take(PAGE_MAX)
            .map(|(name, entry)| (name, &*entry.raw))
            .collect();
        let next = page
            .last()
            .filter(|_| rest.next().is_some())
            .map(|(name, _)| (*name).clone());
        let items: Vec<&RawValue> = page.iter().map(|(_, raw)| *raw).collect();
        let mut meta = json!({META_SERVER_INFO: crate::server_info()});
        let missing = self.missing.iter();
        let missing: Vec<&Missing> = missing
            .filter(|one| one.list.is_none_or(|missing_from| missing_from == list))
            .collect();
        if !missing.is_empty() {
            meta[META_MISSING] = json!(missing);
        }
        let internal = |_| Failure::new(Cause::Internal);
        let mut result = Members::default();
        let mut set = |name, value: serde_json::Result<Box<RawValue>>| {
            value.map(|value| result.set(name, value)).map_err(internal)
        };
        set("resultType", to_raw_value("complete"))?;
        set(list.member(), to_raw_value(&items))?;
        if let Some(name) = &next {
            set("nextCursor", to_raw_value(&write_cursor(name)))?;
        }
        set("ttlMs", to_raw_value(&self.freshness.ttl_ms))?;
        set("cacheScope", to_raw_value(self.freshness.scope.as_str()))?;
        set("_meta", to_raw_value(&meta))?;
        Ok((result.to_raw().into(), next))
    }

    fn fingerprint(&mut self) {
        let mut whole = Context::new(&SHA256);
        for (list, entries) in &self.lists {
            let mut hash = Context::new(&SHA256);
            for entry in entries.values() {
                hash.update(entry.raw.get().as_bytes());
                hash.update(&[0]);
            }
            let digest = hash.finish();
            whole.update(list.member().as_bytes());
            whole.update(digest.as_ref());
            self.digests.insert(*list, hex(digest.as_ref()));
        }
        self.digest = hex(whole.finish().as_ref());
    }
}

/// A public name, the definition under it, and the arguments that the head repeats.
type Public = (String, Box<RawValue>, Vec<Mirror>);

/// Returns what is offered, or why it is not.
fn public(item: &Item, list: List, from: &Contribution) -> Result<Public, String> {
    if !list.has_names() {
        return Ok((item.key.clone(), item.raw.clone(), Vec::new()));
    }
    let name = from.naming.public(&item.key);
    let fits = name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    if item.key.is_empty() || !fits {
        let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
        return Err(format!(
            "{shown:?} is no name that clients take: 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-`, `.` or `/`, prefix included"
        ));
    }
    let unreadable = |_| format!("the definition of {name:?} cannot be read");
    let mut definition = Members::parse(&item.raw).map_err(unreadable)?;
    definition.set("name", to_raw_value(&name).map_err(unreadable)?);
    let may_be_task = list == List::Tools && from.can.tasks == Tasks::Server;
    if may_be_task && definition.get("execution").is_none() {
        // Clients of 2025-11-25 may wish for a task, then; those of the extension leave it to the server.
        let execution = to_raw_value(&json!({"taskSupport": "optional"})).map_err(unreadable)?;
        definition.set("execution", execution);
    }
    let raw = definition.to_raw();
    let mirrors = match list {
        List::Tools => mirror::of_tool(&raw).map_err(|why| format!("{name:?}: {why}"))?,
        _ => Vec::new(),
    };
    Ok((name, raw, mirrors))
}

fn taken(name: &str) -> String {
    format!(
        "{name:?} is the name of something else that was configured before; `names` gives it another"
    )
}

fn missing(from: &Contribution) -> Option<Missing> {
    let reason = match &from.state {
        State::Ready => return None,
        State::Starting => "it has not come up yet; its tools are missing".to_owned(),
        State::Restarting { .. } if from.listing.tools.is_empty() => {
            "it is down; its tools are missing".to_owned()
        }
        State::Restarting { .. } | State::Stopped => {
            "it is down; its tools are listed as last known".to_owned()
        }
    };
    Some(Missing {
        plugin: from.plugin.to_string(),
        state: from.state.as_str(),
        reason,
        taken_by: None,
        list: None,
    })
}

fn held(from: &Contribution) -> impl Iterator<Item = Missing> {
    from.held.iter().map(|name| Missing {
        plugin: from.plugin.to_string(),
        state: from.state.as_str(),
        reason: format!("{name:?} is held: its definition is not the pinned one"),
        taken_by: None,
        list: None,
    })
}

/// A merged list is as fresh as its stalest part; what is incomplete is stale at once.
fn freshness(contributions: &[Contribution]) -> Freshness {
    let whole = Freshness {
        ttl_ms: u64::MAX,
        scope: Scope::Public,
    };
    let merged = contributions.iter().fold(whole, |so_far, from| Freshness {
        ttl_ms: match from.state {
            State::Ready => so_far.ttl_ms.min(from.listing.freshness.ttl_ms),
            _ => 0,
        },
        scope: so_far.scope.max(from.listing.freshness.scope),
    });
    if merged == whole {
        Freshness::default()
    } else {
        merged
    }
}

fn write_cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

fn read_cursor(cursor: &str) -> Result<String, Failure> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            Failure::say(
                Cause::InvalidParams,
                "params.cursor is none of this server's",
            )
        })
}

/// Returns the capabilities that the catalogue has something for.
pub fn capabilities(catalogue: &Catalogue) -> Value {
    let can = catalogue.can();
    let mut capabilities = json!({"tools": {"listChanged": true}});
    if catalogue.len(List::Prompts) > 0 {
        capabilities["prompts"] = json!({"listChanged": true});
    }
    if catalogue.len(List::Resources) + catalogue.len(List::Templates) > 0 {
        capabilities["resources"] = json!({"listChanged": true, "subscribe": can.subscribe});
    }
    if can.complete {
        capabilities["completions"] = json!({});
    }
    if can.log {
        capabilities["logging"] = json!({});
    }
    if can.tasks != Tasks::None {
        capabilities["extensions"] = json!({"io.modelcontextprotocol/tasks": {}});
    }
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str) -> Item {
        Item {
            key: key.to_owned(),
            raw: to_raw_value(&json!({"name": key, "inputSchema": {}, "vendor": 1.0})).unwrap(),
        }
    }

    fn from(plugin: &str, prefix: &str, tools: &[&str], state: State) -> Contribution {
        Contribution {
            plugin: plugin.into(),
            naming: Arc::new(Naming {
                prefix: prefix.into(),
                names: BTreeMap::new(),
            }),
            listing: Arc::new(Listing {
                tools: tools.iter().map(|name| item(name)).collect(),
                freshness: Freshness {
                    ttl_ms: 500,
                    scope: Scope::Public,
                },
                ..Listing::default()
            }),
            state,
            can: Can::default(),
            held: Vec::new(),
        }
    }

    fn names(page: &RawValue) -> (Vec<String>, Option<String>) {
        let page: Value = serde_json::from_str(page.get()).unwrap();
        let tools = page["tools"].as_array().unwrap();
        let names = tools
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect();
        (names, page["nextCursor"].as_str().map(str::to_owned))
    }

    #[test]
    fn names_are_prefixed_ordered_and_unique() {
        let both = [
            from("b", "b_", &["y", "x"], State::Ready),
            from("a", "a_", &["z"], State::Ready),
            from("c", "b_", &["x", "bad name"], State::Ready),
        ];
        let catalogue = Catalogue::merge(&both);
        assert_eq!(
            names(&catalogue.page(List::Tools, None).unwrap()).0,
            ["a_z", "b_x", "b_y"]
        );
        let entry = catalogue.find(List::Tools, "b_x").unwrap();
        assert_eq!((entry.plugin, entry.key.as_str()), (0, "x"));
        let missing = catalogue.missing();
        let reasons: Vec<_> = missing
            .iter()
            .map(|missing| missing.reason.as_str())
            .collect();
        assert!(
            reasons[0].starts_with(r#""b_x" is the name of"#),
            "{reasons:?}"
        );
        let named = (missing[0].plugin.as_str(), missing[0].taken_by.as_deref());
        assert_eq!(named, ("c", Some("b")));
        let part = catalogue.without(&[(0, "b".into())]);
        assert_eq!(part.missing()[0].taken_by, None, "b is hidden");
        assert!(
            reasons[1].starts_with(r#""b_bad name" is no name"#),
            "{reasons:?}"
        );
        let turned = [both[1].clone(), both[0].clone(), both[2].clone()];
        assert_eq!(Catalogue::merge(&turned).digest(), catalogue.digest());
    }

    #[test]
    fn a_name_can_be_given_whole_and_collides_like_any_other() {
        let named = |names: &[(&str, &str)], plugin, tools: &[&str]| Contribution {
            naming: Arc::new(Naming {
                prefix: format!("{plugin}_"),
                names: names
                    .iter()
                    .map(|(own, public)| ((*own).to_owned(), (*public).to_owned()))
                    .collect(),
            }),
            ..from(plugin, "", tools, State::Ready)
        };
        let catalogue = Catalogue::merge(&[
            named(
                &[("x", "find"), ("bad name", "good")],
                "a",
                &["x", "y", "bad name"],
            ),
            named(&[("x", "find")], "b", &["x", "y"]),
            named(&[("y", "x"), ("x", "y")], "c", &["x", "y"]),
        ]);
        assert_eq!(
            names(&catalogue.page(List::Tools, None).unwrap()).0,
            ["a_y", "b_y", "find", "good", "x", "y"]
        );
        let at = |name| {
            let entry = catalogue.find(List::Tools, name).unwrap();
            (entry.plugin, entry.key.as_str())
        };
        assert_eq!(
            (at("find"), at("good"), at("x"), at("y")),
            ((0, "x"), (0, "bad name"), (2, "y"), (2, "x"))
        );
        let [missing] = catalogue.missing() else {
            panic!("{:?}", catalogue.missing());
        };
        assert_eq!(
            (missing.plugin.as_str(), missing.taken_by.as_deref()),
            ("b", Some("a"))
        );
    }

    #[test]
    fn what_is_hidden_is_neither_listed_nor_missed() {
        let down = State::Restarting {
            failing: crate::plugin::failing::Failing::Ended,
            reason: String::new(),
        };
        let whole = Catalogue::merge(&[
            from("a", "a_", &["x"], State::Ready),
            from("b", "b_", &["y"], down),
        ]);
        let part = whole.without(&[(1, "b".into())]);
        let page = part.page(List::Tools, None).unwrap();
        assert_eq!(names(&page).0, ["a_x"]);
        assert!(!page.get().contains(META_MISSING), "{page}");
        assert!(page.get().contains(r#""cacheScope":"private""#), "{page}");
        assert!(part.find(List::Tools, "b_y").is_none());
        assert_ne!(part.digest(), whole.digest());
        assert_eq!(whole.without(&[]).digest(), whole.digest());
    }

    #[test]
    fn each_list_tells_what_is_missing_from_it_alone() {
        let with_prompts = |plugin, prompts: &[&str]| {
            let mut from = from(plugin, "", &[plugin], State::Ready);
            let listing = Arc::make_mut(&mut from.listing);
            listing.prompts = prompts.iter().map(|name| item(name)).collect();
            from
        };
        let both = [with_prompts("a", &["x"]), with_prompts("b", &["x"])];
        let catalogue = Catalogue::merge(&both);
        for (list, told) in [
            (List::Tools, 0),
            (List::Prompts, 1),
            (List::Resources, 0),
            (List::Templates, 0),
        ] {
            let page = catalogue.page(list, None).unwrap();
            let page: Value = serde_json::from_str(page.get()).unwrap();
            let missing = page["_meta"][META_MISSING].as_array().map_or(0, Vec::len);
            assert_eq!(missing, told, "{list:?}");
        }
        assert_eq!(catalogue.missing().len(), 1);
    }

    #[test]
    fn a_dead_plugin_costs_freshness_and_is_named() {
        let down = State::Restarting {
            failing: crate::plugin::failing::Failing::Ended,
            reason: "secret path".into(),
        };
        let catalogue = Catalogue::merge(&[
            from("a", "a_", &["x"], State::Ready),
            from("b", "b_", &["y"], down),
        ]);
        let page = catalogue.page(List::Tools, None).unwrap();
        assert_eq!(names(&page).0, ["a_x", "b_y"]);
        let page: Value = serde_json::from_str(page.get()).unwrap();
        assert_eq!(page["ttlMs"], 0);
        assert_eq!(page["_meta"][META_MISSING][0]["plugin"], "b");
        assert!(!page.to_string().contains("secret"));
    }

    #[test]
    fn pages_follow_each_other_and_foreign_cursors_are_refused() {
        let many: Vec<String> = (0..PAGE_MAX * 2 + 7).map(|n| format!("t{n:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let catalogue = Catalogue::merge(&[from("a", "", &many, State::Ready)]);
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = catalogue.page(List::Tools, cursor.as_deref()).unwrap();
            let again = catalogue.page(List::Tools, cursor.as_deref()).unwrap();
            assert!(Arc::ptr_eq(&page, &again), "a page is written once");
            let (names, next) = names(&page);
            seen.extend(names);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, many);
        let gone = write_cursor("t0005x");
        let page = catalogue.page(List::Tools, Some(&gone)).unwrap();
        assert_eq!(names(&page).0[0], "t0006", "a cursor from before a change");
        assert_eq!(
            catalogue.page(List::Tools, Some("!")).unwrap_err().cause,
            Cause::InvalidParams
        );
    }

    #[test]
    fn a_uri_goes_to_its_lister_or_its_closest_template() {
        let raw = to_raw_value(&json!({})).unwrap();
        let with = |resources: &[&str], templates: &[&str]| Contribution {
            listing: Arc::new(Listing {
                resources: resources
                    .iter()
                    .map(|key| Item {
                        key: (*key).into(),
                        raw: raw.clone(),
                    })
                    .collect(),
                templates: templates
                    .iter()
                    .map(|key| Item {
                        key: (*key).into(),
                        raw: raw.clone(),
                    })
                    .collect(),
                ..Listing::default()
            }),
            ..from("p", "", &[], State::Ready)
        };
        let catalogue = Catalogue::merge(&[
            with(&["x://a"], &["x://{id}"]),
            with(&[], &["x://deep/{id}"]),
        ]);
        for (uri, owner) in [
            ("x://a", Some(0)),
            ("x://b", Some(0)),
            ("x://deep/1", Some(1)),
            ("y://a", None),
        ] {
            assert_eq!(catalogue.owner(uri), owner, "{uri}");
        }
    }
}

//! Meeting a server: which era it speaks, what it can do, what it offers.
//!
//! The order is the one that the specification gives dual-era clients: `server/discover` first; a server that answers it with
//! an error, or not at all for [`PROBE`], is asked to `initialize`. One that was only slow, and then refuses to go back to
//! the older era (-32022), is asked to `server/discover` once more. So is one that refuses `server/discover` with -32022 and
//! yet names our revision among those that it supports.

use std::time::{Duration, Instant};

use mcp::{
    Era, Revision,
    call::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_VERSION},
    members::Members,
};
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{Abandon, Lost, Wire};
use crate::plugin::{Answer, Freshness, Item, Listing, Scope};

/// How long a server may take to say whether it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to answer `server/discover`.
pub const PROBE: Duration = Duration::from_secs(2);
/// The code of an error that says so of a revision.
const UNSUPPORTED_VERSION: i64 = -32022;
/// How many pages one list may have.
const PAGES_MAX: usize = 100;
/// How many things one list may have.
const ITEMS_MAX: usize = 10_000;

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// It gave no answer.
    #[error("no answer to {method} ({lost:?})")]
    Lost {
        /// What was asked.
        method: &'static str,
        /// Why there is none.
        lost: Lost,
    },
    /// It answered with an error.
    #[error("{method} was answered with an error: {error}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// The error's code, if it has one.
        code: Option<i64>,
        /// The error object, cut short.
        error: String,
    },
    /// It answered something else than the protocol says.
    #[error("the answer to {method} is not of the protocol's form: {detail}")]
    Form {
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        detail: String,
    },
}

impl HandshakeError {
    /// Returns why there was no answer, if there was none.
    pub(crate) fn lost(&self) -> Option<Lost> {
        match self {
            Self::Lost { lost, .. } => Some(*lost),
            Self::Refused { .. } | Self::Form { .. } => None,
        }
    }

    /// Tells whether the server speaks no revision that has a handshake.
    fn wants_the_newest(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Some(UNSUPPORTED_VERSION),
                ..
            }
        )
    }
}

fn code_of(error: &RawValue) -> Option<i64> {
    let code = Members::parse(error).ok()?.get("code")?.get().parse();
    code.ok()
}

/// What was agreed with a server.
#[derive(Debug, Clone)]
pub(crate) struct Agreement {
    /// The revision that is spoken.
    pub(crate) revision: Revision,
    /// Lists that the server has.
    pub(crate) lists: Vec<List>,
    /// What it says it can do.
    pub(crate) capabilities: Value,
}

impl Agreement {
    /// Returns the era that is spoken.
    pub(crate) fn era(&self) -> Era {
        self.revision.era()
    }

    /// Tells whether the server announced this, as an object or as `true`.
    pub(crate) fn has(&self, pointer: &str) -> bool {
        let found = self.capabilities.pointer(pointer);
        found.is_some_and(|value| value.is_object() || *value == true)
    }

    /// Tells whether the level of the server's log messages is set by a request (`logging/setLevel`).
    pub(crate) fn logs_on_request(&self) -> bool {
        self.era() == Era::Legacy && self.has("/logging")
    }
}

/// A kind of list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The capability that announces it.
    fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The member of the result that holds it.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member of each entry that names it.
    fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

/// Agrees on a revision. `known` is the era of an earlier run, so that a silent server is probed once only.
///
/// # Errors
/// [`HandshakeError`] when neither way leads to an agreement before `deadline`.
pub(crate) async fn agree(
    connection: &impl Wire,
    known: Option<Era>,
    deadline: Instant,
) -> Result<Agreement, HandshakeError> {
    if known != Some(Era::Legacy) {
        let until = deadline.min(Instant::now() + PROBE);
        let mut found = discover(connection, until).await;
        if let Discovery::SupportsUs = found {
            found = discover(connection, until).await;
        }
        if let Discovery::Agreed(agreement) = found {
            return Ok(agreement);
        }
    }
    let refused = match initialize(connection, deadline).await {
        Err(refused) if refused.wants_the_newest() => refused,
        met => return met,
    };
    match discover(connection, deadline).await {
        Discovery::Agreed(agreement) => Ok(agreement),
        Discovery::SupportsUs | Discovery::No => Err(refused),
    }
}

/// Speaks to a server of the newer era as was agreed with it before: it keeps no sessions, so nothing need be said.
pub(crate) fn assume(connection: &impl Wire, agreement: &Agreement) {
    connection.agreed(agreement.revision);
}

/// What came of `server/discover`.
enum Discovery {
    Agreed(Agreement),
    /// The revision was refused, and is named among those that are supported.
    SupportsUs,
    No,
}

async fn discover(connection: &impl Wire, until: Instant) -> Discovery {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        supported_versions: Vec<String>,
        #[serde(default)]
        capabilities: Value,
    }
    let params = raw(&json!({"_meta": own_meta()}));
    let answer = connection
        .request("server/discover", &params, until, Abandon::Ignore)
        .await;
    let result = match answer {
        Ok(Answer::Result(result)) => result,
        Ok(Answer::Error(error)) if supports_us(&error) => return Discovery::SupportsUs,
        _ => return Discovery::No,
    };
    let Ok(found) = serde_json::from_str::<Discovered>(result.get()) else {
        return Discovery::No;
    };
    if !names_us(&found.supported_versions) {
        return Discovery::No;
    }
    connection.agreed(Revision::LATEST);
    Discovery::Agreed(Agreement {
        revision: Revision::LATEST,
        lists: lists(&found.capabilities),
        capabilities: found.capabilities,
    })
}

fn supports_us(error: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Unsupported {
        code: i64,
        data: Supported,
    }
    #[derive(Deserialize)]
    struct Supported {
        supported: Vec<String>,
    }
    let error = serde_json::from_str(error.get());
    error.is_ok_and(|error: Unsupported| {
        error.code == UNSUPPORTED_VERSION && names_us(&error.data.supported)
    })
}

fn names_us(versions: &[String]) -> bool {
    let ours = Revision::LATEST.as_str();
    versions.iter().any(|version| version == ours)
}

async fn initialize(
    connection: &impl Wire,
    deadline: Instant,
) -> Result<Agreement, HandshakeError> {
    const METHOD: &str = "initialize";
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
        #[serde(default)]
        capabilities: Value,
    }
    let params = raw(&json!({
        "protocolVersion": Revision::LATEST_LEGACY.as_str(),
        "capabilities": connection.capabilities(),
        "clientInfo": own_name(),
    }));
    let result = ask(connection, METHOD, &params, deadline, Abandon::Ignore).await?;
    let form = |detail: String| HandshakeError::Form {
        method: METHOD,
        detail,
    };
    let found: Initialized =
        serde_json::from_str(result.get()).map_err(|error| form(error.to_string()))?;
    let revision = Revision::parse(&found.protocol_version)
        .filter(|revision| revision.era() == Era::Legacy)
        .ok_or_else(|| {
            form(format!(
                "unknown protocolVersion {:?}",
                shortened(&found.protocol_version)
            ))
        })?;
    connection.agreed(revision);
    connection
        .notify("notifications/initialized", &raw(&json!({})), deadline)
        .await
        .map_err(|lost| HandshakeError::Lost {
            method: METHOD,
            lost,
        })?;
    Ok(Agreement {
        revision,
        lists: lists(&found.capabilities),
        capabilities: found.capabilities,
    })
}

fn lists(capabilities: &Value) -> Vec<List> {
    List::ALL
        .into_iter()
        .filter(|list| {
            capabilities
                .get(list.capability())
                .is_some_and(Value::is_object)
        })
        .collect()
}

/// Fetches everything that the server offers, page by page.
///
/// # Errors
/// [`HandshakeError`] when a list that was announced cannot be had before `deadline`.
pub(crate) async fn list_all(
    connection: &impl Wire,
    agreement: &Agreement,
    deadline: Instant,
) -> Result<Listing, HandshakeError> {
    let mut listing = Listing {
        freshness: Freshness {
            ttl_ms: u64::MAX,
            scope: Scope::Public,
        },
        ..Listing::default()
    };
    for &list in &agreement.lists {
        let items = match list_one(
            connection,
            agreement,
            list,
            &mut listing.freshness,
            deadline,
        )
        .await
        {
            Ok(items) => items,
            // Announcing resources does not oblige a server to have templates.
            Err(HandshakeError::Refused { .. }) if list == List::Templates => Vec::new(),
            Err(error) => return Err(error),
        };
        match list {
            List::Tools => listing.tools = items,
            List::Prompts => listing.prompts = items,
            List::Resources => listing.resources = items,
            List::Templates => listing.templates = items,
        }
    }
    if agreement.lists.is_empty() {
        listing.freshness = Freshness::default();
    }
    Ok(listing)
}

async fn list_one(
    connection: &impl Wire,
    agreement: &Agreement,
    list: List,
    freshness: &mut Freshness,
    deadline: Instant,
) -> Result<Vec<Item>, HandshakeError> {
    let method = list.method();
    let form = |detail: &str| HandshakeError::Form {
        method,
        detail: detail.to_owned(),
    };
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut params = serde_json::Map::new();
        if agreement.era() == Era::Modern {
            params.insert("_meta".into(), own_meta());
        }
        if let Some(cursor) = cursor.take() {
            params.insert("cursor".into(), cursor.into());
        }
        let page = ask(
            connection,
            method,
            &raw(&params.into()),
            deadline,
            Abandon::Cancel,
        )
        .await?;
        let page = Members::parse(&page).map_err(|error| form(&error.to_string()))?;
        *freshness = freshness_of(&page, *freshness);
        let entries: Vec<&RawValue> = page
            .get(list.member())
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .ok_or_else(|| form("the list is missing"))?;
        items.extend(entries.into_iter().filter_map(|entry| item(entry, list)));
        if items.len() > ITEMS_MAX {
            return Err(form("the list is too long"));
        }
        cursor = page.get_str("nextCursor");
        if cursor.is_none() {
            return Ok(items);
        }
    }
    Err(form("the list has too many pages"))
}

/// Reads one entry; a bad entry costs itself alone.
fn item(entry: &RawValue, list: List) -> Option<Item> {
    let key = Members::parse(entry).ok()?.get_str(list.key())?;
    Some(Item {
        key,
        raw: entry.to_owned(),
    })
}

/// Narrows what is known so far by what one page says; a page that says nothing (a legacy one) is stale at once.
fn freshness_of(page: &Members<'_>, so_far: Freshness) -> Freshness {
    let ttl_ms = page
        .get("ttlMs")
        .and_then(|raw| raw.get().parse().ok())
        .unwrap_or(0);
    let scope = match page.get_str("cacheScope").as_deref() {
        Some("public") => Scope::Public,
        _ => Scope::Private,
    };
    Freshness {
        ttl_ms: so_far.ttl_ms.min(ttl_ms),
        scope: so_far.scope.max(scope),
    }
}

async fn ask(
    connection: &impl Wire,
    method: &'static str,
    params: &RawValue,
    deadline: Instant,
    abandon: Abandon,
) -> Result<Box<RawValue>, HandshakeError> {
    match connection.request(method, params, deadline, abandon).await {
        Ok(Answer::Result(result)) => Ok(result),
        Ok(Answer::Error(error)) => Err(HandshakeError::Refused {
            method,
            code: code_of(&error),
            error: shortened(error.get()),
        }),
        // Only clients' calls are asked anything.
        Ok(Answer::Questions(_)) => Err(HandshakeError::Lost {
            method,
            lost: Lost::Broken,
        }),
        Err(lost) => Err(HandshakeError::Lost { method, lost }),
    }
}

fn shortened(text: &str) -> String {
    text.chars()
        .take(200)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

/// Asks whether the server is there; any answer will do.
pub(crate) async fn ping(connection: &impl Wire, agreement: &Agreement) -> bool {
    let (method, params) = match agreement.era() {
        Era::Legacy => ("ping", json!({})),
        Era::Modern => ("server/discover", json!({"_meta": own_meta()})),
    };
    let deadline = Instant::now() + PING_TIMEOUT;
    connection
        .request(method, &raw(&params), deadline, Abandon::Ignore)
        .await
        .is_ok()
}

/// What we say of ourselves when we ask for ourselves.
pub(crate) fn own_meta() -> Value {
    json!({
        META_VERSION: Revision::LATEST.as_str(),
        META_CLIENT_INFO: own_name(),
        META_CLIENT_CAPABILITIES: {},
    })
}

fn own_name() -> Value {
    json!({"name": "sweetmcp", "version": env!("CARGO_PKG_VERSION")})
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

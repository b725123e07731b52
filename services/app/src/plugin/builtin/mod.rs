//! Tools that need no other process: one file per set, each a catalogue of same-shaped entries.
//!
//! - [`tool`]: what a tool is, and how its arguments are checked
//! - the sets: [`time`], [`text`], [`json`], [`hash`], [`sqlite`], [`files`], [`http`]

use std::{path::PathBuf, sync::Arc};

use mcp::{Cause, Failure, members::Members};
use serde_json::{Map, Value, value::to_raw_value};
use tokio::sync::Semaphore;

use super::{Answer, CallContext, Freshness, Item, Listing, Scope};

mod files;
mod hash;
mod http;
mod json;
mod sqlite;
mod text;
mod time;
pub(crate) mod tool;

pub(crate) use hash::hex;

/// How long a client may keep the list of built-in tools: it changes only with the release.
const LIST_TTL_MS: u64 = 60_000;

/// Which tools, with what they may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Set {
    /// Time and zones.
    Time,
    /// Counting, comparing, searching text.
    Text,
    /// Looking into and checking JSON.
    Json,
    /// Digests and encodings.
    Hash,
    /// Read-only SQL over the database at `path`, or in memory.
    Sqlite {
        /// The database file; in memory if none.
        path: Option<PathBuf>,
    },
    /// Files under `root`.
    Files {
        /// The folder that no path leaves; made if it is not there.
        root: PathBuf,
    },
    /// Fetching from listed hosts.
    Http {
        /// `example.com`, `*.example.com`, `example.com:8443`; a private address must be listed itself.
        allow_hosts: Vec<String>,
    },
}

/// Why a set of built-in tools cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The root folder cannot be made or opened.
    #[error("the root folder {root} cannot be opened")]
    Root {
        /// The folder.
        root: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
}

/// One mounted set.
#[derive(Debug)]
pub struct Builtin {
    /// In the order of their names.
    tools: Vec<tool::Tool>,
    listing: Arc<Listing>,
}

impl Builtin {
    /// Opens what the set needs. `threads` bounds how many blocking tools run at once, over all sets.
    ///
    /// # Errors
    /// [`SetError`] when a folder or client cannot be had.
    pub fn open(set: &Set, threads: &Arc<Semaphore>) -> Result<Self, SetError> {
        let mut tools = match set {
            Set::Time => time::tools(),
            Set::Text => text::tools(threads),
            Set::Json => json::tools(threads),
            Set::Hash => hash::tools(),
            Set::Sqlite { path } => sqlite::tools(path.as_deref(), threads),
            Set::Files { root } => {
                files::tools(root, threads).map_err(|source| SetError::Root {
                    root: root.clone(),
                    source,
                })?
            }
            Set::Http { allow_hosts } => http::tools(allow_hosts)?,
        };
        tools.sort_by_key(tool::Tool::name);
        let items = tools
            .iter()
            .filter_map(|tool| {
                Some(Item {
                    key: tool.name().to_owned(),
                    raw: to_raw_value(tool.definition()).ok()?,
                })
            })
            .collect();
        let listing = Arc::new(Listing {
            tools: items,
            freshness: Freshness {
                ttl_ms: LIST_TTL_MS,
                scope: Scope::Public,
            },
            ..Listing::default()
        });
        Ok(Self { tools, listing })
    }

    /// Returns what the set offers.
    pub fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing)
    }

    /// Runs the tool `name` (without prefix) with `params.arguments`.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] for an unknown tool or arguments that are no object.
    pub async fn call(
        &self,
        name: &str,
        params: &Members<'_>,
        context: CallContext,
    ) -> Result<Answer, Failure> {
        let tool = self
            .tools
            .binary_search_by(|tool| tool.name().cmp(name))
            .map(|at| &self.tools[at])
            .map_err(|_| Failure::say(Cause::InvalidParams, "no such tool"))?;
        let arguments = match params.get("arguments") {
            None => Value::Object(Map::new()),
            Some(raw) => serde_json::from_str(raw.get())
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| {
                    Failure::say(Cause::InvalidParams, "params.arguments must be an object")
                })?,
        };
        let result = tool.call(arguments, context).await;
        let result = to_raw_value(&result).map_err(|_| Failure::new(Cause::Internal))?;
        Ok(Answer::Result(result))
    }
}

//! Resources of a server whose changes somebody wants to know: one subscription at the server, however many listen.
//!
//! Legacy servers are asked with `resources/subscribe`; modern ones with `subscriptions/listen`, which tells of changed
//! lists too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::Era;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::watch;

use super::{
    Abandon, Wire as _,
    connection::{Connection, Exchange},
    handshake::{Agreement, own_meta},
};

/// Resources of one plugin that are watched at once.
const WATCHES_MAX: usize = 1000;
/// How long a server may take to take a subscription.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request without an end: it has one all the same.
const LISTEN: Duration = Duration::from_secs(24 * 3600);

/// How many want to know of each resource.
#[derive(Debug, Clone)]
pub(crate) struct Watches(Arc<watch::Sender<BTreeMap<String, usize>>>);

impl Default for Watches {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Watches {
    /// Counts one more; false if too many resources are watched.
    pub(crate) fn add(&self, uri: &str) -> bool {
        let mut added = true;
        self.0.send_if_modified(|wanted| {
            if let Some(count) = wanted.get_mut(uri) {
                *count += 1;
                return false;
            }
            added = wanted.len() < WATCHES_MAX;
            if added {
                wanted.insert(uri.to_owned(), 1);
            }
            added
        });
        added
    }

    /// Counts one less.
    pub(crate) fn remove(&self, uri: &str) {
        self.0.send_if_modified(|wanted| match wanted.get_mut(uri) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => wanted.remove(uri).is_some(),
            None => false,
        });
    }

    /// Returns a receiver that sees every change of what is watched.
    pub(crate) fn follow(&self) -> watch::Receiver<BTreeMap<String, usize>> {
        self.0.subscribe()
    }
}

/// What one server was asked to tell.
#[derive(Debug, Default)]
pub(crate) struct Subscribed {
    uris: BTreeSet<String>,
    /// The open `subscriptions/listen` of a modern server.
    listen: Option<Exchange>,
}

impl Subscribed {
    /// Asks the server to tell what is wanted now, and no more.
    pub(crate) async fn bring_to(
        &mut self,
        wanted: BTreeSet<String>,
        connection: &Connection,
        agreement: &Agreement,
    ) {
        match agreement.era() {
            Era::Legacy => {
                if !agreement.has("/resources/subscribe") {
                    return;
                }
                let gone = self.uris.difference(&wanted);
                let come = wanted.difference(&self.uris);
                for (method, uris) in [
                    ("resources/unsubscribe", gone.collect::<Vec<_>>()),
                    ("resources/subscribe", come.collect()),
                ] {
                    for uri in uris {
                        subscribe(connection, method, uri).await;
                    }
                }
                self.uris = wanted;
            }
            Era::Modern => {
                if self.listen.is_none() || self.uris != wanted {
                    self.listen = listen(connection, agreement, &wanted).await;
                    self.uris = wanted;
                }
            }
        }
    }

    /// Waits until a modern server ends what it was asked to tell; for ever if there is nothing to end.
    pub(crate) async fn ended(&mut self) {
        match &mut self.listen {
            None => std::future::pending().await,
            Some(listen) => {
                // However it ended, it is over; it is asked for again when something else is wanted.
                drop(listen.next(Instant::now() + LISTEN).await);
                self.listen = None;
            }
        }
    }
}

async fn subscribe(connection: &Connection, method: &str, uri: &str) {
    let params = raw(&json!({"uri": uri}));
    let asked = connection
        .request(method, &params, Instant::now() + PATIENCE, Abandon::Cancel)
        .await;
    if asked.is_err() {
        tracing::warn!(method, "the plugin did not answer");
    }
}

async fn listen(
    connection: &Connection,
    agreement: &Agreement,
    wanted: &BTreeSet<String>,
) -> Option<Exchange> {
    let params = listen_params(agreement, wanted)?;
    let id = connection.fresh_id();
    connection
        .begin(
            id,
            "subscriptions/listen",
            &params,
            None,
            Instant::now() + PATIENCE,
            Abandon::Cancel,
        )
        .await
        .ok()
}

/// Makes the parameters of a `subscriptions/listen` for changes of lists and of these resources, as far as the server said
/// that it tells of them. `None` if it tells of nothing.
pub(crate) fn listen_params(
    agreement: &Agreement,
    wanted: &BTreeSet<String>,
) -> Option<Box<RawValue>> {
    let filter = json!({
        "toolsListChanged": agreement.has("/tools/listChanged"),
        "promptsListChanged": agreement.has("/prompts/listChanged"),
        "resourcesListChanged": agreement.has("/resources/listChanged"),
        "resourceSubscriptions": match agreement.has("/resources/subscribe") {
            true => wanted.iter().collect(),
            false => Vec::new(),
        },
    });
    let something = filter.as_object().is_some_and(|filter| {
        filter
            .values()
            .any(|value| *value != false && *value != json!([]))
    });
    something.then(|| raw(&json!({"_meta": own_meta(), "notifications": filter})))
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

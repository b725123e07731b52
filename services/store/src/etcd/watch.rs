//! Watches: etcd's responses as batches of whole revisions.

use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse, WatchStream};
use futures::stream::{self, Stream};

use super::{Names, etcd_error, number, revision, within};
use crate::backend::Batch;
use crate::{Entry, Error, Event, EventKind, Result, Revision};

const WATCHING: &str = "watching";

/// etcd ended a watch.
#[derive(Debug, thiserror::Error)]
#[error("etcd ended the watch: {0}")]
struct Cancelled(String);

enum Stage {
    Begin(WatchClient),
    Open(WatchStream),
    Over,
}

struct Watching {
    stage: Stage,
    names: Names,
    key: String,
    /// Everything up to here was told.
    through: Revision,
}

/// Tells all changes after a revision.
pub(super) fn batches(
    client: WatchClient,
    names: Names,
    prefix: &str,
    after: Revision,
) -> impl Stream<Item = Result<Batch>> + Send + 'static {
    let watching = Watching {
        key: names.key(prefix),
        stage: Stage::Begin(client),
        names,
        through: after,
    };
    stream::unfold(watching, |mut watching| async move {
        if matches!(watching.stage, Stage::Over) {
            return None;
        }
        let batch = watching.next().await;
        if batch.is_err() {
            watching.stage = Stage::Over;
        }
        Some((batch, watching))
    })
}

impl Watching {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            let response = match &mut self.stage {
                Stage::Begin(client) => {
                    let options = WatchOptions::new()
                        .with_prefix()
                        .with_start_revision(number(self.through + 1));
                    let watch = client.watch(self.key.clone(), Some(options));
                    self.stage = Stage::Open(within(WATCHING, watch).await?);
                    continue;
                }
                Stage::Open(stream) => stream.message().await,
                Stage::Over => return Err(Error::Closed),
            };
            let response = response
                .map_err(|error| etcd_error(WATCHING, error))?
                .ok_or(Error::Closed)?;
            self.refuse_end(&response)?;
            let events = self.events(&response)?;
            if let Some(last) = events.last() {
                self.through = last.revision;
                return Ok(Batch {
                    events,
                    through: self.through,
                });
            }
        }
    }

    fn refuse_end(&self, response: &WatchResponse) -> Result<()> {
        if !response.canceled() {
            return Ok(());
        }
        match revision(response.compact_revision()) {
            0 => Err(Error::backend(
                WATCHING,
                Cancelled(response.cancel_reason().to_owned()),
            )),
            // Events of the compaction's own revision are kept.
            kept => Err(Error::Compacted {
                after: self.through,
                compacted: kept - 1,
            }),
        }
    }

    fn events(&self, response: &WatchResponse) -> Result<Vec<Event>> {
        let found = response.events().iter().filter_map(|event| {
            let entry = self.names.entry(event.kv()?);
            Some(entry.map(|entry| told(event.event_type(), entry)))
        });
        found.collect()
    }
}

fn told(kind: EventType, entry: Entry) -> Event {
    Event {
        kind: match kind {
            EventType::Put => EventKind::Put,
            EventType::Delete => EventKind::Delete,
        },
        revision: entry.mod_revision,
        entry,
    }
}

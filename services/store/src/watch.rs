//! Watches: the backend's batches as a stream of events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{BoxStream, Stream, StreamExt as _};

use crate::backend::Batch;
use crate::{Error, Event, Result, Revision};

/// A stream of changes that ends after its first error.
///
/// After [`Error::Compacted`] range again; after any other error watch again from [`Watch::revision`].
pub struct Watch {
    batches: BoxStream<'static, Result<Batch>>,
    pending: VecDeque<Event>,
    /// Everything up to here was handed out, once `pending` is empty.
    through: Revision,
    /// Everything up to here was handed out.
    revision: Revision,
    ended: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("revision", &self.revision)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(batches: BoxStream<'static, Result<Batch>>, after: Revision) -> Self {
        Self {
            batches,
            pending: VecDeque::new(),
            through: after,
            revision: after,
            ended: false,
        }
    }

    pub(crate) fn refused(error: Error, after: Revision) -> Self {
        Self::new(futures::stream::iter([Err(error)]).boxed(), after)
    }

    /// Waits for the next change; `None` once the watch has ended with an error. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        futures::StreamExt::next(self).await
    }

    /// Waits for changes and takes all that are there: whole transactions, never empty. Safe to cancel.
    pub async fn next_batch(&mut self) -> Option<Result<Vec<Event>>> {
        let first = match self.next().await? {
            Ok(event) => event,
            Err(error) => return Some(Err(error)),
        };
        let events = std::iter::once(first)
            .chain(self.pending.drain(..))
            .collect();
        self.revision = self.through;
        Some(Ok(events))
    }

    /// The revision up to which every change was handed out: where to watch from again.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                // Half a transaction is not yet its revision.
                self.revision = match self.pending.front() {
                    None => self.through,
                    Some(next) if next.revision > event.revision => event.revision,
                    Some(_) => self.revision,
                };
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.batches.poll_next_unpin(cx)) {
                Some(Ok(batch)) => {
                    self.through = batch.through;
                    self.pending = batch.events.into();
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.ended = true,
            }
        }
    }
}

//! Messages over a child's pipes, a line each.
//!
//! Two tasks serve a connection: one writes what is queued, one reads.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use mcp::{incoming::decode, lines::LineSplitter};

use crate::plugin::upstream::{
    Lost,
    connection::{Carrier, Connection, Ears, Request, Sending},
};

/// The longest line that is taken from a child, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 10 << 20;
/// Calls under way at once on one connection.
const PENDING_MAX: usize = 1024;
/// Messages that wait to be written.
const OUTGOING_MAX: usize = 64;
/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// The way to a child's standard input.
#[derive(Debug)]
struct Pipes {
    outgoing: mpsc::Sender<Vec<u8>>,
    closed: CancellationToken,
}

impl Carrier for Pipes {
    fn begin<'a>(
        &'a self,
        _connection: &'a Connection,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Sending, Lost>> {
        let message = request.message();
        async move { self.send(message).await.map(|()| None) }.boxed()
    }

    fn send<'a>(&'a self, mut message: Vec<u8>) -> BoxFuture<'a, Result<(), Lost>> {
        message.push(b'\n');
        async move {
            tokio::select! {
                sent = self.outgoing.send(message) => sent.map_err(|_| Lost::NotSent),
                () = self.closed.cancelled() => Err(Lost::NotSent),
            }
        }
        .boxed()
    }

    fn try_send(&self, mut message: Vec<u8>) -> bool {
        message.push(b'\n');
        self.outgoing.try_send(message).is_ok()
    }
}

/// Starts the two tasks over a child's pipes.
pub(super) fn connect<W, R>(plugin: Arc<str>, stdin: W, stdout: R, ears: Ears) -> Connection
where
    W: AsyncWrite + Send + Unpin + 'static,
    R: AsyncRead + Send + Unpin + 'static,
{
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    let closed = CancellationToken::new();
    let pipes = Pipes {
        outgoing,
        closed: closed.clone(),
    };
    let connection = Connection::new(plugin, Box::new(pipes), PENDING_MAX, ears, closed.clone());
    tokio::spawn(write_all(stdin, queue, closed));
    tokio::spawn(read_all(connection.clone(), stdout));
    connection
}

async fn read_all<R: AsyncRead + Unpin>(connection: Connection, mut stdout: R) {
    let mut splitter = LineSplitter::new(LINE_BYTES_MAX);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = stdout.read(&mut chunk) => read,
            () = connection.closed() => break,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(count) => splitter.feed(&chunk[..count], |line| {
                connection.take_in(decode(&line), None);
            }),
        }
    }
    connection.close();
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut stdin: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
    closed: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            biased;
            message = queue.recv() => message,
            () = closed.cancelled() => None,
        };
        let Some(message) = message else { break };
        let written = tokio::select! {
            written = stdin.write_all(&message) => written.is_ok(),
            // A child that does not read must not keep its own end from coming.
            () = give_up(&closed) => false,
        };
        if !written {
            break;
        }
    }
    closed.cancel();
}

async fn give_up(closed: &CancellationToken) {
    closed.cancelled().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

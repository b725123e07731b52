//! One call of a session, driven to its end whatever becomes of the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use mcp::envelope::{self, Body, Message};
use mcp::era::OldClientCall;
use mcp::era::old_client::{Input, Output};
use mcp::{Call, Cause, Failure};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::board::Mailbox;
use crate::host::{Asker, Backend};
use crate::tape::Frame;
use crate::tasks::Notes;

/// Longest that a client may keep its call from sending after the call's own time is over.
const SLOW_READER: Duration = Duration::from_secs(10);
/// Longest that a server may take over what nobody waits for.
const ASIDE: Duration = Duration::from_secs(10);

/// Runs a call. Ends when the answer is sent, the call is cancelled, or its time is over.
pub async fn run<B: Backend>(
    backend: Arc<B>,
    asker: Asker<B::Caller>,
    mut machine: OldClientCall,
    first: Call,
    mut mailbox: Mailbox,
    frames: mpsc::Sender<Frame>,
    notes: Notes,
) {
    let deadline = Instant::now() + asker.deadline;
    let mut server: Option<BoxStream<'static, Result<Bytes, Failure>>> =
        Some(backend.call(&asker.caller, first));
    // Set while the machine waits.
    let mut until = deadline;
    while !machine.is_over() {
        let outputs = tokio::select! {
            message = next(&mut server) => from_server(&mut machine, message),
            Some(mail) = mailbox.next() => from_client(&mut machine, &mail),
            () = sleep_until(deadline) => machine.step(Input::Deadline),
            () = sleep_until(until), if until < deadline => {
                until = deadline;
                machine.step(Input::Waited)
            }
            // Nobody will ever read the answer; dropping the stream tells the server.
            () = frames.closed() => return,
        };
        for output in outputs {
            let (message, is_response) = match output {
                Output::Send(message) | Output::Ask { message, .. } => (message, false),
                Output::Answer(message) => (message, true),
                Output::Made { task, kept, answer } => {
                    (notes.take(&task, kept, answer).await, true)
                }
                Output::Wait(pause) => {
                    until = Instant::now() + pause;
                    continue;
                }
                Output::Tell(call) => {
                    tell(&*backend, &asker, *call);
                    continue;
                }
                Output::Call(call) => {
                    server = Some(backend.call(&asker.caller, *call));
                    continue;
                }
                // Dropping its stream tells the server.
                Output::Abandon => {
                    server = None;
                    continue;
                }
                Output::Close => continue,
            };
            let frame = Frame {
                message: message.into(),
                is_response,
            };
            // Past that, nobody reads; the call ends as if cancelled.
            if !matches!(
                timeout_at(deadline + SLOW_READER, frames.send(frame)).await,
                Ok(Ok(()))
            ) {
                return;
            }
        }
    }
}

/// Calls the server beside this call, and after it.
fn tell<B: Backend>(backend: &B, asker: &Asker<B::Caller>, call: Call) {
    let answer = backend.call(&asker.caller, call);
    tokio::spawn(timeout(ASIDE, answer.for_each(async |_| {})));
}

async fn next(
    server: &mut Option<BoxStream<'static, Result<Bytes, Failure>>>,
) -> Option<Result<Bytes, Failure>> {
    match server {
        None => std::future::pending().await,
        Some(stream) => {
            let message = stream.next().await;
            if message.is_none() {
                *server = None;
            }
            message
        }
    }
}

fn from_server(
    machine: &mut OldClientCall,
    message: Option<Result<Bytes, Failure>>,
) -> Vec<Output> {
    let bytes = match message {
        Some(Ok(bytes)) => bytes,
        Some(Err(failure)) => return machine.step(Input::ServerGone(failure)),
        None if machine.is_asking() => return Vec::new(),
        None => return machine.step(Input::ServerGone(Failure::new(Cause::UpstreamBroken))),
    };
    match envelope::read(&bytes) {
        Ok(Body::One(Ok(message))) => machine.step(Input::Server(message)),
        _ => machine.step(Input::ServerGone(Failure::new(Cause::UpstreamInvalid))),
    }
}

fn from_client(machine: &mut OldClientCall, mail: &[u8]) -> Vec<Output> {
    match envelope::read(mail) {
        Ok(Body::One(Ok(Message::Response { id, result }))) => {
            machine.step(Input::Answer { id: &id, result })
        }
        // The board brings nothing else.
        Ok(Body::One(Ok(Message::Notification { .. }))) => machine.step(Input::Cancel),
        _ => Vec::new(),
    }
}

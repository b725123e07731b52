//! One request and one response as single messages, for `POST /capnp`.

use ::capnp::Word;
use ::capnp::message::Builder;
use ::capnp::serialize;
use mcp::{Cause, Failure, Reply};

use super::Limits;
use super::ask::{Asked, unreadable};
use super::mcp_capnp::{request, response};
use super::reply::{self, Failed, ToolResult};

/// The media type of single messages.
pub const MEDIA_TYPE: &str = "application/capnp";

/// Reads a `Request` in the standard stream framing, and nothing after it.
///
/// # Errors
/// The request's id, 0 where it could not be read, and
/// [`Cause::TooLarge`], [`Cause::InvalidRequest`], [`Cause::InvalidParams`] or [`Cause::MethodNotFound`].
pub fn decode_request(bytes: &[u8], limits: &Limits) -> Result<(u64, Asked), (u64, Failure)> {
    if bytes.len() > limits.message_bytes_max {
        return Err((0, Failure::new(Cause::TooLarge)));
    }
    if bytes.is_empty() || !bytes.len().is_multiple_of(8) {
        let text = "a message is a whole number of 8-byte words";
        return Err((0, Failure::say(Cause::InvalidRequest, text)));
    }
    // The reader wants its segments aligned; a body is where it is.
    let mut words = Word::allocate_zeroed_vec(bytes.len() / 8);
    Word::words_to_bytes_mut(&mut words).copy_from_slice(bytes);
    let mut slice = Word::words_to_bytes(&words);
    let message = serialize::read_message_from_flat_slice(&mut slice, limits.reader_options())
        .map_err(|error| (0, unreadable(error)))?;
    if !slice.is_empty() {
        let text = "something follows the message";
        return Err((0, Failure::say(Cause::InvalidRequest, text)));
    }
    let root = message
        .get_root::<request::Reader<'_>>()
        .map_err(|error| (0, unreadable(error)))?;
    let id = root.get_id();
    Asked::read(root)
        .map(|asked| (id, asked))
        .map_err(|failure| (id, failure))
}

/// Writes the `Response` to what was asked. `answer` is not looked at for [`Asked::Info`].
#[must_use]
pub fn encode_response(
    id: u64,
    asked: &Asked,
    answer: Result<Reply, Failure>,
    request_id: &str,
) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut out = message.init_root::<response::Builder<'_>>();
    out.set_id(id);
    if let Err(failed) = write(out.reborrow(), asked, answer) {
        failed.write(request_id, out.init_failure());
    }
    serialize::write_message_to_words(&message)
}

/// Writes the `Response` that says that a request failed before anything was asked.
#[must_use]
pub fn encode_failure(id: u64, failure: Failure, request_id: &str) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut out = message.init_root::<response::Builder<'_>>();
    out.set_id(id);
    Failed::from(failure).write(request_id, out.init_failure());
    serialize::write_message_to_words(&message)
}

fn write(
    mut out: response::Builder<'_>,
    asked: &Asked,
    answer: Result<Reply, Failure>,
) -> Result<(), Failed> {
    if matches!(asked, Asked::Info) {
        reply::write_info(out.init_info());
        return Ok(());
    }
    let answer = answer?;
    let result = reply::result(&answer)?;
    match asked {
        Asked::ListTools { .. } => {
            reply::write_page(&mcp::tool::read_list(result)?, out.init_page());
        }
        Asked::CallTool { .. } => ToolResult::parse(result)?.write(out.init_result()),
        Asked::Raw { .. } | Asked::Info => out.set_result_json(result.get()),
    }
    Ok(())
}

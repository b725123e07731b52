//! Replies from MCP into the generated types.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcp::{Cause, Failure, Reply};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::mcp_capnp::{self, content, failure, info, tool, tool_page, tool_result};

/// A failure as the schema has it.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    code: &'static str,
    mcp_code: i64,
    message: String,
    origin: mcp::Origin,
    retryable: bool,
    retry_after_ms: u32,
    data: Option<Box<RawValue>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed {
            code: failure.cause.graphql_code(),
            mcp_code: failure.cause.code(),
            message: failure.message,
            origin: failure.cause.origin(),
            retryable: failure.cause.retryable(),
            retry_after_ms: failure.retry_after.map_or(0, |after| {
                u32::try_from(after.as_millis()).unwrap_or(u32::MAX)
            }),
            data: failure.data,
        }
    }
}

impl Failed {
    fn from_json_rpc(error: &RawValue) -> Failed {
        #[derive(Deserialize)]
        struct Wire {
            code: i64,
            message: String,
            data: Option<Box<RawValue>>,
        }
        let Ok(wire) = serde_json::from_str::<Wire>(error.get()) else {
            return Failure::new(Cause::UpstreamInvalid).into();
        };
        let cause = Cause::ALL.iter().find(|cause| cause.code() == wire.code);
        Failed {
            code: cause.map_or("MCP_ERROR", |cause| cause.graphql_code()),
            mcp_code: wire.code,
            message: wire.message,
            origin: mcp::Origin::Upstream,
            retryable: false,
            retry_after_ms: 0,
            data: wire.data,
        }
    }

    pub(super) fn write(&self, request_id: &str, mut out: failure::Builder<'_>) {
        out.set_code(self.code);
        out.set_mcp_code(i32::try_from(self.mcp_code).unwrap_or_default());
        out.set_message(&self.message);
        out.set_origin(match self.origin {
            mcp::Origin::Client => mcp_capnp::Origin::Client,
            mcp::Origin::Policy => mcp_capnp::Origin::Policy,
            mcp::Origin::Gateway => mcp_capnp::Origin::Gateway,
            mcp::Origin::Upstream => mcp_capnp::Origin::Upstream,
        });
        out.set_retryable(self.retryable);
        out.set_retry_after_ms(self.retry_after_ms);
        out.set_request_id(request_id);
        if let Some(data) = &self.data {
            out.set_data_json(data.get());
        }
    }
}

/// The result in a reply.
pub(super) fn result(reply: &Reply) -> Result<&RawValue, Failed> {
    match reply.result()? {
        Ok(result) => Ok(result),
        Err(error) => Err(Failed::from_json_rpc(error)),
    }
}

impl From<mcp::tool::ToolError> for Failed {
    fn from(_: mcp::tool::ToolError) -> Failed {
        Failure::new(Cause::UpstreamInvalid).into()
    }
}

/// The result of a `tools/call`, as far as it is typed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ToolResult {
    #[serde(default)]
    content: Vec<Box<RawValue>>,
    #[serde(default)]
    is_error: bool,
    structured_content: Option<Box<RawValue>>,
    #[serde(rename = "_meta")]
    meta: Option<Box<RawValue>>,
}

/// One piece of content, as far as it is typed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Piece {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    data: Option<String>,
    mime_type: Option<String>,
    uri: Option<String>,
    name: Option<String>,
    description: Option<String>,
    annotations: Option<Box<RawValue>>,
}

impl ToolResult {
    pub(super) fn parse(result: &RawValue) -> Result<ToolResult, Failed> {
        serde_json::from_str(result.get()).map_err(|_| Failure::new(Cause::UpstreamInvalid).into())
    }

    pub(super) fn write(&self, mut out: tool_result::Builder<'_>) {
        out.set_is_error(self.is_error);
        if let Some(structured) = &self.structured_content {
            out.set_structured_json(structured.get());
        }
        if let Some(meta) = &self.meta {
            out.set_meta_json(meta.get());
        }
        let mut pieces = out.init_content(len(&self.content));
        for (i, raw) in (0..pieces.len()).zip(&self.content) {
            write_piece(raw, pieces.reborrow().get(i));
        }
    }
}

fn write_piece(raw: &RawValue, mut out: content::Builder<'_>) {
    let Ok(piece) = serde_json::from_str::<Piece>(raw.get()) else {
        out.set_json(raw.get());
        return;
    };
    let bytes = piece
        .data
        .as_deref()
        .and_then(|data| STANDARD.decode(data).ok());
    match (piece.kind.as_str(), &piece.text, bytes, &piece.uri) {
        ("text", Some(text), _, _) => out.set_text(text),
        (kind @ ("image" | "audio"), _, Some(bytes), _) => {
            let mut blob = if kind == "image" {
                out.reborrow().init_image()
            } else {
                out.reborrow().init_audio()
            };
            blob.set_data(&bytes);
            blob.set_media_type(piece.mime_type.as_deref().unwrap_or_default());
        }
        ("resource_link", _, _, Some(uri)) => {
            let mut link = out.reborrow().init_link();
            link.set_uri(uri);
            link.set_name(piece.name.as_deref().unwrap_or_default());
            link.set_media_type(piece.mime_type.as_deref().unwrap_or_default());
            link.set_description(piece.description.as_deref().unwrap_or_default());
        }
        _ => out.set_json(raw.get()),
    }
    if let Some(annotations) = &piece.annotations {
        out.set_annotations_json(annotations.get());
    }
}

pub(super) fn write_page(page: &mcp::tool::Page, mut out: tool_page::Builder<'_>) {
    out.set_next_cursor(page.next_cursor.as_deref().unwrap_or_default());
    let mut tools = out.init_tools(len(&page.tools));
    for (i, tool) in (0..tools.len()).zip(&page.tools) {
        write_tool(tool, tools.reborrow().get(i));
    }
}

fn write_tool(from: &mcp::Tool, mut out: tool::Builder<'_>) {
    out.set_name(&from.name);
    out.set_title(from.title.as_deref().unwrap_or_default());
    out.set_description(from.description.as_deref().unwrap_or_default());
    out.set_input_schema_json(from.input_schema.get());
    out.set_output_schema_json(from.output_schema.as_deref().map_or("", RawValue::get));
    out.set_read_only(from.hints.read_only);
    out.set_destructive(from.hints.destructive);
    out.set_idempotent(from.hints.idempotent);
    out.set_open_world(from.hints.open_world);
    out.set_json(from.raw.get());
}

pub(super) fn write_info(mut out: info::Builder<'_>) {
    out.set_name("sweetmcp");
    out.set_version(env!("CARGO_PKG_VERSION"));
    out.set_revision(mcp::Revision::LATEST.as_str());
}

/// A list's length as Cap'n Proto counts; what is beyond 2^29 entries could not be encoded anyway.
fn len<T>(items: &[T]) -> u32 {
    u32::try_from(items.len())
        .unwrap_or(u32::MAX)
        .min((1 << 29) - 1)
}

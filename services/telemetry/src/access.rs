//! The one line about each request.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use tracing::Level;

use crate::{
    events::{Form, Output, level_name, plain_start},
    line::{
        Bounded, DETAIL_CHARS_MAX, Identity, Now, TEXT_CHARS_MAX, with_buffer, write_field,
        write_json, write_word,
    },
    sink::Urgency,
    start,
};

/// What is logged about a request, once, when it has ended. An empty text means "does not apply" and
/// is left out of the line, and so is an absent number.
///
/// Texts are cut to 256 characters and escaped, so they may come from the client as they are. Nothing
/// here may be a secret, an argument or a result.
///
/// Each line also has `ts` (RFC 3339, UTC, microseconds), `level` (`warn` for a status of 500 and
/// above, else `info`), `kind` (`access`), and `service`, `instance` and `release` of the process
/// that writes it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AccessLine<'a> {
    /// The request's id, as in `X-Request-ID`.
    #[serde(serialize_with = "text")]
    pub request_id: &'a str,
    /// The trace's id, 32 hex digits.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub trace_id: &'a str,
    /// Whose data the request may touch.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub tenant: &'a str,
    /// Who asked.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub subject: &'a str,
    /// The client's address, without its port.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub client_addr: &'a str,
    /// `mcp`, `jsonrpc`, `graphql`, `capnp`, `http`, …
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub protocol: &'a str,
    /// HTTP method.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub http_method: &'a str,
    /// Route template, such as `/mcp`; never the path that was asked for.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    /// MCP revision the client speaks.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub revision: &'a str,
    /// MCP method, such as `tools/call`.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub mcp_method: &'a str,
    /// Tool that was called.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub tool: &'a str,
    /// HTTP status of the answer; absent when the client left before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `ok`, `tool_error` or `error`.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub outcome: &'a str,
    /// Who caused an error: `client`, `policy`, `gateway` or `upstream`.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub origin: &'a str,
    /// Where the request ended in error, such as `auth`, `rate` or `attempt`.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub stage: &'a str,
    /// What went wrong, for operators; cut to 1024 characters.
    #[serde(serialize_with = "detail", skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's first byte to the answer's last, microseconds.
    pub duration_us: u64,
    /// How often the call was given to an app; 0 when it was answered without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// App instance that answered.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub backend: &'a str,
    /// Release of the app instance that answered.
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub backend_release: &'a str,
}

fn text<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded::<TEXT_CHARS_MAX>(text).serialize(serializer)
}

fn detail<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    Bounded::<DETAIL_CHARS_MAX>(text).serialize(serializer)
}

impl AccessLine<'_> {
    /// Writes the line to the process's log. Does nothing before [`start`](crate::start), and when
    /// the filter switches the target `access` off.
    pub fn emit(&self) {
        if tracing::enabled!(target: "access", Level::INFO)
            && let Some(output) = start::output()
        {
            self.write_to(output);
        }
    }

    fn write_to(&self, output: &Arc<Output>) {
        with_buffer(|buffer| {
            match output.form {
                Form::Json => {
                    let line = Line {
                        ts: Now,
                        level: level_name(self.level()),
                        kind: "access",
                        identity: &output.identity,
                        access: self,
                    };
                    if write_json(buffer, &line).is_err() {
                        return;
                    }
                }
                Form::Plain { color } => {
                    plain_start(buffer, self.level(), color);
                    self.write_plain(buffer);
                }
            }
            output.sink.write(buffer, Urgency::Batch);
        });
    }

    fn level(&self) -> Level {
        if self.status.is_some_and(|status| status >= 500) {
            Level::WARN
        } else {
            Level::INFO
        }
    }

    fn write_plain(&self, buffer: &mut Vec<u8>) {
        let status = self
            .status
            .map_or_else(|| "---".to_owned(), |status| status.to_string());
        for text in [
            &status,
            self.http_method,
            self.route,
            self.mcp_method,
            self.tool,
            self.outcome,
        ] {
            if !text.is_empty() {
                write_word(buffer, text, TEXT_CHARS_MAX);
                buffer.push(b' ');
            }
        }
        buffer.extend(format!("{:.1}ms", self.duration_us as f64 / 1000.0).bytes());
        for (name, text) in [
            ("stage", self.stage),
            ("detail", self.detail),
            ("tenant", self.tenant),
            ("subject", self.subject),
            ("backend", self.backend),
            ("request", self.request_id),
        ] {
            if !text.is_empty() {
                write_field(buffer, name, text, DETAIL_CHARS_MAX);
            }
        }
        buffer.push(b'\n');
    }
}

#[derive(Serialize)]
struct Line<'a> {
    ts: Now,
    level: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    identity: &'a Identity,
    #[serde(flatten)]
    access: &'a AccessLine<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::written;

    const FULL: AccessLine<'_> = AccessLine {
        request_id: "r-1",
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        tenant: "acme",
        subject: "ann",
        client_addr: "127.0.0.1",
        protocol: "mcp",
        http_method: "POST",
        route: "/mcp",
        revision: "2025-06-18",
        mcp_method: "tools/call",
        tool: "echo\n{\"level\":\"error\"}",
        status: Some(502),
        outcome: "error",
        origin: "upstream",
        stage: "attempt",
        detail: "cannot reach app-1: connection refused",
        bytes_in: 120,
        bytes_out: 340,
        duration_us: 1534,
        attempts: Some(2),
        backend: "app-1",
        backend_release: "def",
    };

    #[test]
    fn http_04_a_request_is_one_line_of_json() {
        let lines = written(Form::Json, |output| FULL.write_to(output));
        insta::assert_snapshot!(lines, @r#"{"ts":"TIME","level":"warn","kind":"access","service":"edge","instance":"edge-1","release":"abc","request_id":"r-1","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","tenant":"acme","subject":"ann","client_addr":"127.0.0.1","protocol":"mcp","http_method":"POST","route":"/mcp","revision":"2025-06-18","mcp_method":"tools/call","tool":"echo\n{\"level\":\"error\"}","status":502,"outcome":"error","origin":"upstream","stage":"attempt","detail":"cannot reach app-1: connection refused","bytes_in":120,"bytes_out":340,"duration_us":1534,"attempts":2,"backend":"app-1","backend_release":"def"}"#);
    }

    #[test]
    fn what_does_not_apply_is_left_out_and_what_is_long_is_cut() {
        let long = "é".repeat(300);
        let line = AccessLine {
            request_id: "r-2",
            tool: &long,
            status: Some(200),
            ..AccessLine::default()
        };
        let lines = written(Form::Json, |output| line.write_to(output));
        insta::assert_snapshot!(lines.replace(&"é".repeat(256), "256 times é"), @r#"{"ts":"TIME","level":"info","kind":"access","service":"edge","instance":"edge-1","release":"abc","request_id":"r-2","tool":"256 times é…","status":200,"bytes_in":0,"bytes_out":0,"duration_us":0}"#);
    }

    #[test]
    fn people_get_a_short_form() {
        let lines = written(Form::Plain { color: false }, |output| FULL.write_to(output));
        insta::assert_snapshot!(lines, @r#"TIME WARN  502 POST /mcp tools/call "echo\n{\"level\":\"error\"}" error 1.5ms stage=attempt detail="cannot reach app-1: connection refused" tenant=acme subject=ann backend=app-1 request=r-1"#);
    }
}

//! The `tools` connection: pages that hold still while the list changes.
//!
//! A cursor is the name that a page ended with, and the next page begins with the first name after it. So a
//! tool that comes or goes moves no other tool to another page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::model::Tool;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    nodes: Vec<&'a RawValue>,
    total_count: usize,
    page_info: PageInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

/// The page that `first` and `after` ask for.
pub(super) fn page(
    tools: &[Tool],
    arguments: &Map<String, Value>,
) -> Result<Box<RawValue>, String> {
    let first = match arguments.get("first").and_then(Value::as_i64) {
        None => tools.len(),
        Some(first) => {
            usize::try_from(first).map_err(|_| "\"first\" must not be negative.".to_owned())?
        }
    };
    let begin = match arguments.get("after").and_then(Value::as_str) {
        None => 0,
        Some(cursor) => {
            let after = decode(cursor).ok_or("\"after\" is no cursor of this list.")?;
            tools.partition_point(|tool| tool.name <= after)
        }
    };
    let end = begin.saturating_add(first).min(tools.len());
    let shown = &tools[begin..end];
    let page = Page {
        nodes: shown.iter().map(|tool| &*tool.described).collect(),
        total_count: tools.len(),
        page_info: PageInfo {
            has_next_page: end < tools.len(),
            end_cursor: shown.last().map(|tool| URL_SAFE_NO_PAD.encode(&tool.name)),
        },
    };
    serde_json::value::to_raw_value(&page).map_err(|error| error.to_string())
}

fn decode(cursor: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

//! The reference: every key with its meaning, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::keys::{Row, rows};
use crate::nearest::nearest;

/// The JSON Schema (2020-12) of the configuration file.
#[must_use]
pub fn schema_json() -> Json {
    let mut root = json!({"type": "object", "additionalProperties": false, "properties": {}});
    for row in rows() {
        let mut schema = row.shape.schema.clone();
        schema["description"] = row.meaning.clone().into();
        if let Some(default) = &row.default {
            schema["default"] = default.clone();
        }
        insert(&mut root, &row.key.split('.').collect::<Vec<_>>(), schema);
    }
    let plugin = root["properties"]["plugin"].take();
    root["properties"]["plugin"] = json!({"type": "array", "items": plugin});
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "sweetmcp.toml".into();
    root
}

fn insert(object: &mut Json, path: &[&str], schema: Json) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some(properties) = object["properties"].as_object_mut() else {
        return;
    };
    if rest.is_empty() {
        properties.insert((*first).to_owned(), schema);
        return;
    }
    let next = properties.entry(*first).or_insert_with(|| {
        json!({"type": "object", "additionalProperties": false, "properties": Json::Object(Map::new())})
    });
    insert(next, rest, schema);
}

/// Every key, as Markdown.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# sweetmcp.toml\n\nEach key outside `[[plugin]]` can also be set by the environment: `edge.http.body_limit` is `SWEETMCP__EDGE__HTTP__BODY_LIMIT`.\n",
    );
    let mut section = String::new();
    for row in rows() {
        let (table, name) = row.key.rsplit_once('.').unwrap_or(("", &row.key));
        if table != section {
            table.clone_into(&mut section);
            let title = if table == "plugin" {
                "[[plugin]]".to_owned()
            } else {
                format!("[{table}]")
            };
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "\n## {title}\n\n| key | type | default | meaning | allowed |\n|---|---|---|---|---|\n"
            );
        }
        let _ = writeln!(
            out,
            "| `{name}` | {} | {} | {} | {} |",
            row.shape.kind,
            default_of(&row),
            row.meaning,
            row.shape.allowed.replace('|', "\\|")
        );
    }
    out
}

fn default_of(row: &Row) -> String {
    row.default
        .as_ref()
        .map_or_else(|| "none".to_owned(), |default| format!("`{default}`"))
}

/// One key in words.
///
/// # Errors
/// The nearest key that there is.
pub fn explain(key: &str) -> Result<String, String> {
    let rows = rows();
    rows.iter()
        .find(|row| row.key == key)
        .map(|row| {
            format!(
                "{}\n  {}\n  default: {}\n  allowed: {}\n",
                row.key,
                row.meaning,
                default_of(row),
                row.shape.allowed
            )
        })
        .ok_or_else(|| {
            nearest(key, rows.iter().map(|row| row.key.as_str()))
                .unwrap_or_default()
                .to_owned()
        })
}

//! Schemas to JSON Schema 2020-12 that stands alone: what is referred to goes into `$defs`.
//!
//! Only keywords that are known are kept, each by its kind: one schema, a list or a map of them, or a plain value. So
//! nothing that a client could follow out of the schema gets into it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::document::{Dialect, Document};
use crate::reference::{Unfit, follow, target};

/// Schemas within each other, references aside.
const DEPTH_MAX: usize = 64;
/// Schemas in one tool.
const NODES_MAX: usize = 5_000;

const ONE: &[&str] = &[
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const LISTS: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
const MAPS: &[&str] = &["dependentSchemas", "patternProperties", "properties"];
const VALUES: &[&str] = &[
    "const",
    "contentEncoding",
    "contentMediaType",
    "default",
    "dependentRequired",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
];

/// Which way a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the API: what is read-only is left out.
    Sent,
    /// From the API: what is write-only is left out.
    Received,
}

/// Converts the schemas of one tool that go the same way.
pub(crate) struct Converter<'d> {
    document: &'d Document,
    way: Way,
    /// Definition names by reference.
    names: BTreeMap<&'d str, String>,
    /// References whose definition is not made yet.
    waiting: Vec<&'d str>,
    definitions: Map<String, Value>,
    nodes: usize,
}

impl<'d> Converter<'d> {
    pub(crate) fn new(document: &'d Document, way: Way) -> Self {
        Self {
            document,
            way,
            names: BTreeMap::new(),
            waiting: Vec::new(),
            definitions: Map::new(),
            nodes: 0,
        }
    }

    /// Converts a schema; what it refers to waits for [`Self::definitions`].
    pub(crate) fn convert(&mut self, schema: &'d Value) -> Result<Value, Unfit> {
        self.at(schema, 0)
    }

    /// Converts what was referred to, and what that refers to, and returns it as `$defs`.
    pub(crate) fn definitions(mut self) -> Result<Map<String, Value>, Unfit> {
        while let Some(reference) = self.waiting.pop() {
            let schema = target(&self.document.root, reference)?;
            let converted = self.at(schema, 0)?;
            let name = self.names.get(reference).cloned().unwrap_or_default();
            self.definitions.insert(name, converted);
        }
        Ok(self.definitions)
    }

    fn at(&mut self, schema: &'d Value, depth: usize) -> Result<Value, Unfit> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Unfit(format!("it has more than {NODES_MAX} schemas")));
        }
        if depth > DEPTH_MAX {
            return Err(Unfit(format!(
                "its schemas stand deeper than {DEPTH_MAX} levels"
            )));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(Unfit("a schema is neither object nor boolean".into())),
        };
        if map.contains_key("$dynamicRef") {
            return Err(Unfit("a schema uses $dynamicRef".into()));
        }
        let reference = map.get("$ref").and_then(Value::as_str);
        let mut converted = match (reference, self.document.dialect) {
            (Some(_), Dialect::V30) => Map::new(),
            _ => self.keywords(map, depth)?,
        };
        if let Some(reference) = reference {
            converted.insert("$ref".into(), self.refer(reference)?.into());
            if let Some(text @ Value::String(_)) = map.get("description") {
                converted.insert("description".into(), text.clone());
            }
        }
        Ok(match self.document.dialect {
            Dialect::V30 => modernised(converted, map),
            Dialect::V31 => Value::Object(converted),
        })
    }

    fn keywords(
        &mut self,
        map: &'d Map<String, Value>,
        depth: usize,
    ) -> Result<Map<String, Value>, Unfit> {
        let mut converted = Map::new();
        let hidden = self.hidden(map)?;
        for (keyword, value) in map {
            let word = keyword.as_str();
            let value = if ONE.contains(&word) {
                self.at(value, depth + 1)?
            } else if LISTS.contains(&word) {
                let schemas = value
                    .as_array()
                    .ok_or_else(|| Unfit(format!("{word} is no list")))?;
                let all: Result<_, _> = schemas.iter().map(|s| self.at(s, depth + 1)).collect();
                Value::Array(all?)
            } else if MAPS.contains(&word) {
                let schemas = value
                    .as_object()
                    .ok_or_else(|| Unfit(format!("{word} is no object")))?;
                let mut all = Map::new();
                for (name, schema) in schemas {
                    if word != "properties" || !hidden.contains(&name.as_str()) {
                        all.insert(name.clone(), self.at(schema, depth + 1)?);
                    }
                }
                Value::Object(all)
            } else if word == "required" {
                let names = value.as_array().into_iter().flatten();
                let kept = names.filter(|name| name.as_str().is_some_and(|n| !hidden.contains(&n)));
                Value::Array(kept.cloned().collect())
            } else if VALUES.contains(&word) {
                value.clone()
            } else {
                continue;
            };
            converted.insert(keyword.clone(), value);
        }
        if let (Some(example), false) = (map.get("example"), map.contains_key("examples")) {
            converted.insert("examples".into(), json!([example]));
        }
        Ok(converted)
    }

    /// Returns the properties that do not go this way.
    fn hidden(&self, map: &'d Map<String, Value>) -> Result<Vec<&'d str>, Unfit> {
        let mark = match self.way {
            Way::Sent => "readOnly",
            Way::Received => "writeOnly",
        };
        let mut hidden = Vec::new();
        let properties = map.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let marked = |schema: &Value| schema.get(mark) == Some(&Value::Bool(true));
            if marked(schema) || marked(follow(&self.document.root, schema)?) {
                hidden.push(name.as_str());
            }
        }
        Ok(hidden)
    }

    /// Returns the reference by which the tool's schema names a definition.
    fn refer(&mut self, reference: &'d str) -> Result<String, Unfit> {
        if !self.names.contains_key(reference) {
            target(&self.document.root, reference)?;
            let last = reference.rsplit(['/', '#']).next().unwrap_or_default();
            let plain = plain_name(last);
            let taken = |name: &String| self.names.values().any(|other| other == name);
            let mut name = plain.clone();
            let mut turn = 2;
            while taken(&name) {
                name = format!("{plain}_{turn}");
                turn += 1;
            }
            self.names.insert(reference, name);
            self.waiting.push(reference);
        }
        let name = self.names.get(reference).cloned().unwrap_or_default();
        Ok(format!("#/$defs/{name}"))
    }
}

/// Returns a name of letters, digits, `_`, `-` and `.` that clients take as a property or a definition.
pub(crate) fn plain_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .take(64)
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' => c,
            _ => '_',
        })
        .collect();
    if plain.is_empty() {
        "unnamed".into()
    } else {
        plain
    }
}

/// Says in JSON Schema's words what 3.0 says in its own.
fn modernised(mut schema: Map<String, Value>, written: &Map<String, Value>) -> Value {
    for (exclusive, bound) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        if let Some(Value::Bool(is)) = schema.get(exclusive) {
            let is = *is;
            schema.remove(exclusive);
            if let (true, Some(limit)) = (is, schema.remove(bound)) {
                schema.insert(exclusive.into(), limit);
            }
        }
    }
    if written.get("nullable") != Some(&Value::Bool(true)) {
        return Value::Object(schema);
    }
    let combined = ["$ref", "allOf", "anyOf", "oneOf"]
        .iter()
        .any(|word| schema.contains_key(*word));
    if combined {
        return json!({"anyOf": [schema, {"type": "null"}]});
    }
    if let Some(Value::String(kind)) = schema.get("type") {
        let kinds = json!([kind, "null"]);
        schema.insert("type".into(), kinds);
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
    }
    Value::Object(schema)
}

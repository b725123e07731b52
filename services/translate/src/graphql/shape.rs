//! What of a JSON Schema GraphQL can say.
//!
//! A schema is read into a [`Shape`]; whatever GraphQL has no words for is [`Shape::Json`], the scalar that
//! takes anything. Reading is bounded in depth and in size, follows `$ref` only within the schema, and never
//! fails: the server checks arguments against its own schema anyway.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::names::is_legal;

/// Levels of objects and lists before the rest is `JSON`.
const DEPTH_MAX: usize = 12;
/// Schema nodes of one tool before the rest is `JSON`.
const NODES_MAX: usize = 512;
/// Values of an enumeration before it is `String`.
const ENUM_MAX: usize = 256;

/// Keywords that only describe; a `$ref` beside any other is `JSON`.
const ANNOTATIONS: [&str; 8] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
];

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) shape: Shape,
    /// Whether the schema admits `null`.
    pub(super) nullable: bool,
    pub(super) description: Option<String>,
    pub(super) default: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Json,
    String,
    Boolean,
    Int,
    Long,
    Float,
    Enum(Vec<String>),
    List(Box<Node>),
    Object(Vec<Property>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) node: Node,
}

/// The properties of a tool's own schema: required ones first, each kind in byte order.
pub(super) fn properties(schema: &Value) -> Vec<Property> {
    let mut reader = Reader {
        root: schema,
        nodes_left: NODES_MAX,
        refs: Vec::new(),
    };
    let mut object = schema;
    // Some generators write the top level as a reference into `$defs`.
    if let Some(target) = reference(object).and_then(|r| resolve(schema, r)) {
        object = target;
    }
    match object.get("properties") {
        Some(Value::Object(members)) => reader.members(object, members, 0),
        _ => Vec::new(),
    }
}

struct Reader<'a> {
    root: &'a Value,
    nodes_left: usize,
    refs: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn node(&mut self, schema: &'a Value, depth: usize) -> Node {
        let anything = |nullable| (Shape::Json, nullable);
        let (shape, nullable) = match schema {
            Value::Object(members) if depth <= DEPTH_MAX && self.nodes_left > 0 => {
                self.nodes_left -= 1;
                self.shape(schema, members, depth)
            }
            Value::Object(_) => anything(false),
            _ => anything(true),
        };
        Node {
            shape,
            nullable,
            description: text(schema, "description").or_else(|| text(schema, "title")),
            default: schema.get("default").cloned(),
        }
    }

    fn shape(
        &mut self,
        schema: &'a Value,
        members: &'a Map<String, Value>,
        depth: usize,
    ) -> (Shape, bool) {
        if let Some(name) = reference(schema) {
            return self.referenced(name, members, depth);
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            if let Some(Value::Array(branches)) = members.get(keyword) {
                return self.combined(branches, keyword, members, depth);
            }
        }
        if let Some(Value::Array(values)) = members.get("enum") {
            return enumeration(values);
        }
        if let Some(value) = members.get("const") {
            return enumeration(std::slice::from_ref(value));
        }
        let (name, nullable) = match members.get("type") {
            Some(Value::String(name)) => (name.as_str(), false),
            Some(Value::Array(names)) => match one_type(names) {
                Some(found) => found,
                None => return (Shape::Json, names.iter().any(|n| n == "null")),
            },
            _ if members.contains_key("properties") => ("object", false),
            _ => return (Shape::Json, true),
        };
        (self.typed(name, schema, members, depth), nullable)
    }

    fn typed(
        &mut self,
        name: &str,
        schema: &'a Value,
        members: &'a Map<String, Value>,
        depth: usize,
    ) -> Shape {
        match name {
            "string" => Shape::String,
            "boolean" => Shape::Boolean,
            "integer" if fits_int(members) => Shape::Int,
            "integer" => Shape::Long,
            "number" => Shape::Float,
            "array" => match members.get("items") {
                Some(items @ Value::Object(_)) if !members.contains_key("prefixItems") => {
                    Shape::List(Box::new(self.node(items, depth + 1)))
                }
                _ => Shape::Json,
            },
            "object" => match members.get("properties") {
                Some(Value::Object(properties)) if !properties.is_empty() && is_closed(members) => {
                    Shape::Object(self.members(schema, properties, depth + 1))
                }
                _ => Shape::Json,
            },
            _ => Shape::Json,
        }
    }

    fn members(
        &mut self,
        object: &'a Value,
        properties: &'a Map<String, Value>,
        depth: usize,
    ) -> Vec<Property> {
        let required: BTreeSet<&str> = match object.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => BTreeSet::new(),
        };
        // A map's own order depends on how serde_json was built.
        let mut names: Vec<&'a String> = properties.keys().collect();
        names.sort_by_key(|name| (!required.contains(name.as_str()), name.as_str()));
        names
            .into_iter()
            .map(|name| Property {
                name: name.clone(),
                required: required.contains(name.as_str()),
                node: self.node(&properties[name], depth),
            })
            .collect()
    }

    fn referenced(
        &mut self,
        name: &'a str,
        members: &Map<String, Value>,
        depth: usize,
    ) -> (Shape, bool) {
        let plain = members
            .keys()
            .all(|key| key == "$ref" || ANNOTATIONS.contains(&key.as_str()));
        let (true, false, Some(target)) =
            (plain, self.refs.contains(&name), resolve(self.root, name))
        else {
            return (Shape::Json, true);
        };
        self.refs.push(name);
        let node = self.node(target, depth + 1);
        self.refs.pop();
        (node.shape, node.nullable)
    }

    /// `anyOf: [X, null]` is how many generators write an optional X; anything richer is `JSON`.
    fn combined(
        &mut self,
        branches: &'a [Value],
        keyword: &str,
        members: &Map<String, Value>,
        depth: usize,
    ) -> (Shape, bool) {
        let is_null = |branch: &&Value| branch.get("type").is_some_and(|t| t == "null");
        let null = branches.iter().any(|branch| is_null(&branch));
        let rest: Vec<&'a Value> = branches.iter().filter(|branch| !is_null(branch)).collect();
        let plain = members
            .keys()
            .all(|key| key == keyword || key == "type" || ANNOTATIONS.contains(&key.as_str()));
        match rest[..] {
            [only] if plain && !(null && keyword == "allOf") => {
                let node = self.node(only, depth + 1);
                (node.shape, node.nullable || null)
            }
            _ => (Shape::Json, null),
        }
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str)
}

fn resolve<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    root.pointer(name.strip_prefix('#')?)
}

fn text(schema: &Value, keyword: &str) -> Option<String> {
    schema
        .get(keyword)
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// The one type of a list of types beside `null`, and whether `null` is there.
fn one_type(names: &[Value]) -> Option<(&str, bool)> {
    let mut rest: Vec<&str> = names
        .iter()
        .filter_map(Value::as_str)
        .filter(|n| *n != "null")
        .collect();
    let null = names.iter().any(|n| n == "null");
    if rest.len() == 2 && rest.contains(&"integer") && rest.contains(&"number") {
        rest = vec!["number"];
    }
    match rest[..] {
        [only] => Some((only, null)),
        _ => None,
    }
}

fn enumeration(values: &[Value]) -> (Shape, bool) {
    let null = values.iter().any(Value::is_null);
    let rest: Vec<&Value> = values.iter().filter(|value| !value.is_null()).collect();
    let shape = if rest.iter().all(|v| v.is_string()) && !rest.is_empty() {
        let names: Vec<String> = rest
            .iter()
            .filter_map(|v| v.as_str())
            .map(str::to_owned)
            .collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        let legal =
            |name: &String| is_legal(name) && !["true", "false", "null"].contains(&name.as_str());
        if names.iter().all(legal) && distinct.len() == names.len() && names.len() <= ENUM_MAX {
            Shape::Enum(names)
        } else {
            Shape::String
        }
    } else if rest.iter().all(|v| v.is_i64() || v.is_u64()) && !rest.is_empty() {
        let int = |v: &&Value| v.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        if rest.iter().all(int) {
            Shape::Int
        } else {
            Shape::Long
        }
    } else if rest.iter().all(|v| v.is_boolean()) && !rest.is_empty() {
        Shape::Boolean
    } else {
        Shape::Json
    };
    (shape, null)
}

/// Whether an integer's bounds keep it within GraphQL's 32 bits.
fn fits_int(members: &Map<String, Value>) -> bool {
    let bound = |inclusive: &str, exclusive: &str| {
        members
            .get(inclusive)
            .or_else(|| members.get(exclusive))
            .and_then(Value::as_f64)
    };
    let within = |bound: f64| (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&bound);
    bound("minimum", "exclusiveMinimum").is_some_and(within)
        && bound("maximum", "exclusiveMaximum").is_some_and(within)
}

/// Whether an object takes only the properties it names, or at least asks for no others.
fn is_closed(members: &Map<String, Value>) -> bool {
    matches!(
        members.get("additionalProperties"),
        None | Some(Value::Bool(false))
    ) && !members.contains_key("patternProperties")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A short form of a property's shape, for tables.
    fn show(node: &Node) -> String {
        let text = match &node.shape {
            Shape::Enum(values) => format!("enum({})", values.join("|")),
            Shape::List(item) => format!("[{}]", show(item)),
            Shape::Object(properties) => {
                let all: Vec<String> = properties
                    .iter()
                    .map(|p| {
                        format!(
                            "{}{}:{}",
                            p.name,
                            if p.required { "!" } else { "" },
                            show(&p.node)
                        )
                    })
                    .collect();
                format!("{{{}}}", all.join(","))
            }
            plain => format!("{plain:?}"),
        };
        if node.nullable {
            format!("{text}?")
        } else {
            text
        }
    }

    fn shape_of(schema: &Value) -> String {
        let root = json!({
            "properties": {"p": schema},
            "$defs": {
                "Name": {"type": "string"},
                "Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}},
            },
        });
        show(&properties(&root)[0].node)
    }

    #[test]
    fn shapes() {
        for (schema, shape) in [
            (json!({"type": "string"}), "String"),
            (json!({"type": "integer"}), "Long"),
            (
                json!({"type": "integer", "minimum": 0, "maximum": 100}),
                "Int",
            ),
            (
                json!({"type": "integer", "minimum": 0, "maximum": 1e10}),
                "Long",
            ),
            (json!({"type": "number"}), "Float"),
            (json!({"type": ["integer", "number", "null"]}), "Float?"),
            (json!({"type": ["string", "null"]}), "String?"),
            (json!({"type": ["string", "boolean"]}), "Json"),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": null}),
                "Long?",
            ),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
                "Json",
            ),
            (
                json!({"allOf": [{"$ref": "#/$defs/Name"}], "description": "x"}),
                "String",
            ),
            (json!({"enum": ["a", "b"]}), "enum(a|b)"),
            (json!({"enum": ["a", null]}), "enum(a)?"),
            (json!({"enum": ["a b", "true"]}), "String"),
            (json!({"enum": ["true"]}), "String"),
            (json!({"enum": [1, 2]}), "Int"),
            (json!({"enum": [1, "a"]}), "Json"),
            (json!({"const": "only"}), "enum(only)"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                "[String]",
            ),
            (json!({"type": "array"}), "Json"),
            (json!({"type": "object"}), "Json"),
            (
                json!({"type": "object", "properties": {"b": {"type": "string"}, "a": {}, "z": {"type": "boolean"}}, "required": ["z"]}),
                "{z!:Boolean,a:Json?,b:String}",
            ),
            (
                json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}),
                "Json",
            ),
            (json!({"$ref": "#/$defs/Name"}), "String"),
            (json!({"$ref": "https://example.com/x"}), "Json?"),
            (json!({"$ref": "#/$defs/Tree"}), "{kids:[Json?]}"),
            (json!(true), "Json?"),
            (json!({}), "Json?"),
            (json!({"type": 5}), "Json?"),
        ] {
            assert_eq!(shape_of(&schema), shape, "{schema}");
        }
    }

    #[test]
    fn reading_is_bounded() {
        // Each definition holds two of the next: read in full this would be 2^40 nodes.
        let mut defs = Map::new();
        for i in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            defs.insert(
                format!("d{i}"),
                json!({"type": "object", "properties": {"a": next, "b": next}}),
            );
        }
        let schema = json!({"properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": defs});
        assert_eq!(properties(&schema).len(), 1);
    }
}

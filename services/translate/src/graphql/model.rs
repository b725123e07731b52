//! The schema as data: root fields, what each does, and the types they use.

use std::sync::Arc;

use mcp::members::Members;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::names::{self, Namer};
use super::shape::{self, Node, Property, Shape};
use super::types::{EnumType, Field, Kind, ObjectType, Source, TypeRef};

/// Names of types that tools' types must not take.
const RESERVED_TYPES: [&str; 14] = [
    "Query",
    "Mutation",
    "Subscription",
    "String",
    "Boolean",
    "Int",
    "Float",
    "ID",
    "Long",
    "JSON",
    "Upload",
    "_Any",
    "_Entity",
    "_Service",
];

/// Names of root fields that tools' fields must not take, on either root: a tool keeps its name when it
/// becomes read-only.
const RESERVED_FIELDS: [&str; 11] = [
    "tools",
    "tool",
    "callTool",
    "resources",
    "resource",
    "prompts",
    "prompt",
    "serverInfo",
    "_service",
    "_entities",
    "node",
];

/// What a root field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Lists the tools on offer.
    ListTools,
    /// Describes one tool.
    DescribeTool,
    /// Calls the tool that an argument names.
    CallNamed,
    /// Calls this tool.
    Call(usize),
}

/// Which effects an operation may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    ReadOnly,
    Any,
}

/// `Query` or `Mutation`.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) object: Arc<ObjectType>,
    /// One for each field of `object`.
    pub(super) actions: Vec<Action>,
    pub(super) effect: Effect,
}

/// One tool on offer.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) effect: Effect,
    /// The tool as the `Tool` type shows it.
    pub(super) described: Box<RawValue>,
}

#[derive(Debug)]
pub(super) struct Model {
    /// In byte order of their names.
    pub(super) tools: Vec<Tool>,
    pub(super) query: Root,
    pub(super) mutation: Root,
}

impl Model {
    pub(super) fn new(tools: &[mcp::Tool]) -> Model {
        let mut sorted: Vec<&mcp::Tool> = tools.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.dedup_by(|later, first| later.name == first.name);

        let originals: Vec<&str> = sorted.iter().map(|tool| tool.name.as_str()).collect();
        let fields = names::assign(&originals, &RESERVED_FIELDS);
        let mut make = Types::new();
        let call_tool = call_tool(&make.result);
        let mut query = (
            vec![
                list_tools(&make.tool),
                describe_tool(&make.tool),
                call_tool.clone(),
            ],
            vec![Action::ListTools, Action::DescribeTool, Action::CallNamed],
        );
        let mut mutation = (vec![call_tool], vec![Action::CallNamed]);
        let mut described = Vec::with_capacity(sorted.len());
        for (i, (tool, name)) in sorted.iter().zip(&fields).enumerate() {
            let effect = if tool.hints.read_only {
                Effect::ReadOnly
            } else {
                Effect::Any
            };
            let root = match effect {
                Effect::ReadOnly => &mut query,
                Effect::Any => &mut mutation,
            };
            root.0.push(make.tool_field(tool, name));
            root.1.push(Action::Call(i));
            described.push(Tool {
                name: tool.name.clone(),
                effect,
                described: describe(tool, name, effect),
            });
        }
        let root = |name: &str, description: &str, (fields, actions), effect| Root {
            object: Arc::new(ObjectType::new(
                name.into(),
                Some(description.into()),
                fields,
            )),
            actions,
            effect,
        };
        Model {
            tools: described,
            query: root("Query", QUERY_TEXT, query, Effect::ReadOnly),
            mutation: root("Mutation", MUTATION_TEXT, mutation, Effect::Any),
        }
    }

    /// The tool of that name.
    pub(super) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools
            .binary_search_by(|tool| tool.name.as_str().cmp(name))
            .ok()
            .map(|i| &self.tools[i])
    }
}

const QUERY_TEXT: &str = "What is on offer, and the tools that change nothing. Fields run at once.";
const MUTATION_TEXT: &str =
    "The tools that may change something. Fields run once each, one after another.";

/// Makes types, each under a name of its own.
struct Types {
    namer: Namer,
    content: Arc<ObjectType>,
    result: Arc<ObjectType>,
    tool: Arc<ObjectType>,
}

impl Types {
    fn new() -> Types {
        let mut namer = Namer::with_reserved(&RESERVED_TYPES);
        let mut object = |name: &str, text: &str, fields| {
            Arc::new(ObjectType::new(
                namer.claim(name),
                Some(text.to_owned()),
                fields,
            ))
        };
        let content = object(
            "Content",
            "One piece of a result's content.",
            content_fields(),
        );
        let result = object(
            "CallToolResult",
            "What a tool answered.",
            result_fields(&content),
        );
        let tool = object("Tool", "A tool on offer.", tool_fields());
        // Made with the field that returns them, under these names.
        for name in ["ToolConnection", "PageInfo"] {
            namer.claim(name);
        }
        Types {
            namer,
            content,
            result,
            tool,
        }
    }

    fn tool_field(&mut self, tool: &mcp::Tool, name: &str) -> Field {
        let parse = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
        let base = names::type_name(name);
        let input = shape::properties(&parse(&tool.input_schema));
        let output = tool
            .output_schema
            .as_deref()
            .map(|raw| shape::properties(&parse(raw)))
            .unwrap_or_default();
        let result = if output.is_empty() {
            Arc::clone(&self.result)
        } else {
            self.typed_result(&base, &output)
        };
        let description = described_as(tool.description.as_deref(), "MCP tool", &tool.name);
        Field::new(name, Kind::Object(result).nullable(), &description).takes(self.fields(
            &input,
            &base,
            Use::Input,
        ))
    }

    fn typed_result(&mut self, base: &str, output: &[Property]) -> Arc<ObjectType> {
        let result = self.namer.claim(&format!("{base}Result"));
        let structured = self.namer.claim(&format!("{base}Structured"));
        let fields = self.fields(output, &structured, Use::Output);
        let structured = Arc::new(ObjectType::new(structured, None, fields));
        let mut fields = result_fields(&self.content);
        fields.push(
            Field::new(
                "structured",
                Kind::Object(structured).nullable(),
                "The structured content, typed. Null when there is none, as when the tool failed.",
            )
            .from(Source::Member("structuredContent".to_owned())),
        );
        let text = Some("What the tool answered.".to_owned());
        Arc::new(ObjectType::new(result, text, fields))
    }

    fn fields(&mut self, properties: &[Property], base: &str, used: Use) -> Vec<Field> {
        let originals: Vec<&str> = properties.iter().map(|p| p.name.as_str()).collect();
        let names = names::assign(&originals, &[]);
        properties
            .iter()
            .zip(names)
            .map(|(property, name)| self.field(property, name, base, used))
            .collect()
    }

    fn field(&mut self, property: &Property, name: String, base: &str, used: Use) -> Field {
        let node = &property.node;
        let path = format!("{base}{}", names::type_name(&name));
        let ty = TypeRef {
            kind: self.kind(node, &path, used),
            nullable: !property.required || node.nullable,
        };
        let description = if name == property.name {
            node.description.clone()
        } else {
            Some(described_as(
                node.description.as_deref(),
                "Property",
                &property.name,
            ))
        };
        let default = match used {
            // A default that is null says no more than absence does.
            Use::Input => node.default.clone().filter(|value| !value.is_null()),
            Use::Output => None,
        };
        Field {
            name,
            description,
            source: Source::Member(property.name.clone()),
            ty,
            admits_null: node.nullable,
            default,
            arguments: Vec::new(),
        }
    }

    fn kind(&mut self, node: &Node, path: &str, used: Use) -> Kind {
        match &node.shape {
            Shape::Json => Kind::Json,
            Shape::String => Kind::String,
            Shape::Boolean => Kind::Boolean,
            Shape::Int => Kind::Int,
            Shape::Long => Kind::Long,
            Shape::Float => Kind::Float,
            Shape::Enum(values) => Kind::Enum(Arc::new(EnumType {
                name: self.namer.claim(&match used {
                    Use::Input => format!("{path}Choice"),
                    Use::Output => path.to_owned(),
                }),
                description: node.description.clone(),
                values: values.clone(),
            })),
            Shape::List(item) => Kind::List(Box::new(TypeRef {
                kind: self.kind(item, path, used),
                nullable: item.nullable,
            })),
            Shape::Object(properties) => {
                let name = self.namer.claim(&match used {
                    Use::Input => format!("{path}Input"),
                    Use::Output => path.to_owned(),
                });
                let fields = self.fields(properties, path, used);
                let object = ObjectType::new(name, node.description.clone(), fields);
                Kind::Object(Arc::new(object))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Use {
    Input,
    Output,
}

fn described_as(description: Option<&str>, what: &str, original: &str) -> String {
    let original = format!("{what} `{original}`.");
    match description {
        Some(text) if !text.trim().is_empty() => format!("{}\n\n{original}", text.trim()),
        _ => original,
    }
}

/// A tool as the `Tool` type shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    name: &'a str,
    title: Option<&'a str>,
    description: Option<&'a str>,
    field: &'a str,
    read_only: bool,
    input_schema: &'a RawValue,
    output_schema: Option<&'a RawValue>,
    annotations: Option<&'a RawValue>,
    meta: Option<&'a RawValue>,
}

fn describe(tool: &mcp::Tool, field: &str, effect: Effect) -> Box<RawValue> {
    let raw = Members::parse(&tool.raw).unwrap_or_default();
    let described = Described {
        name: &tool.name,
        title: tool.title.as_deref(),
        description: tool.description.as_deref(),
        field,
        read_only: effect == Effect::ReadOnly,
        input_schema: &tool.input_schema,
        output_schema: tool.output_schema.as_deref(),
        annotations: raw.get("annotations"),
        meta: raw.get("_meta"),
    };
    serde_json::value::to_raw_value(&described).expect("strings and raw values always serialise")
}

fn call_tool(result: &Arc<ObjectType>) -> Field {
    Field::new(
        "callTool",
        Kind::Object(Arc::clone(result)).nullable(),
        "Calls a tool by its MCP name. On `Query` only tools that change nothing.",
    )
    .takes(vec![
        Field::new("name", Kind::String.required(), "The tool's MCP name."),
        Field::new(
            "arguments",
            Kind::Json.nullable(),
            "The tool's arguments, an object.",
        ),
    ])
}

fn list_tools(tool: &Arc<ObjectType>) -> Field {
    let page = ObjectType::new(
        "PageInfo".into(),
        Some("Where a page ends.".into()),
        vec![
            Field::new(
                "hasNextPage",
                Kind::Boolean.required(),
                "Whether more follow.",
            ),
            Field::new(
                "endCursor",
                Kind::String.nullable(),
                "What `after` takes for the next page.",
            ),
        ],
    );
    let connection = ObjectType::new(
        "ToolConnection".into(),
        Some("A page of tools, in order of their names.".into()),
        vec![
            Field::new(
                "nodes",
                Kind::Object(Arc::clone(tool)).list().required(),
                "The tools.",
            ),
            Field::new(
                "totalCount",
                Kind::Int.required(),
                "How many there are in all.",
            ),
            Field::new(
                "pageInfo",
                Kind::Object(Arc::new(page)).required(),
                "Where the page ends.",
            ),
        ],
    );
    Field::new(
        "tools",
        Kind::Object(Arc::new(connection)).nullable(),
        "The tools on offer to the caller.",
    )
    .takes(vec![
        Field::new(
            "first",
            Kind::Int.nullable(),
            "How many to list; all when left out.",
        ),
        Field::new(
            "after",
            Kind::String.nullable(),
            "The `endCursor` of the page before.",
        ),
    ])
}

fn describe_tool(tool: &Arc<ObjectType>) -> Field {
    Field::new(
        "tool",
        Kind::Object(Arc::clone(tool)).nullable(),
        "One tool by its MCP name; null when it is not on offer.",
    )
    .takes(vec![Field::new(
        "name",
        Kind::String.required(),
        "The tool's MCP name.",
    )])
}

fn tool_fields() -> Vec<Field> {
    vec![
        Field::new("name", Kind::String.required(), "The MCP name."),
        Field::new("title", Kind::String.nullable(), "A name for people."),
        Field::new(
            "description",
            Kind::String.nullable(),
            "What the tool does.",
        ),
        Field::new(
            "field",
            Kind::String.required(),
            "The field of `Query` or `Mutation` that calls it.",
        ),
        Field::new(
            "readOnly",
            Kind::Boolean.required(),
            "Whether it changes nothing.",
        ),
        Field::new(
            "inputSchema",
            Kind::Json.required(),
            "JSON Schema of its arguments.",
        ),
        Field::new(
            "outputSchema",
            Kind::Json.nullable(),
            "JSON Schema of its structured content.",
        ),
        Field::new(
            "annotations",
            Kind::Json.nullable(),
            "What the server says of its effects.",
        ),
        Field::new("meta", Kind::Json.nullable(), "The definition's `_meta`."),
    ]
}

fn result_fields(content: &Arc<ObjectType>) -> Vec<Field> {
    vec![
        Field::new(
            "content",
            Kind::Object(Arc::clone(content)).list().required(),
            "The content, piece by piece.",
        )
        .from(Source::MemberOr("content", "[]")),
        Field::new(
            "text",
            Kind::String.required(),
            "The texts of the content, one after another.",
        )
        .from(Source::Text),
        Field::new(
            "isError",
            Kind::Boolean.required(),
            "Whether the tool says that it failed.",
        )
        .from(Source::MemberOr("isError", "false")),
        Field::new(
            "structuredContent",
            Kind::Json.nullable(),
            "The structured content as it came.",
        ),
        Field::new("meta", Kind::Json.nullable(), "The result's `_meta`.")
            .from(Source::Member("_meta".into())),
    ]
}

fn content_fields() -> Vec<Field> {
    let plain = |name, text| Field::new(name, Kind::String.nullable(), text);
    vec![
        Field::new(
            "type",
            Kind::String.required(),
            "`text`, `image`, `audio`, `resource`, `resource_link` or another.",
        ),
        plain("text", "Of a text: the text."),
        plain("data", "Of an image or audio: the bytes in Base64."),
        plain("mimeType", "The media type of the data."),
        plain("uri", "Of a link to a resource: where it is."),
        plain("name", "Of a link to a resource: its name."),
        plain("title", "Of a link to a resource: its name for people."),
        plain("description", "Of a link to a resource: what it is."),
        Field::new(
            "resource",
            Kind::Json.nullable(),
            "Of an embedded resource: its contents.",
        ),
        Field::new(
            "annotations",
            Kind::Json.nullable(),
            "Whom the piece is for, and how much it matters.",
        ),
        Field::new("raw", Kind::Json.required(), "The piece as it came.").from(Source::Whole),
    ]
}

//! A path and method as a tool.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::document::{Document, DocumentError};
use crate::reference::{Unfit, follow};
use crate::request::{BodyForm, Parameter, Part, Place, parts};
use crate::schema::{Converter, Way, plain_name};

/// Operations in one document.
const OPERATIONS_MAX: usize = 5_000;
/// Parameters of one operation.
const PARAMETERS_MAX: usize = 256;
/// Bytes of one tool's definition.
const DEFINITION_BYTES_MAX: usize = 256 << 10;
/// Characters of a description that are kept.
const DESCRIPTION_CHARS_MAX: usize = 4_096;
/// The argument that carries the request's body.
pub(crate) const BODY: &str = "body";

/// The methods that are served, with what they promise (RFC 9110, 9.2).
const METHODS: [(&str, &str, Promise); 6] = [
    ("get", "GET", Promise::ReadOnly),
    ("head", "HEAD", Promise::ReadOnly),
    ("put", "PUT", Promise::Idempotent),
    ("delete", "DELETE", Promise::Idempotent),
    ("post", "POST", Promise::Nothing),
    ("patch", "PATCH", Promise::Nothing),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    ReadOnly,
    Idempotent,
    Nothing,
}

impl Promise {
    fn annotations(self, title: &str) -> Value {
        json!({
            "title": title,
            "readOnlyHint": self == Self::ReadOnly,
            "destructiveHint": self != Self::ReadOnly,
            "idempotentHint": self != Self::Nothing,
            "openWorldHint": true,
        })
    }
}

/// What of a document is served, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Names of tools to serve, `*` at the end for all that begin so; all tools if it is empty.
    pub operations: Vec<String>,
    /// Longest name of a tool, in bytes; longer ones are cut and told apart by a digest.
    pub name_bytes_max: usize,
    /// Whether the document's word on answers becomes the tool's `outputSchema`.
    pub output_schemas: bool,
}

/// What a document offers.
#[derive(Debug)]
pub struct Api {
    operations: BTreeMap<String, Operation>,
    /// What it does not offer.
    pub refused: Vec<Refused>,
}

/// An operation that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `GET /pets`
    pub operation: String,
    /// Why.
    pub reason: String,
}

/// One operation as a tool.
#[derive(Debug)]
pub struct Operation {
    /// The tool's object of the protocol.
    pub definition: Value,
    /// `GET`
    pub(crate) method: &'static str,
    pub(crate) path: Vec<Part>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<BodyForm>,
    /// Whether `structuredContent` is the answer itself or `{"value": answer}`; decided by the `outputSchema`.
    pub(crate) wrapped: Option<bool>,
}

impl Operation {
    /// Returns whether the tool has an `outputSchema`.
    #[must_use]
    pub fn has_output_schema(&self) -> bool {
        self.wrapped.is_some()
    }
}

impl Api {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is no OpenAPI document at all; an operation that cannot be served is in [`Api::refused`].
    pub fn read(text: &str, options: &Options) -> Result<Self, DocumentError> {
        let document = Document::read(text)?;
        let paths = document.root.get("paths").and_then(Value::as_object);
        let mut api = Self {
            operations: BTreeMap::new(),
            refused: Vec::new(),
        };
        let mut seen = 0;
        for (path, item) in paths.ok_or(DocumentError::NoPaths)? {
            for (key, method, promise) in METHODS {
                let shown = format!("{method} {}", path.chars().take(200).collect::<String>());
                let found = follow(&document.root, item).map(|item| (item, item.get(key)));
                let read = match found {
                    Ok((_, None)) => continue,
                    Ok((item, Some(operation))) => Reading {
                        document: &document,
                        options,
                        path,
                        method,
                        promise,
                        item,
                        operation,
                    }
                    .read(),
                    Err(unfit) => Err(unfit),
                };
                seen += 1;
                if seen > OPERATIONS_MAX {
                    api.refuse(
                        shown,
                        format!("the document has more than {OPERATIONS_MAX} operations"),
                    );
                    return Ok(api);
                }
                match read {
                    Ok(None) => {}
                    Ok(Some((name, _))) if api.operations.contains_key(&name) => {
                        api.refuse(
                            shown,
                            format!("another operation has the same name {name:?}"),
                        );
                    }
                    Ok(Some((name, operation))) => {
                        api.operations.insert(name, operation);
                    }
                    Err(Unfit(reason)) => api.refuse(shown, reason),
                }
            }
        }
        Ok(api)
    }

    fn refuse(&mut self, operation: String, reason: String) {
        self.refused.push(Refused { operation, reason });
    }

    /// Returns the tools in the order of their names.
    pub fn operations(&self) -> impl Iterator<Item = (&str, &Operation)> {
        self.operations.iter().map(|(name, op)| (name.as_str(), op))
    }

    /// Returns a tool by its name.
    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.get(name)
    }
}

/// One operation being read.
struct Reading<'d> {
    document: &'d Document,
    options: &'d Options,
    path: &'d str,
    method: &'static str,
    promise: Promise,
    item: &'d Value,
    operation: &'d Value,
}

impl<'d> Reading<'d> {
    /// Returns name and operation, or `None` where the operator does not want it.
    fn read(&self) -> Result<Option<(String, Operation)>, Unfit> {
        let name = self.name();
        if !self.wanted(&name) {
            return Ok(None);
        }
        let mut sent = Converter::new(self.document, Way::Sent);
        let mut properties = Map::new();
        let mut required = Vec::new();
        let parameters = self.parameters(&mut sent, &mut properties, &mut required)?;
        let body = self.body(&mut sent, &mut properties, &mut required)?;
        let mut input = json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        let definitions = sent.definitions()?;
        if !definitions.is_empty() {
            input["$defs"] = definitions.into();
        }
        let title = self.text("summary").unwrap_or(&name);
        let mut definition = json!({
            "name": name,
            "title": title.chars().take(200).collect::<String>(),
            "description": self.description(),
            "inputSchema": input,
            "annotations": self.promise.annotations(title),
        });
        bounded(&definition)?;
        let mut wrapped = None;
        // The answer's schema is a help, and not worth losing the tool for.
        if self.options.output_schemas
            && let Ok(Some((schema, wrap))) = self.output()
            && bounded(&schema).is_ok()
        {
            definition["outputSchema"] = schema;
            wrapped = Some(wrap);
        }
        let operation = Operation {
            definition,
            method: self.method,
            path: parts(self.path, &parameters)?,
            parameters,
            body,
            wrapped,
        };
        Ok(Some((name, operation)))
    }

    fn text(&self, member: &str) -> Option<&'d str> {
        let own = self.operation.get(member).and_then(Value::as_str);
        own.or_else(|| self.item.get(member).and_then(Value::as_str))
            .filter(|text| !text.trim().is_empty())
    }

    fn name(&self) -> String {
        let said = self.operation.get("operationId").and_then(Value::as_str);
        let name: String = match said.filter(|id| !id.is_empty()) {
            Some(id) => id.to_owned(),
            None => format!(
                "{}_{}",
                self.method.to_lowercase(),
                self.path.trim_matches('/')
            ),
        };
        let mut plain = String::new();
        for c in name.chars() {
            let c = if c.is_ascii_alphanumeric() || "_-.".contains(c) {
                c
            } else {
                '_'
            };
            if c != '_' || !plain.ends_with('_') {
                plain.push(c);
            }
        }
        let plain = plain.trim_matches('_');
        let plain = if plain.is_empty() { "root" } else { plain };
        if plain.len() <= self.options.name_bytes_max {
            return plain.to_owned();
        }
        let kept = self.options.name_bytes_max.saturating_sub(9);
        format!("{}_{:08x}", &plain[..kept.min(plain.len())], fnv(&name))
    }

    fn wanted(&self, name: &str) -> bool {
        let wanted = &self.options.operations;
        wanted.is_empty()
            || wanted
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => name == pattern,
                })
    }

    fn description(&self) -> String {
        let mut text = String::new();
        if self.operation.get("deprecated") == Some(&Value::Bool(true)) {
            text.push_str("Deprecated. ");
        }
        for part in [self.text("summary"), self.text("description")] {
            if let Some(part) = part.map(str::trim).filter(|part| !text.contains(part)) {
                text.push_str(part);
                text.push_str("\n\n");
            }
        }
        let mut text: String = text.chars().take(DESCRIPTION_CHARS_MAX).collect();
        text.push_str(&format!("({} {})", self.method, self.path));
        text
    }

    fn parameters(
        &self,
        sent: &mut Converter<'d>,
        properties: &mut Map<String, Value>,
        required: &mut Vec<String>,
    ) -> Result<Vec<Parameter>, Unfit> {
        // The operation's own parameters replace those of its path that have the same name and place.
        let mut found: BTreeMap<(Place, &str), &'d Value> = BTreeMap::new();
        for from in [self.item, self.operation] {
            let list = from
                .get("parameters")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for parameter in list {
                let parameter = follow(&self.document.root, parameter)?;
                let name = parameter.get("name").and_then(Value::as_str);
                let name = name.ok_or_else(|| Unfit("a parameter has no name".into()))?;
                let place = parameter.get("in").and_then(Value::as_str);
                let place = place.and_then(Place::parse).ok_or_else(|| {
                    Unfit(format!("the parameter {name:?} is in no place that exists"))
                })?;
                if !place.is_ours(name) {
                    found.insert((place, name), parameter);
                }
            }
        }
        if found.len() > PARAMETERS_MAX {
            return Err(Unfit(format!(
                "it has more than {PARAMETERS_MAX} parameters"
            )));
        }
        let mut parameters = Vec::with_capacity(found.len());
        for ((place, name), written) in found {
            let mut parameter = Parameter::read(place, name, written)?;
            let plain = plain_name(name);
            let taken = |name: &str| name == BODY || properties.contains_key(name);
            parameter.argument = [plain.clone(), format!("{}_{plain}", place.as_str())]
                .into_iter()
                .find(|name| !taken(name))
                .ok_or_else(|| Unfit(format!("two parameters cannot be told from {name:?}")))?;
            let mut schema = match Parameter::schema(written) {
                Some(schema) => sent.convert(schema)?,
                None => json!({}),
            };
            if let (Value::Object(schema), Some(text @ Value::String(_))) =
                (&mut schema, written.get("description"))
            {
                schema.entry("description").or_insert_with(|| text.clone());
            }
            if parameter.required {
                required.push(parameter.argument.clone());
            }
            properties.insert(parameter.argument.clone(), schema);
            parameters.push(parameter);
        }
        Ok(parameters)
    }

    fn body(
        &self,
        sent: &mut Converter<'d>,
        properties: &mut Map<String, Value>,
        required: &mut Vec<String>,
    ) -> Result<Option<BodyForm>, Unfit> {
        let Some(body) = self.operation.get("requestBody") else {
            return Ok(None);
        };
        let body = follow(&self.document.root, body)?;
        let content = body.get("content").and_then(Value::as_object);
        let content = content.ok_or_else(|| Unfit("its body has no content".into()))?;
        let is_required = body.get("required") == Some(&Value::Bool(true));
        let best = content
            .iter()
            .filter_map(|(media, described)| Some((BodyForm::of(media)?, described)))
            .min_by(|(one, _), (other, _)| one.rank().cmp(&other.rank()));
        let Some((mut form, described)) = best else {
            let media: Vec<&str> = content.keys().map(String::as_str).take(5).collect();
            if !is_required {
                return Ok(None);
            }
            return Err(Unfit(format!(
                "its body is none that can be sent: {}",
                media.join(", ")
            )));
        };
        let mut schema = match described.get("schema") {
            Some(schema) => sent.convert(schema)?,
            None => json!({}),
        };
        if let (Value::Object(schema), Some(text @ Value::String(_))) =
            (&mut schema, body.get("description"))
        {
            schema.entry("description").or_insert_with(|| text.clone());
        }
        if is_required {
            required.push(BODY.to_owned());
        }
        properties.insert(BODY.to_owned(), schema);
        form.required = is_required;
        Ok(Some(form))
    }

    /// Returns the schema of what a success answers, and whether the answer must be wrapped to be an object; nothing
    /// where successes differ or bring something else than JSON.
    fn output(&self) -> Result<Option<(Value, bool)>, Unfit> {
        if self.method == "HEAD" {
            return Ok(None);
        }
        let responses = self.operation.get("responses").and_then(Value::as_object);
        let mut successes = responses
            .into_iter()
            .flatten()
            .filter(|(status, _)| status.starts_with('2'));
        let (Some((_, response)), None) = (successes.next(), successes.next()) else {
            return Ok(None);
        };
        let response = follow(&self.document.root, response)?;
        let content = response.get("content").and_then(Value::as_object);
        let json = content.and_then(|content| {
            let mut media = content.iter();
            match (media.next(), media.next()) {
                (Some((media, described)), None) if is_json(media) => Some(described),
                _ => None,
            }
        });
        let Some(schema) = json.and_then(|described| described.get("schema")) else {
            return Ok(None);
        };
        let mut received = Converter::new(self.document, Way::Received);
        let converted = received.convert(schema)?;
        let is_object = follow(&self.document.root, schema)?.get("type") == Some(&json!("object"));
        let mut output = match (is_object, converted) {
            (true, Value::Object(mut schema)) => {
                schema.insert("type".into(), "object".into());
                Value::Object(schema)
            }
            (_, schema) => {
                json!({"type": "object", "properties": {"value": schema}, "required": ["value"]})
            }
        };
        let definitions = received.definitions()?;
        if !definitions.is_empty() {
            output["$defs"] = definitions.into();
        }
        Ok(Some((output, !is_object)))
    }
}

/// Tells whether a media type is JSON (RFC 6839).
pub(crate) fn is_json(media: &str) -> bool {
    let essence = media
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json") || essence == "text/json"
}

fn bounded(value: &Value) -> Result<(), Unfit> {
    let bytes = value.to_string().len();
    if bytes > DEFINITION_BYTES_MAX {
        return Err(Unfit(format!(
            "its definition has {bytes} bytes, more than {DEFINITION_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// FNV-1a: tells cut names apart.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

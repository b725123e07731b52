//! Writes the selected part of a JSON value as GraphQL data.
//!
//! A value that is missing or of the wrong type where the schema promises one makes the nearest field that
//! may be null null, and says so once.

use serde_json::Value;

use super::error::{Error, INVALID_RESULT, PathSegment};
use super::limits::ERRORS_MAX;
use super::select::{Selected, What};
use super::types::{Field, Kind, Source, TypeRef};

/// The data written so far, and what went wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Projector {
    pub(super) out: Vec<u8>,
    pub(super) errors: Vec<Error>,
    pub(super) path: Vec<PathSegment>,
    pos: Option<async_graphql::Pos>,
}

/// The value cannot be given and may not be null: its parent is null instead.
struct Broken;

impl Projector {
    /// Writes a root field's value, an object that may be null.
    pub(super) fn root(&mut self, key: &str, selected: &Selected, value: &Value) {
        self.path = vec![PathSegment::Key(key.to_owned())];
        let start = self.out.len();
        let written = match value {
            Value::Null => Err(Broken),
            value => self.object(selected, value),
        };
        if written.is_err() {
            self.out.truncate(start);
            self.out.extend_from_slice(b"null");
        }
        self.path.clear();
    }

    fn object(&mut self, selected: &Selected, value: &Value) -> Result<(), Broken> {
        if !value.is_object()
            && !selected
                .object
                .fields
                .iter()
                .any(|f| f.source == Source::Whole)
        {
            return Err(self.misfit(&selected.object.name));
        }
        self.out.push(b'{');
        for (i, field) in selected.fields.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.json(&field.key);
            self.out.push(b':');
            match &field.what {
                What::TypeName => self.json(&selected.object.name),
                What::Field(at, below) => {
                    self.pos = Some(field.pos);
                    self.path.push(PathSegment::Key(field.key.clone()));
                    let written = self.field(&selected.object.fields[*at], below.as_ref(), value);
                    self.path.pop();
                    written?;
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        below: Option<&Selected>,
        parent: &Value,
    ) -> Result<(), Broken> {
        match &field.source {
            Source::Member(name) => {
                self.value(&field.ty, below, parent.get(name).unwrap_or(&Value::Null))
            }
            Source::MemberOr(name, default) => {
                self.value(&field.ty, below, parent.get(name).unwrap_or(default))
            }
            Source::Whole => self.value(&field.ty, below, parent),
            Source::Text => self.value(&field.ty, below, &Value::String(text(parent))),
        }
    }

    fn value(
        &mut self,
        ty: &TypeRef,
        below: Option<&Selected>,
        value: &Value,
    ) -> Result<(), Broken> {
        let start = self.out.len();
        let written = match value {
            Value::Null if ty.nullable => {
                self.out.extend_from_slice(b"null");
                return Ok(());
            }
            // JSON's null is a value of `JSON`, and there it breaks nothing.
            Value::Null if !matches!(ty.kind, Kind::Json) => Err(self.misfit(kind_name(&ty.kind))),
            value => self.present(&ty.kind, below, value),
        };
        match written {
            Err(Broken) if ty.nullable => {
                self.out.truncate(start);
                self.out.extend_from_slice(b"null");
                Ok(())
            }
            other => other,
        }
    }

    fn present(
        &mut self,
        kind: &Kind,
        below: Option<&Selected>,
        value: &Value,
    ) -> Result<(), Broken> {
        let fits = match (kind, value) {
            (Kind::List(item), Value::Array(values)) => return self.list(item, below, values),
            (Kind::Object(_), value) => {
                return below.map_or(Err(Broken), |below| self.object(below, value));
            }
            (Kind::Json, _)
            | (Kind::String, Value::String(_))
            | (Kind::Boolean, Value::Bool(_)) => true,
            (Kind::Int, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Kind::Long, Value::Number(n)) => n.is_i64() || n.is_u64(),
            (Kind::Float, Value::Number(_)) => true,
            (Kind::Enum(found), Value::String(name)) => found.values.contains(name),
            _ => false,
        };
        if fits {
            self.json(value);
            Ok(())
        } else {
            Err(self.misfit(kind_name(kind)))
        }
    }

    fn list(
        &mut self,
        item: &TypeRef,
        below: Option<&Selected>,
        values: &[Value],
    ) -> Result<(), Broken> {
        self.out.push(b'[');
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.path.push(PathSegment::Index(i));
            let written = self.value(item, below, value);
            self.path.pop();
            written?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn misfit(&mut self, expected: &str) -> Broken {
        if self.errors.len() < ERRORS_MAX {
            let text = format!("The tool's result has no {expected} here, against its own schema.");
            let error = Error::new(INVALID_RESULT, text).of_field(self.path.clone());
            self.errors.push(match self.pos {
                Some(pos) => error.at(pos),
                None => error,
            });
        }
        Broken
    }

    pub(super) fn json(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.out, value)
            .expect("JSON values always serialise to memory");
    }
}

fn kind_name(kind: &Kind) -> &str {
    match kind {
        Kind::Json => "JSON",
        Kind::String => "String",
        Kind::Boolean => "Boolean",
        Kind::Int => "Int",
        Kind::Long => "Long",
        Kind::Float => "Float",
        Kind::Enum(found) => &found.name,
        Kind::List(_) => "list",
        Kind::Object(object) => &object.name,
    }
}

/// The texts of a result's content.
fn text(result: &Value) -> String {
    let pieces = result.get("content").and_then(Value::as_array);
    let mut out = String::new();
    for piece in pieces.into_iter().flatten() {
        if piece.get("type").is_some_and(|kind| kind == "text")
            && let Some(text) = piece.get("text").and_then(Value::as_str)
        {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(text);
        }
    }
    out
}

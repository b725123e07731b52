//! Writes the selected part of a JSON value as GraphQL data.
//!
//! Only what is on the way to a selected field is read; values are copied as the bytes that came, so numbers
//! and the order of members stay.
//!
//! A value that is missing or of the wrong type where the schema promises one makes the nearest field that
//! may be null null, and says so once.

use std::borrow::Cow;

use mcp::members::Members;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{Error, INVALID_RESULT, PathSegment};
use super::limits::ERRORS_MAX;
use super::select::{Selected, What};
use super::types::{Field, Kind, Source, TypeRef};

/// The data written so far, and what went wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Projector {
    pub(super) out: Vec<u8>,
    pub(super) errors: Vec<Error>,
    path: Vec<PathSegment>,
    pos: Option<async_graphql::Pos>,
}

/// The value cannot be given and may not be null: its parent is null instead.
struct Broken;

impl Projector {
    /// Writes a root field's value, an object that may be null.
    pub(super) fn root(&mut self, key: &str, selected: &Selected, value: &RawValue) {
        self.path = vec![PathSegment::Key(key.to_owned())];
        let start = self.out.len();
        if is_null(value) || self.object(selected, value).is_err() {
            self.out.truncate(start);
            self.out.extend_from_slice(b"null");
        }
        self.path.clear();
    }

    fn object(&mut self, selected: &Selected, value: &RawValue) -> Result<(), Broken> {
        let Ok(members) = Members::parse(value) else {
            return Err(self.misfit(&selected.object.name));
        };
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
                    let field = &selected.object.fields[*at];
                    let written = self.field(field, below.as_ref(), value, &members);
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
        parent: &RawValue,
        members: &Members<'_>,
    ) -> Result<(), Broken> {
        match &field.source {
            Source::Member(name) => self.value(
                &field.ty,
                below,
                members.get(name).unwrap_or(RawValue::NULL),
            ),
            Source::MemberOr(name, default) => match members.get(name) {
                Some(value) => self.value(&field.ty, below, value),
                None => {
                    self.out.extend_from_slice(default.as_bytes());
                    Ok(())
                }
            },
            Source::Whole => self.value(&field.ty, below, parent),
            Source::Text => {
                self.json(&text(members));
                Ok(())
            }
        }
    }

    fn value(
        &mut self,
        ty: &TypeRef,
        below: Option<&Selected>,
        value: &RawValue,
    ) -> Result<(), Broken> {
        let start = self.out.len();
        // JSON's null is a value of `JSON`, and there it breaks nothing.
        if is_null(value) && (ty.nullable || matches!(ty.kind, Kind::Json)) {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        match self.present(&ty.kind, below, value) {
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
        value: &RawValue,
    ) -> Result<(), Broken> {
        let json = value.get();
        let fits = match kind {
            Kind::List(item) => return self.list(item, below, value),
            Kind::Object(_) => return below.map_or(Err(Broken), |below| self.object(below, value)),
            Kind::Json => true,
            Kind::String => json.starts_with('"'),
            Kind::Boolean => matches!(json, "true" | "false"),
            Kind::Int => json.parse::<i32>().is_ok(),
            Kind::Long => json.parse::<i64>().is_ok() || json.parse::<u64>().is_ok(),
            Kind::Float => json.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
            Kind::Enum(found) => {
                serde_json::from_str(json).is_ok_and(|name: String| found.values.contains(&name))
            }
        };
        if fits {
            self.out.extend_from_slice(json.as_bytes());
            Ok(())
        } else {
            Err(self.misfit(kind.name()))
        }
    }

    fn list(
        &mut self,
        item: &TypeRef,
        below: Option<&Selected>,
        value: &RawValue,
    ) -> Result<(), Broken> {
        let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
            return Err(self.misfit("list"));
        };
        self.out.push(b'[');
        for (i, value) in values.into_iter().enumerate() {
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

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The texts of a result's content.
fn text(result: &Members<'_>) -> String {
    #[derive(Deserialize)]
    struct Piece<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        text: Option<Cow<'a, str>>,
    }
    let pieces: Vec<&RawValue> = result
        .get("content")
        .and_then(|content| serde_json::from_str(content.get()).ok())
        .unwrap_or_default();
    let mut texts = pieces
        .into_iter()
        .filter_map(|piece| serde_json::from_str::<Piece<'_>>(piece.get()).ok())
        .filter(|piece| piece.kind == "text")
        .filter_map(|piece| piece.text);
    let mut out = texts.next().map(Cow::into_owned).unwrap_or_default();
    for text in texts {
        out.push('\n');
        out.push_str(&text);
    }
    out
}

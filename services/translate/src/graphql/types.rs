//! The types of one schema, as planning and projection use them.
//!
//! One form serves for input and output: a field has a GraphQL name and says where its value is found in,
//! or goes to, the JSON of MCP.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// A type as it is used at one place.
#[derive(Debug, Clone)]
pub(super) struct TypeRef {
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Json,
    String,
    Boolean,
    /// 32 bits, as GraphQL has it.
    Int,
    /// 64 bits.
    Long,
    Float,
    Enum(Arc<EnumType>),
    List(Box<TypeRef>),
    Object(Arc<ObjectType>),
}

impl Kind {
    pub(super) fn nullable(self) -> TypeRef {
        TypeRef {
            kind: self,
            nullable: true,
        }
    }

    pub(super) fn required(self) -> TypeRef {
        TypeRef {
            kind: self,
            nullable: false,
        }
    }

    /// What a misfit is told to be.
    pub(super) fn name(&self) -> &str {
        match self {
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

    pub(super) fn list(self) -> Kind {
        Kind::List(Box::new(self.required()))
    }

    /// The object at the bottom of lists, if any: what a selection set selects from.
    pub(super) fn object(&self) -> Option<&Arc<ObjectType>> {
        match self {
            Kind::Object(object) => Some(object),
            Kind::List(item) => item.kind.object(),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct EnumType {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) values: Vec<String>,
}

/// An object, input or output.
#[derive(Debug)]
pub(super) struct ObjectType {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) fields: Vec<Field>,
    by_name: HashMap<String, usize>,
}

impl ObjectType {
    pub(super) fn new(name: String, description: Option<String>, fields: Vec<Field>) -> ObjectType {
        let by_name = fields
            .iter()
            .enumerate()
            .map(|(i, field)| (field.name.clone(), i))
            .collect();
        ObjectType {
            name,
            description,
            fields,
            by_name,
        }
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// A field of an object, or an argument.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) source: Source,
    pub(super) ty: TypeRef,
    /// Whether MCP's side takes `null` for the value; where it does not, null means absent.
    pub(super) admits_null: bool,
    /// An argument's default.
    pub(super) default: Option<Value>,
    pub(super) arguments: Vec<Field>,
}

/// Where a field's value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The member of that name.
    Member(String),
    /// The member of that name, or else this JSON.
    MemberOr(&'static str, &'static str),
    /// The whole value.
    Whole,
    /// The texts of a result's content, one line after another.
    Text,
}

impl Field {
    /// A field whose value is the member of the same name.
    pub(super) fn new(name: &str, ty: TypeRef, description: &str) -> Field {
        Field {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            source: Source::Member(name.to_owned()),
            admits_null: ty.nullable,
            ty,
            default: None,
            arguments: Vec::new(),
        }
    }

    pub(super) fn from(mut self, source: Source) -> Field {
        self.source = source;
        self
    }

    pub(super) fn takes(mut self, arguments: Vec<Field>) -> Field {
        self.arguments = arguments;
        self
    }
}

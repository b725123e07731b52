//! The model as an `async-graphql` schema, which validates, answers introspection and prints SDL.
//!
//! Its resolvers answer nothing and are never run: execution is `plan` and `project`.

use std::collections::HashSet;

use async_graphql::dynamic::{
    self, Enum, FieldFuture, InputObject, InputValue, Object, Scalar, Schema, SchemaBuilder,
    SchemaError,
};
use async_graphql::{Name, Value as Const};

use super::coerce;
use super::limits::Limits;
use super::model::{Model, Root};
use super::types::{Field, Kind, ObjectType, TypeRef};

/// The parser goes no deeper than this itself; `measure` refuses more before.
const RECURSION_MAX: usize = 64;

pub(super) fn schema(model: &Model, limits: &Limits) -> Result<Schema, SchemaError> {
    let long = Scalar::new("Long")
        .description("An integer of up to 64 bits.")
        .validator(|value| matches!(value, Const::Number(n) if n.is_i64() || n.is_u64()));
    let json = Scalar::new("JSON").description("Any JSON value.");
    let mut builder = Schema::build("Query", Some("Mutation"), None)
        .limit_recursive_depth(RECURSION_MAX)
        // A suggestion costs a comparison with every name, for every unknown field of a document.
        .disable_suggestions()
        .register(long)
        .register(json);
    if !limits.introspection {
        builder = builder.disable_introspection();
    }
    let mut lowering = Lowering {
        builder,
        done: HashSet::new(),
    };
    for Root { object, .. } in [&model.query, &model.mutation] {
        lowering = lowering.output(object);
    }
    lowering.builder.finish()
}

struct Lowering {
    builder: SchemaBuilder,
    done: HashSet<String>,
}

impl Lowering {
    fn output(mut self, object: &ObjectType) -> Lowering {
        if !self.done.insert(object.name.clone()) {
            return self;
        }
        let mut out = Object::new(&object.name);
        if let Some(text) = &object.description {
            out = out.description(text);
        }
        for field in &object.fields {
            let mut lowered = dynamic::Field::new(&field.name, type_ref(&field.ty), |_| {
                FieldFuture::from_value(None)
            });
            if let Some(text) = &field.description {
                lowered = lowered.description(text);
            }
            for argument in &field.arguments {
                lowered = lowered.argument(input_value(argument));
                self = self.input_types(&argument.ty.kind);
            }
            out = out.field(lowered);
            self = self.output_types(&field.ty.kind);
        }
        self.builder = self.builder.register(out);
        self
    }

    fn input(mut self, object: &ObjectType) -> Lowering {
        if !self.done.insert(object.name.clone()) {
            return self;
        }
        let mut input = InputObject::new(&object.name);
        if let Some(text) = &object.description {
            input = input.description(text);
        }
        for field in &object.fields {
            input = input.field(input_value(field));
            self = self.input_types(&field.ty.kind);
        }
        self.builder = self.builder.register(input);
        self
    }

    fn output_types(self, kind: &Kind) -> Lowering {
        match kind {
            Kind::Object(object) => self.output(object),
            Kind::List(item) => self.output_types(&item.kind),
            other => self.enumeration(other),
        }
    }

    fn input_types(self, kind: &Kind) -> Lowering {
        match kind {
            Kind::Object(object) => self.input(object),
            Kind::List(item) => self.input_types(&item.kind),
            other => self.enumeration(other),
        }
    }

    fn enumeration(mut self, kind: &Kind) -> Lowering {
        if let Kind::Enum(found) = kind
            && self.done.insert(found.name.clone())
        {
            let mut out = Enum::new(&found.name).items(found.values.iter().cloned());
            if let Some(text) = &found.description {
                out = out.description(text);
            }
            self.builder = self.builder.register(out);
        }
        self
    }
}

fn input_value(field: &Field) -> InputValue {
    let mut out = InputValue::new(&field.name, type_ref(&field.ty));
    if let Some(text) = &field.description {
        out = out.description(text);
    }
    match field
        .default
        .as_ref()
        .and_then(|value| literal(&field.ty, value))
    {
        Some(default) => out.default_value(default),
        None => out,
    }
}

/// A default as a GraphQL value of the type; `None` when the schema's default does not fit its own type.
fn literal(ty: &TypeRef, value: &serde_json::Value) -> Option<Const> {
    let out = coerce::to_graphql(ty, value)?;
    coerce::value(ty, out.clone()).ok().map(|_| out)
}

pub(super) fn type_ref(ty: &TypeRef) -> dynamic::TypeRef {
    let inner = match &ty.kind {
        Kind::List(item) => dynamic::TypeRef::List(Box::new(type_ref(item))),
        Kind::Enum(found) => dynamic::TypeRef::named(found.name.clone()),
        Kind::Object(object) => dynamic::TypeRef::named(object.name.clone()),
        Kind::Json => dynamic::TypeRef::named("JSON"),
        Kind::String => dynamic::TypeRef::named("String"),
        Kind::Boolean => dynamic::TypeRef::named("Boolean"),
        Kind::Int => dynamic::TypeRef::named("Int"),
        Kind::Long => dynamic::TypeRef::named("Long"),
        Kind::Float => dynamic::TypeRef::named("Float"),
    };
    if ty.nullable {
        inner
    } else {
        dynamic::TypeRef::NonNull(Box::new(inner))
    }
}

/// A GraphQL name known to be legal.
pub(super) fn name(text: &str) -> Name {
    Name::new(text)
}

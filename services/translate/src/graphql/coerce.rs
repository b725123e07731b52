//! GraphQL input values to MCP arguments, and a schema's defaults the other way.

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::OperationDefinition;
use async_graphql::parser::{Pos, Positioned};
use async_graphql::{Name, Value as Const, Variables};
use async_graphql_value::Value as Literal;
use serde_json::{Map, Value};

use super::types::{Field, Kind, Source, TypeRef};

/// What does not fit, and where in the document it was given.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) message: String,
    pub(super) pos: Pos,
}

/// The variables of an operation: defaults filled in, those that it does not declare left out.
pub(super) fn variables(
    operation: &OperationDefinition,
    given: &Variables,
) -> Result<Variables, Vec<Misfit>> {
    let mut known = Variables::default();
    let mut misfits = Vec::new();
    for Positioned { node, pos } in &operation.variable_definitions {
        let value = given
            .get(&node.name.node)
            .or(node.default_value.as_ref().map(|default| &default.node));
        let nullable = node.var_type.node.nullable;
        match value {
            None | Some(Const::Null) if !nullable => misfits.push(Misfit {
                message: format!(
                    "Variable \"${}\" of type \"{}\" needs a value.",
                    node.name.node, node.var_type.node
                ),
                pos: *pos,
            }),
            Some(value) => {
                known.insert(node.name.node.clone(), value.clone());
            }
            None => {}
        }
    }
    if misfits.is_empty() {
        Ok(known)
    } else {
        Err(misfits)
    }
}

/// The arguments of a field as the members of an MCP object.
pub(super) fn arguments(
    fields: &[Field],
    given: &[(Positioned<Name>, Positioned<Literal>)],
    variables: &Variables,
    at: Pos,
) -> Result<Map<String, Value>, Misfit> {
    let mut values = IndexMap::with_capacity(given.len());
    for (name, literal) in given {
        if let Some(value) = resolve(&literal.node, variables) {
            values.insert(name.node.clone(), value);
        }
    }
    members(fields, values).map_err(|message| Misfit { message, pos: at })
}

/// A literal with its variables put in; `None` when it is a variable without a value.
fn resolve(literal: &Literal, variables: &Variables) -> Option<Const> {
    Some(match literal {
        Literal::Variable(name) => return variables.get(name).cloned(),
        Literal::Null => Const::Null,
        Literal::Number(n) => Const::Number(n.clone()),
        Literal::String(s) => Const::String(s.clone()),
        Literal::Boolean(b) => Const::Boolean(*b),
        Literal::Binary(b) => Const::Binary(b.clone()),
        Literal::Enum(name) => Const::Enum(name.clone()),
        Literal::List(items) => Const::List(
            items
                .iter()
                .map(|item| resolve(item, variables).unwrap_or(Const::Null))
                .collect(),
        ),
        Literal::Object(members) => Const::Object(
            members
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), resolve(value, variables)?)))
                .collect(),
        ),
    })
}

/// The members of an input object, under the names that MCP knows.
fn members(
    fields: &[Field],
    mut given: IndexMap<Name, Const>,
) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for field in fields {
        let Source::Member(member) = &field.source else {
            continue;
        };
        let found = given.shift_remove(field.name.as_str());
        let found = match (found, &field.default) {
            (Some(Const::Null), _) if field.ty.nullable && !field.admits_null => continue,
            (Some(value), _) => value,
            (None, Some(default)) => match to_graphql(&field.ty, default) {
                Some(value) => value,
                None => continue,
            },
            (None, None) if field.ty.nullable => continue,
            (None, None) => return Err(format!("\"{}\" needs a value.", field.name)),
        };
        let value =
            value(&field.ty, found).map_err(|message| format!("\"{}\": {message}", field.name))?;
        out.insert(member.clone(), value);
    }
    match given.keys().next() {
        Some(unknown) => Err(format!("\"{unknown}\" is not known here.")),
        None => Ok(out),
    }
}

/// One value as JSON for MCP.
pub(super) fn value(ty: &TypeRef, given: Const) -> Result<Value, String> {
    if given == Const::Null {
        return if ty.nullable {
            Ok(Value::Null)
        } else {
            Err("must not be null.".to_owned())
        };
    }
    match (&ty.kind, given) {
        (Kind::Json, given) => Ok(plain(given)),
        (Kind::String, Const::String(text)) => Ok(Value::String(text)),
        (Kind::Boolean, Const::Boolean(is)) => Ok(Value::Bool(is)),
        (Kind::Int, Const::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
            Ok(Value::Number(n))
        }
        (Kind::Long, Const::Number(n)) if n.is_i64() || n.is_u64() => Ok(Value::Number(n)),
        (Kind::Float, Const::Number(n)) => Ok(Value::Number(n)),
        (Kind::Enum(found), Const::Enum(name)) if found.values.iter().any(|v| *v == *name) => {
            Ok(Value::String(name.to_string()))
        }
        // A variable's enum value comes as a JSON string.
        (Kind::Enum(found), Const::String(name)) if found.values.contains(&name) => {
            Ok(Value::String(name))
        }
        (Kind::List(item), Const::List(items)) => items
            .into_iter()
            .map(|given| value(item, given))
            .collect::<Result<Vec<Value>, String>>()
            .map(Value::Array),
        (Kind::List(item), one) => Ok(Value::Array(vec![value(item, one)?])),
        (Kind::Object(object), Const::Object(given)) => {
            members(&object.fields, given).map(Value::Object)
        }
        (kind, _) => Err(format!("expected {}.", kind.name())),
    }
}

/// A value as JSON, with no type to go by.
fn plain(given: Const) -> Value {
    match given {
        Const::Null | Const::Binary(_) => Value::Null,
        Const::Number(n) => Value::Number(n),
        Const::String(text) => Value::String(text),
        Const::Boolean(is) => Value::Bool(is),
        Const::Enum(name) => Value::String(name.to_string()),
        Const::List(items) => Value::Array(items.into_iter().map(plain).collect()),
        Const::Object(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name.to_string(), plain(value)))
                .collect(),
        ),
    }
}

/// A JSON value as a GraphQL value of the type: the inverse of [`value`]. `None` where it has no such form.
pub(super) fn to_graphql(ty: &TypeRef, json: &Value) -> Option<Const> {
    Some(match (&ty.kind, json) {
        (_, Value::Null) => Const::Null,
        (Kind::Enum(_), Value::String(name)) => Const::Enum(super::lower::name(name)),
        (Kind::List(item), Value::Array(items)) => Const::List(
            items
                .iter()
                .map(|json| to_graphql(item, json))
                .collect::<Option<Vec<Const>>>()?,
        ),
        (Kind::Object(object), Value::Object(members)) => {
            let mut out = IndexMap::new();
            for (member, json) in members {
                let field = object
                    .fields
                    .iter()
                    .find(|field| field.source == Source::Member(member.clone()))?;
                out.insert(
                    super::lower::name(&field.name),
                    to_graphql(&field.ty, json)?,
                );
            }
            Const::Object(out)
        }
        // JSON's own objects may have members that are no GraphQL names; they cannot be literals.
        (Kind::Json, Value::Object(_) | Value::Array(_)) if !is_literal(json) => return None,
        (_, json) => Const::from_json(json.clone()).ok()?,
    })
}

fn is_literal(json: &Value) -> bool {
    match json {
        Value::Object(members) => members
            .iter()
            .all(|(name, value)| super::names::is_legal(name) && is_literal(value)),
        Value::Array(items) => items.iter().all(is_literal),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::model::Model;
    use super::super::{Gateway, Limits, Request};
    use super::*;

    /// A JSON Schema and a value that fits it.
    fn schema_and_value() -> impl Strategy<Value = (Value, Value)> {
        let leaf = prop_oneof![
            "\\PC{0,8}".prop_map(|text| (json!({"type": "string"}), json!(text))),
            any::<bool>().prop_map(|is| (json!({"type": "boolean"}), json!(is))),
            any::<i64>().prop_map(|n| (json!({"type": "integer"}), json!(n))),
            any::<i32>().prop_map(|n| (
                json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}),
                json!(n)
            )),
            (-1e6..1e6).prop_map(|n| (json!({"type": "number"}), json!(n))),
            prop::sample::select(vec!["a", "B_2"])
                .prop_map(|v| (json!({"enum": ["a", "B_2"]}), json!(v))),
            prop::sample::select(vec!["a b", "true"])
                .prop_map(|v| (json!({"enum": ["a b", "true"]}), json!(v))),
            Just((json!({"type": ["string", "null"]}), Value::Null)),
            any::<i64>().prop_map(|n| (json!({}), json!({"any": [n, null, "x"]}))),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|(schema, value)| (
                    json!({"type": "array", "items": schema}),
                    json!([value, value])
                )),
                prop::collection::btree_map("[a-c_\\-.0é]{0,3}", inner, 1..4).prop_map(|members| {
                    let (mut properties, mut values) = (Map::new(), Map::new());
                    for (name, (schema, value)) in members {
                        properties.insert(name.clone(), schema);
                        values.insert(name, value);
                    }
                    (
                        json!({"type": "object", "properties": properties}),
                        Value::Object(values),
                    )
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_is_written_in_a_document_is_what_the_tool_gets((schema, value) in schema_and_value(), name in "[a-c_\\-.0é]{1,4}") {
            let raw = json!({"name": "t", "inputSchema": {"type": "object", "properties": {&name: schema}, "required": [&name]}});
            let tools = [mcp::Tool::parse(&serde_json::value::to_raw_value(&raw).unwrap()).unwrap()];
            let model = Model::new(&tools);
            let field = &model.mutation.object.fields[1];
            let argument = &field.arguments[0];
            let literal = to_graphql(&argument.ty, &value).unwrap();
            let gateway = Gateway::build(&tools, &Limits::default()).unwrap();
            let query = format!("mutation {{ t({}: {literal}) {{ text }} }}", argument.name);
            let plan = gateway.plan(&Request { query: query.clone(), ..Request::default() });
            let plan = plan.unwrap_or_else(|refused| panic!("{query}: {:?}", refused.errors));
            let got: Value = serde_json::from_str(plan.calls()[0].arguments.get()).unwrap();
            let mut expected = Map::new();
            expected.insert(name, value);
            prop_assert_eq!(got, Value::Object(expected), "{}", query);
        }
    }
}

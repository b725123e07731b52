//! What of a type was selected: fragments expanded, `@skip` and `@include` decided, fields that come twice
//! made one, in the order in which they first appear (`CollectFields` of the GraphQL specification).

use std::sync::Arc;

use async_graphql::Variables;
use async_graphql::parser::types::{Directive, ExecutableDocument, Field, Selection, SelectionSet};
use async_graphql::parser::{Pos, Positioned};
use async_graphql_value::{ConstValue, Value as Literal};

use super::types::ObjectType;

/// A document with the variables of one request.
pub(super) struct Context<'a> {
    pub(super) document: &'a ExecutableDocument,
    pub(super) variables: &'a Variables,
}

/// Fields with the same response key: one field of the answer.
pub(super) struct Merged<'a> {
    pub(super) key: &'a str,
    pub(super) fields: Vec<&'a Positioned<Field>>,
}

/// The selected fields of one object.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    pub(super) object: Arc<ObjectType>,
    pub(super) fields: Vec<SelectedField>,
}

#[derive(Debug, Clone)]
pub(super) struct SelectedField {
    pub(super) key: String,
    pub(super) pos: Pos,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    TypeName,
    /// The field at that place of the object's fields, and what is selected of its value.
    Field(usize, Option<Selected>),
}

impl<'a> Context<'a> {
    /// The fields selected of an object of type `on`, each key once.
    pub(super) fn collect(&self, on: &str, sets: &[&'a SelectionSet]) -> Vec<Merged<'a>> {
        let mut merged = Vec::new();
        let mut spread = Vec::new();
        for set in sets {
            self.collect_into(on, set, &mut merged, &mut spread);
        }
        merged
    }

    fn collect_into(
        &self,
        on: &str,
        set: &'a SelectionSet,
        merged: &mut Vec<Merged<'a>>,
        spread: &mut Vec<&'a str>,
    ) {
        for item in &set.items {
            if !self.is_included(item.node.directives()) {
                continue;
            }
            match &item.node {
                Selection::Field(field) => {
                    let key = field.node.response_key().node.as_str();
                    match merged.iter_mut().find(|m| m.key == key) {
                        Some(found) => found.fields.push(field),
                        None => merged.push(Merged {
                            key,
                            fields: vec![field],
                        }),
                    }
                }
                Selection::InlineFragment(inline) => {
                    let condition = inline.node.type_condition.as_ref();
                    if condition.is_none_or(|condition| condition.node.on.node == on) {
                        self.collect_into(on, &inline.node.selection_set.node, merged, spread);
                    }
                }
                Selection::FragmentSpread(found) => {
                    let name = found.node.fragment_name.node.as_str();
                    if spread.contains(&name) {
                        continue;
                    }
                    spread.push(name);
                    if let Some(fragment) = self.document.fragments.get(name)
                        && fragment.node.type_condition.node.on.node == on
                    {
                        self.collect_into(on, &fragment.node.selection_set.node, merged, spread);
                    }
                }
            }
        }
    }

    fn is_included(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().all(|directive| {
            let given = || match directive.node.get_argument("if").map(|value| &value.node) {
                Some(Literal::Boolean(is)) => *is,
                Some(Literal::Variable(name)) => {
                    self.variables.get(name) == Some(&ConstValue::Boolean(true))
                }
                _ => false,
            };
            match directive.node.name.node.as_str() {
                "skip" => !given(),
                "include" => given(),
                _ => true,
            }
        })
    }

    /// The selection below an object, as a tree that needs the document no more.
    pub(super) fn select(
        &self,
        object: &Arc<ObjectType>,
        fields: &[&'a Positioned<Field>],
    ) -> Selected {
        let sets: Vec<&SelectionSet> = fields.iter().map(|f| &f.node.selection_set.node).collect();
        let selected = self
            .collect(&object.name, &sets)
            .into_iter()
            .filter_map(|Merged { key, fields }| {
                let first = fields.first()?;
                let name = first.node.name.node.as_str();
                let what = if name == "__typename" {
                    What::TypeName
                } else {
                    // Validation has refused fields that are not there.
                    let at = object.position(name)?;
                    let below = object.fields[at].ty.kind.object();
                    What::Field(at, below.map(|below| self.select(below, &fields)))
                };
                Some(SelectedField {
                    key: key.to_owned(),
                    pos: first.pos,
                    what,
                })
            })
            .collect();
        Selected {
            object: Arc::clone(object),
            fields: selected,
        }
    }
}

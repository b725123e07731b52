//! What a document would cost, worked out before anything walks it with its fragments expanded.
//!
//! Fragments that use each other twice double with every level, and fragments that use themselves have no
//! end. So every fragment is measured once, its sums are taken over into whoever spreads it, and cycles are
//! found on the way. All operations of the document are measured, for all of them are validated.

use std::collections::HashMap;

use async_graphql::parser::types::{
    ExecutableDocument, OperationDefinition, Selection, SelectionSet,
};
use async_graphql::parser::{Pos, Positioned};

use super::error::{Error, INTROSPECTION_DISABLED, LIMIT_EXCEEDED, VALIDATION_FAILED};
use super::limits::{CALL_COST, INTROSPECTION_DEPTH, Limits};

/// How often the lists of a type may be asked for within each other: types of fields of types.
const INTROSPECTION_LISTS_MAX: usize = 3;

/// Whether a document asks what the schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Introspection {
    None,
    Asked,
}

/// Refuses a document that costs more than it may.
pub(super) fn measure(
    document: &ExecutableDocument,
    limits: &Limits,
) -> Result<Introspection, Error> {
    let mut measuring = Measuring {
        document,
        fragments: HashMap::new(),
    };
    let mut introspection = Introspection::None;
    for (_, operation) in document.operations.iter() {
        let sum = measuring.set(&operation.node.selection_set.node, Place::Root)?;
        sum.check(operation, limits)?;
        if sum.introspection.is_some() {
            introspection = Introspection::Asked;
        }
    }
    Ok(introspection)
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    depth: usize,
    cost: usize,
    aliases: usize,
    /// Levels below `__schema` or `__type`.
    introspection_depth: usize,
    /// Where introspection is asked for.
    introspection: Option<Pos>,
    /// Lists of types within each other.
    lists: usize,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.depth = self.depth.max(other.depth);
        self.cost = self.cost.saturating_add(other.cost);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
        self.introspection = self.introspection.or(other.introspection);
        self.lists = self.lists.max(other.lists);
    }

    fn check(
        &self,
        operation: &Positioned<OperationDefinition>,
        limits: &Limits,
    ) -> Result<(), Error> {
        if let Some(pos) = self.introspection
            && !limits.introspection
        {
            let text = "Introspection is switched off.";
            return Err(Error::new(INTROSPECTION_DISABLED, text).at(pos));
        }
        let introspection_max = limits.depth_max.max(INTROSPECTION_DEPTH);
        let lists = if self.introspection.is_some() {
            self.lists
        } else {
            0
        };
        for (what, found, max) in [
            ("is deeper than", self.depth, limits.depth_max),
            (
                "introspects deeper than",
                self.introspection_depth,
                introspection_max,
            ),
            (
                "nests lists of introspection more than",
                lists,
                INTROSPECTION_LISTS_MAX,
            ),
            ("costs more than", self.cost, limits.complexity_max),
            ("has more aliases than", self.aliases, limits.aliases_max),
        ] {
            if found > max {
                let text = format!("The operation {what} {max}.");
                return Err(Error::new(LIMIT_EXCEEDED, text).at(operation.pos));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Below,
}

enum Fragment {
    Open,
    Done(Sum),
}

struct Measuring<'a> {
    document: &'a ExecutableDocument,
    fragments: HashMap<&'a str, Fragment>,
}

impl<'a> Measuring<'a> {
    fn set(&mut self, set: &'a SelectionSet, place: Place) -> Result<Sum, Error> {
        let mut sum = Sum::default();
        for item in &set.items {
            sum.add(self.selection(&item.node, place)?);
        }
        Ok(sum)
    }

    fn selection(&mut self, selection: &'a Selection, place: Place) -> Result<Sum, Error> {
        let field = match selection {
            Selection::Field(field) => field,
            Selection::InlineFragment(inline) => {
                return self.set(&inline.node.selection_set.node, place);
            }
            Selection::FragmentSpread(spread) => {
                return self.fragment(spread.node.fragment_name.node.as_str(), spread.pos);
            }
        };
        let name = field.node.name.node.as_str();
        let mut sum = self.set(&field.node.selection_set.node, Place::Below)?;
        sum.depth += 1;
        sum.cost = sum.cost.saturating_add(1);
        sum.aliases += usize::from(field.node.alias.is_some());
        sum.lists += usize::from(matches!(
            name,
            "fields" | "interfaces" | "possibleTypes" | "inputFields"
        ));
        match (place, name) {
            (Place::Root, "__schema" | "__type") => {
                sum.introspection = Some(field.pos);
                sum.introspection_depth = std::mem::take(&mut sum.depth);
            }
            (Place::Root, "__typename" | "tools" | "tool") | (Place::Below, _) => {}
            (Place::Root, _) => sum.cost = sum.cost.saturating_add(CALL_COST),
        }
        Ok(sum)
    }

    fn fragment(&mut self, name: &'a str, spread: Pos) -> Result<Sum, Error> {
        match self.fragments.get(name) {
            Some(Fragment::Done(sum)) => return Ok(*sum),
            Some(Fragment::Open) => {
                let text = format!("Fragment \"{name}\" spreads itself.");
                return Err(Error::new(VALIDATION_FAILED, text).at(spread));
            }
            None => {}
        }
        // An unknown fragment is for validation to report.
        let document = self.document;
        let Some(fragment) = document.fragments.get(name) else {
            return Ok(Sum::default());
        };
        let place = match fragment.node.type_condition.node.on.node.as_str() {
            "Query" | "Mutation" => Place::Root,
            _ => Place::Below,
        };
        self.fragments.insert(name, Fragment::Open);
        let sum = self.set(&fragment.node.selection_set.node, place)?;
        self.fragments.insert(name, Fragment::Done(sum));
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;

    fn check(document: &str, limits: &Limits) -> Result<(), &'static str> {
        measure(&parse_query(document).unwrap(), limits)
            .map(drop)
            .map_err(|error| error.extensions.code)
    }

    #[test]
    fn each_bound_holds() {
        let roomy = Limits::default();
        let depth = Limits {
            depth_max: 2,
            ..roomy.clone()
        };
        let cost = Limits {
            complexity_max: 14,
            ..roomy.clone()
        };
        let aliases = Limits {
            aliases_max: 1,
            ..roomy.clone()
        };
        let closed = Limits {
            introspection: false,
            ..roomy.clone()
        };
        for (document, limits, expected) in [
            ("{ a { b } }", &depth, Ok(())),
            ("{ a { b { c } } }", &depth, Err(LIMIT_EXCEEDED)),
            (
                "{ ...F } fragment F on Query { a { ...G } } fragment G on X { b { c } }",
                &depth,
                Err(LIMIT_EXCEEDED),
            ),
            ("{ a { b } c { d } }", &cost, Ok(())),
            ("{ a { b } c { d e } }", &cost, Err(LIMIT_EXCEEDED)),
            ("{ x: a }", &aliases, Ok(())),
            ("{ x: a y: a }", &aliases, Err(LIMIT_EXCEEDED)),
            (
                "{ ...F ...F } fragment F on Query { x: a }",
                &aliases,
                Err(LIMIT_EXCEEDED),
            ),
            ("{ __schema { types { name } } }", &depth, Ok(())),
            (
                "{ __schema { types { name } } }",
                &closed,
                Err(INTROSPECTION_DISABLED),
            ),
            (
                "{ ... { __type(name: \"A\") { name } } }",
                &closed,
                Err(INTROSPECTION_DISABLED),
            ),
            ("{ __typename }", &closed, Ok(())),
            (
                "{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }",
                &roomy,
                Err(LIMIT_EXCEEDED),
            ),
            (
                "{ ...F } fragment F on Query { ...F }",
                &roomy,
                Err(VALIDATION_FAILED),
            ),
            (
                "{ a ...F } fragment F on X { ...G } fragment G on X { ...F }",
                &roomy,
                Err(VALIDATION_FAILED),
            ),
        ] {
            assert_eq!(check(document, limits), expected, "{document}");
        }
    }

    #[test]
    fn doubling_fragments_are_refused_at_once() {
        let mut document = "{ ...F0 }".to_owned();
        for i in 0..60 {
            let next = i + 1;
            document += &format!(" fragment F{i} on Query {{ ...F{next} ...F{next} }}");
        }
        document += " fragment F60 on Query { a }";
        assert_eq!(check(&document, &Limits::default()), Err(LIMIT_EXCEEDED));
    }
}

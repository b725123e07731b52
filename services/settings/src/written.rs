//! The configuration as written: values with their places, before anything is known about their meaning.
//!
//! Deriving these types with serde would be shorter, but serde stops at the first unknown key or wrong type, and a
//! person who corrects a file wants all of them at once. So the file is read into a tree that keeps places, each key
//! is looked up in the catalogue, and each value is checked by its form. The environment is laid over the same tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::problem::{Origin, quote};

/// Where a value was written; resolved to line and column only when somebody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Byte offset into the file.
    Offset(usize),
    /// Name of the variable.
    Variable(Arc<str>),
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) value: Value,
    pub(crate) spot: Spot,
}

/// A value of any type that the file can hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// Wide enough for every integer of the file format.
    Integer(i128),
    Float(f64),
    Flag(bool),
    /// A date or time: no key takes one.
    Moment(String),
    List(Vec<Found>),
    Table(BTreeMap<String, Found>),
}

impl Value {
    /// The value as JSON, for the reference.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::Text(text) | Value::Moment(text) => text.as_str().into(),
            Value::Integer(integer) => i64::try_from(*integer).map_or(Json::Null, Json::from),
            Value::Float(float) => (*float).into(),
            Value::Flag(flag) => (*flag).into(),
            Value::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Value::Table(items) => items
                .iter()
                .map(|(key, item)| (key.clone(), item.value.to_json()))
                .collect(),
        }
    }
}

impl Found {
    /// Takes over a value of the file.
    pub(crate) fn from_file(value: &toml::Spanned<DeValue<'_>>) -> Self {
        let spot = Spot::Offset(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Value::Text(integer.to_string()), Value::Integer),
            DeValue::Float(float) => float
                .as_str()
                .parse()
                .map_or_else(|_| Value::Text(float.to_string()), Value::Float),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(moment) => Value::Moment(moment.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(Self::from_file).collect()),
            DeValue::Table(table) => Value::Table(from_table(table)),
        };
        Self { value, spot }
    }

    /// Moves the value and everything in it to one place: a variable has no lines.
    pub(crate) fn at(mut self, spot: &Spot) -> Self {
        match &mut self.value {
            Value::List(items) => items
                .iter_mut()
                .for_each(|item| *item = std::mem::take(item).at(spot)),
            Value::Table(items) => items
                .values_mut()
                .for_each(|item| *item = std::mem::take(item).at(spot)),
            _ => {}
        }
        self.spot = spot.clone();
        self
    }

    /// The value in a few words, for a message.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Text(text) => quote(text),
            Value::Integer(integer) => integer.to_string(),
            Value::Float(float) => format!("{float:?}"),
            Value::Flag(flag) => flag.to_string(),
            Value::Moment(moment) => format!("the date or time {moment}"),
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

impl Default for Found {
    fn default() -> Self {
        Self {
            value: Value::Flag(false),
            spot: Spot::Offset(0),
        }
    }
}

fn from_table(table: &DeTable<'_>) -> BTreeMap<String, Found> {
    table
        .iter()
        .map(|(key, value)| (key.get_ref().clone().into_owned(), Found::from_file(value)))
        .collect()
}

/// The text of a file, for turning offsets into lines and columns.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    name: Arc<str>,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(name: &str, text: &'t str) -> Self {
        let starts = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self {
            name: name.into(),
            text,
            line_starts: std::iter::once(0).chain(starts).collect(),
        }
    }

    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    pub(crate) fn whole(&self) -> Origin {
        Origin::File {
            file: Arc::clone(&self.name),
        }
    }

    pub(crate) fn origin(&self, spot: &Spot) -> Origin {
        match spot {
            Spot::Offset(offset) => self.position(*offset),
            Spot::Variable(variable) => Origin::Environment {
                variable: Arc::clone(variable),
            },
        }
    }

    fn position(&self, offset: usize) -> Origin {
        let line = self
            .line_starts
            .partition_point(|start| *start <= offset)
            .max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(1, |before| before.chars().count() + 1);
        Origin::Position {
            file: Arc::clone(&self.name),
            line,
            column,
        }
    }
}

/// Everything that was written: the values by key, and the plugins one by one.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// `edge.http.body_limit` and its like.
    pub(crate) keys: BTreeMap<String, Found>,
    /// The `[[plugin]]` tables in the order of the file.
    pub(crate) plugins: Vec<WrittenPlugin>,
}

/// One `[[plugin]]` table.
#[derive(Debug)]
pub(crate) struct WrittenPlugin {
    /// Where the table begins.
    pub(crate) spot: Spot,
    /// What messages call it: `plugin.github`, or `plugin[2]` as long as it has no name.
    pub(crate) label: String,
    /// `plugin.command` and its like.
    pub(crate) keys: BTreeMap<String, Found>,
}

impl WrittenPlugin {
    /// The name as it was written, if it is a text.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.keys.get("plugin.name")?.value {
            Value::Text(name) => Some(name),
            _ => None,
        }
    }
}

//! Reading: what was written becomes checked values, and every mistake is noted.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use toml::de::DeTable;

use crate::form::{Form, Shape, Syntax};
use crate::keys::{Row, rows};
use crate::nearest::{likely, nearest};
use crate::problem::{Origin, Problem, Problems, quote};
use crate::written::{Found, Source, Spot, Value, Written, WrittenPlugin};

/// Variables with this beginning are settings.
pub(crate) const VARIABLE_PREFIX: &str = "SWEETMCP__";
/// Plugins of one file.
const PLUGINS_MAX: usize = 256;
/// Tables within each other.
const DEPTH_MAX: usize = 8;

/// The rows by key.
static ROWS: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    rows()
        .into_iter()
        .map(|row| (row.key.clone(), row))
        .collect()
});

/// Reads one configuration.
pub(crate) struct Reader<'t> {
    source: Source<'t>,
    keys: BTreeMap<String, Found>,
    /// What messages call the table that is being read, if it is a plugin's.
    plugin: Option<WrittenPlugin>,
    /// Mistakes so far.
    pub(crate) problems: Problems,
    /// Where each value came from that is not a default.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl<'t> Reader<'t> {
    /// Takes up a file's text and the environment. The plugins' tables come apart, in the file's order.
    pub(crate) fn new(
        name: &str,
        text: &'t str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> (Self, Vec<WrittenPlugin>) {
        let mut reader = Reader {
            source: Source::new(name, text),
            keys: BTreeMap::new(),
            plugin: None,
            problems: Problems::default(),
            origins: BTreeMap::new(),
        };
        let written = reader.file();
        reader.keys = written.keys;
        for (variable, value) in environment.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
            reader.variable(&variable, &value);
        }
        (reader, written.plugins)
    }

    fn file(&mut self) -> Written {
        let mut written = Written::default();
        let text = self.source.text();
        match DeTable::parse(text) {
            Ok(table) => {
                let table = table.get_ref();
                for (key, value) in table {
                    let found = Found::from_file(value);
                    if key.get_ref() == "plugin" {
                        self.plugins(found, &mut written.plugins);
                    } else {
                        self.walk(
                            key.get_ref().clone().into_owned(),
                            found,
                            0,
                            &mut written.keys,
                        );
                    }
                }
            }
            Err(error) => {
                let spot = error
                    .span()
                    .map(|span| Spot::Offset(span.start.min(text.len())));
                let origin =
                    spot.map_or_else(|| self.source.whole(), |spot| self.source.origin(&spot));
                let found = error.message().trim().to_owned();
                self.problems.add(|| Problem {
                    origin,
                    key: String::new(),
                    found,
                    allowed: "TOML (https://toml.io)".to_owned(),
                    write: None,
                });
            }
        }
        written
    }

    fn plugins(&mut self, found: Found, out: &mut Vec<WrittenPlugin>) {
        let Value::List(tables) = found.value else {
            let origin = self.source.origin(&found.spot);
            self.problems.add(|| {
                problem(
                    origin,
                    "plugin",
                    "one table",
                    "tables, each begun by [[plugin]]",
                    None,
                )
            });
            return;
        };
        for (index, table) in tables.into_iter().enumerate() {
            let spot = table.spot.clone();
            let Value::Table(entries) = table.value else {
                continue;
            };
            if index == PLUGINS_MAX {
                let origin = self.source.origin(&spot);
                self.problems.add(|| {
                    problem(
                        origin,
                        "plugin",
                        "more",
                        &format!("at most {PLUGINS_MAX} plugins"),
                        None,
                    )
                });
                return;
            }
            let mut keys = BTreeMap::new();
            for (key, value) in entries {
                self.walk(format!("plugin.{key}"), value, 1, &mut keys);
            }
            let mut plugin = WrittenPlugin {
                spot,
                label: format!("plugin[{index}]"),
                keys,
            };
            if let Some(name) = plugin.name() {
                plugin.label = format!("plugin.{name}");
            }
            out.push(plugin);
        }
    }

    /// Goes down to the keys that there are; what is none is refused with the nearest that is.
    fn walk(&mut self, key: String, found: Found, depth: usize, out: &mut BTreeMap<String, Found>) {
        if ROWS.contains_key(&key) {
            out.insert(key, found);
            return;
        }
        let section = format!("{key}.");
        let is_section = ROWS.keys().any(|known| known.starts_with(&section));
        let origin = self.source.origin(&found.spot);
        match found.value {
            Value::Table(entries) if is_section && depth < DEPTH_MAX => {
                for (name, value) in entries {
                    self.walk(format!("{key}.{name}"), value, depth + 1, out);
                }
            }
            _ if is_section => {
                self.problems
                    .add(|| problem(origin, &key, "a value", &format!("a table: [{key}]"), None));
            }
            _ => {
                let known = ROWS.keys().map(String::as_str);
                let near = nearest(
                    &key,
                    known.filter(|k| k.starts_with("plugin.") == key.starts_with("plugin.")),
                );
                self.problems.add(|| {
                    let allowed = near.map_or_else(String::new, |near| {
                        format!("a key that there is; the nearest is {near}")
                    });
                    problem(
                        origin,
                        &key,
                        "an unknown key",
                        &allowed,
                        likely(&key, near).map(str::to_owned),
                    )
                });
            }
        }
    }

    /// Lays a variable of the environment over the file.
    fn variable(&mut self, variable: &str, text: &str) {
        let spot = Spot::Variable(Arc::from(variable));
        let origin = self.source.origin(&spot);
        let key = variable[VARIABLE_PREFIX.len()..]
            .to_ascii_lowercase()
            .replace("__", ".");
        let settable = || {
            ROWS.keys()
                .map(String::as_str)
                .filter(|k| !k.starts_with("plugin."))
        };
        let Some(row) = ROWS.get(&key).filter(|_| !key.starts_with("plugin.")) else {
            let near = nearest(&key, settable()).unwrap_or_default();
            let name = format!(
                "{VARIABLE_PREFIX}{}",
                near.to_ascii_uppercase().replace('.', "__")
            );
            self.problems.add(|| {
                let allowed = format!("the name of a setting; the nearest is {name} ({near})");
                problem(
                    origin,
                    &key,
                    "an unknown name",
                    &allowed,
                    Some(format!("{name}=…")),
                )
            });
            return;
        };
        let value = from_environment(row.shape.syntax, text);
        let found = Found {
            value,
            spot: spot.clone(),
        }
        .at(&spot);
        self.keys.insert(key, found);
    }

    /// Reads one key; `None` when it is wrong, which has been noted.
    pub(crate) fn key<F: Form>(
        &mut self,
        key: &str,
        form: &F,
        default: Option<Value>,
    ) -> Option<F::Checked> {
        let keys = self
            .plugin
            .as_ref()
            .map_or(&self.keys, |plugin| &plugin.keys);
        let Some(found) = keys.get(key) else {
            return match default {
                Some(value) => form
                    .check(&Found {
                        value,
                        spot: Spot::Offset(0),
                    })
                    .ok(),
                None => form.absent().or_else(|| {
                    self.missing(key, &form.shape());
                    None
                }),
            };
        };
        let origin = self.source.origin(&found.spot);
        match form.check(found) {
            Ok(checked) => {
                self.origins.insert(self.label(key), origin);
                Some(checked)
            }
            Err(wrong) => {
                let shape = form.shape();
                let part = wrong.part.as_ref().unwrap_or(found);
                let place = self.source.origin(&part.spot);
                let (label, shown) = (self.label(key), part.describe());
                let write = wrong
                    .write
                    .map(|value| self.line(key, &origin, &value, &shape));
                self.problems.add(|| Problem {
                    origin: place,
                    key: label,
                    found: shown,
                    allowed: wrong.allowed.unwrap_or(shape.allowed),
                    write,
                });
                None
            }
        }
    }

    fn missing(&mut self, key: &str, shape: &Shape) {
        let origin = match &self.plugin {
            Some(plugin) => self.source.origin(&plugin.spot),
            None => self.source.whole(),
        };
        let write = format!("{} = {}", last(key), shape.example);
        let label = self.label(key);
        self.problems
            .add(|| problem(origin, &label, "nothing", &shape.allowed, Some(write)));
    }

    /// A line that would be right, as the file or the environment writes it.
    fn line(&self, key: &str, origin: &Origin, value: &str, shape: &Shape) -> String {
        match origin {
            Origin::Environment { variable } => format!("{variable}={value}"),
            _ if shape.syntax == Syntax::Text => format!("{} = {}", last(key), quote(value)),
            _ => format!("{} = {value}", last(key)),
        }
    }

    fn label(&self, key: &str) -> String {
        match &self.plugin {
            Some(plugin) => key.replacen("plugin", &plugin.label, 1),
            None => key.to_owned(),
        }
    }

    /// Reads within a plugin's table.
    pub(crate) fn within<T>(
        &mut self,
        plugin: WrittenPlugin,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.plugin = Some(plugin);
        let read = read(self);
        self.plugin = None;
        read
    }

    /// Notes that a table is wrong as a whole: the plugin's that is being read, or one of the file's.
    pub(crate) fn table_problem(
        &mut self,
        key: &str,
        found: &str,
        allowed: &str,
        write: Option<String>,
    ) {
        let origin = match &self.plugin {
            Some(plugin) => self.source.origin(&plugin.spot),
            None => self.source.whole(),
        };
        let label = self.label(key);
        self.problems
            .add(|| problem(origin, &label, found, allowed, write));
    }
}

fn problem(
    origin: Origin,
    key: &str,
    found: &str,
    allowed: &str,
    write: Option<String>,
) -> Problem {
    Problem {
        origin,
        key: key.to_owned(),
        found: found.to_owned(),
        allowed: allowed.to_owned(),
        write,
    }
}

fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// The environment has only text; the key says what it stands for.
fn from_environment(syntax: Syntax, text: &str) -> Value {
    match syntax {
        Syntax::Text | Syntax::Map => Value::Text(text.to_owned()),
        Syntax::Flag => text
            .parse()
            .map_or_else(|_| Value::Text(text.to_owned()), Value::Flag),
        Syntax::Number => text
            .parse()
            .map(Value::Integer)
            .or_else(|_| text.parse().map(Value::Float))
            .unwrap_or_else(|_| Value::Text(text.to_owned())),
        Syntax::List => {
            let parts = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty());
            let item = |part: &str| Found {
                value: Value::Text(part.to_owned()),
                spot: Spot::Offset(0),
            };
            Value::List(parts.map(item).collect())
        }
    }
}

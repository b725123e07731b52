//! Forms: the kinds of value that a key can have.
//!
//! A form knows how to check a written value, how to show a checked one, and how to describe itself to a reader and to
//! a JSON Schema. The bounds of a key live in its form, so that check, message, reference and schema cannot disagree.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::nearest::likely;
use crate::quantity::{format_duration, format_size, parse_duration, parse_size};
use crate::secret::Secret;
use crate::text::Rule;
use crate::written::{Found, Spot, Value};

/// A kind of value with its bounds.
pub(crate) trait Form {
    /// What a value of this form becomes.
    type Checked;

    /// Checks a written value.
    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong>;

    /// The canonical form of a checked value; `null` if it is not set.
    fn show(&self, checked: &Self::Checked) -> Json;

    /// What the form accepts.
    fn shape(&self) -> Shape;

    /// What a key is when nobody wrote it and it has no default; `None` if it must be written.
    fn absent(&self) -> Option<Self::Checked> {
        None
    }
}

/// Why a value does not fit, as far as it differs from what the form says of itself.
#[derive(Debug, Default)]
pub(crate) struct Wrong {
    /// The part of the value that is wrong, if it is not all of it.
    pub(crate) part: Option<Found>,
    /// What would have been allowed, if the form's own words are not precise enough.
    pub(crate) allowed: Option<String>,
    /// The likeliest right value, as it would be written in the environment.
    pub(crate) write: Option<String>,
}

/// How a value is written in a variable of the environment, where everything is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// As it stands.
    Text,
    /// Digits.
    Number,
    /// `true` or `false`.
    Flag,
    /// Separated by commas, or a list as in the file.
    List,
    /// One variable for each entry.
    Map,
}

/// What a form accepts, for people and for programs.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// `duration`, `size`, `address`.
    pub(crate) kind: &'static str,
    /// What is allowed, bounds included.
    pub(crate) allowed: String,
    /// A value that fits.
    pub(crate) example: Json,
    /// How the environment writes it.
    pub(crate) syntax: Syntax,
    /// The JSON Schema of the value.
    pub(crate) schema: Json,
}

fn text_of(found: &Found) -> Result<&str, Wrong> {
    match &found.value {
        Value::Text(text) => Ok(text),
        _ => Err(Wrong::default()),
    }
}

fn within<T: PartialOrd>(value: T, min: &T, max: &T) -> Result<T, Wrong> {
    if *min <= value && value <= *max {
        Ok(value)
    } else {
        Err(Wrong::default())
    }
}

/// `host:port` to listen on.
pub(crate) struct Address;

impl Form for Address {
    type Checked = SocketAddr;

    fn check(&self, found: &Found) -> Result<SocketAddr, Wrong> {
        let text = text_of(found)?;
        text.parse().map_err(|_| {
            let guess = match text.rsplit_once(':') {
                Some(("localhost", port)) => format!("127.0.0.1:{port}"),
                Some(("" | "*", port)) => format!("0.0.0.0:{port}"),
                None => format!("127.0.0.1:{text}"),
                Some((host, port)) => format!("[{host}]:{port}"),
            };
            Wrong {
                write: guess.parse::<SocketAddr>().is_ok().then_some(guess),
                ..Wrong::default()
            }
        })
    }

    fn show(&self, checked: &SocketAddr) -> Json {
        checked.to_string().into()
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: "address",
            allowed:
                "an IP address and a port, such as \"127.0.0.1:8700\"; port 0 takes any free one"
                    .to_owned(),
            example: json!("127.0.0.1:8700"),
            syntax: Syntax::Text,
            schema: json!({"type": "string", "pattern": r"^(\[[0-9a-fA-F:.%]+\]|[0-9.]+):[0-9]{1,5}$"}),
        }
    }
}

/// A length of time.
pub(crate) struct Lasting {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Form for Lasting {
    type Checked = Duration;

    fn check(&self, found: &Found) -> Result<Duration, Wrong> {
        if let Value::Integer(number) = found.value {
            return Err(needs_unit(number, "s"));
        }
        let duration = parse_duration(text_of(found)?).map_err(|error| Wrong {
            write: error.hint,
            ..Wrong::default()
        })?;
        within(duration, &self.min, &self.max)
    }

    fn show(&self, checked: &Duration) -> Json {
        format_duration(*checked).into()
    }

    fn shape(&self) -> Shape {
        let (min, max) = (format_duration(self.min), format_duration(self.max));
        Shape {
            kind: "duration",
            allowed: format!(
                "a duration from {min} to {max}, with a unit (ns, us, ms, s, m, h, d)"
            ),
            example: json!(max),
            syntax: Syntax::Text,
            schema: json!({"type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)? *(ns|us|ms|s|m|h|d))+\s*$"}),
        }
    }
}

fn needs_unit(number: i128, unit: &str) -> Wrong {
    Wrong {
        write: (number >= 0).then(|| format!("{number}{unit}")),
        ..Wrong::default()
    }
}

/// A number of bytes.
pub(crate) struct Size {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Form for Size {
    type Checked = u64;

    fn check(&self, found: &Found) -> Result<u64, Wrong> {
        if let Value::Integer(number) = found.value {
            return Err(needs_unit(number, "B"));
        }
        let bytes = parse_size(text_of(found)?).map_err(|error| Wrong {
            write: error.hint,
            ..Wrong::default()
        })?;
        within(bytes, &self.min, &self.max)
    }

    fn show(&self, checked: &u64) -> Json {
        format_size(*checked).into()
    }

    fn shape(&self) -> Shape {
        let (min, max) = (format_size(self.min), format_size(self.max));
        Shape {
            kind: "size",
            allowed: format!(
                "a size from {min} to {max}, with a unit (B, KiB, MiB, GiB, or kB, MB, GB)"
            ),
            example: json!(max),
            syntax: Syntax::Text,
            schema: json!({"type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)? *([KMGT]i?B|kB|B))+\s*$"}),
        }
    }
}

/// A whole number.
pub(crate) struct Count<T> {
    pub(crate) min: T,
    pub(crate) max: T,
}

impl<T: Copy + PartialOrd + Display + TryFrom<i128> + Into<Json>> Form for Count<T> {
    type Checked = T;

    fn check(&self, found: &Found) -> Result<T, Wrong> {
        let Value::Integer(number) = found.value else {
            return Err(Wrong::default());
        };
        let number = T::try_from(number).map_err(|_| Wrong::default())?;
        within(number, &self.min, &self.max)
    }

    fn show(&self, checked: &T) -> Json {
        (*checked).into()
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: "number",
            allowed: format!("a whole number from {} to {}", self.min, self.max),
            example: self.max.into(),
            syntax: Syntax::Number,
            schema: json!({"type": "integer", "minimum": self.min.into(), "maximum": self.max.into()}),
        }
    }
}

/// A number with a fraction.
pub(crate) struct Ratio {
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Form for Ratio {
    type Checked = f64;

    fn check(&self, found: &Found) -> Result<f64, Wrong> {
        let number = match found.value {
            Value::Float(number) => number,
            Value::Integer(number @ (0 | 1)) => f64::from(u8::from(number == 1)),
            _ => return Err(Wrong::default()),
        };
        within(number, &self.min, &self.max)
    }

    fn show(&self, checked: &f64) -> Json {
        json!(checked)
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: "ratio",
            allowed: format!("a number from {} to {}", self.min, self.max),
            example: json!(self.max),
            syntax: Syntax::Number,
            schema: json!({"type": "number", "minimum": self.min, "maximum": self.max}),
        }
    }
}

/// Yes or no.
pub(crate) struct Flag;

impl Form for Flag {
    type Checked = bool;

    fn check(&self, found: &Found) -> Result<bool, Wrong> {
        match &found.value {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(text) => {
                let write = match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "1" => Some("true".to_owned()),
                    "false" | "no" | "off" | "0" => Some("false".to_owned()),
                    _ => None,
                };
                Err(Wrong {
                    write,
                    ..Wrong::default()
                })
            }
            _ => Err(Wrong::default()),
        }
    }

    fn show(&self, checked: &bool) -> Json {
        (*checked).into()
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: "flag",
            allowed: "true or false".to_owned(),
            example: json!(true),
            syntax: Syntax::Flag,
            schema: json!({"type": "boolean"}),
        }
    }
}

/// A text that follows a rule.
pub(crate) struct Text(pub(crate) &'static Rule);

impl Text {
    fn accept<'f>(&self, found: &'f Found) -> Result<&'f str, Wrong> {
        let text = text_of(found)?;
        if self.0.accepts(text) {
            return Ok(text);
        }
        let write = (self.0.guess)(text).filter(|guess| self.0.accepts(guess));
        Err(Wrong {
            write,
            ..Wrong::default()
        })
    }
}

impl Form for Text {
    type Checked = String;

    fn check(&self, found: &Found) -> Result<String, Wrong> {
        self.accept(found).map(str::to_owned)
    }

    fn show(&self, checked: &String) -> Json {
        checked.as_str().into()
    }

    fn shape(&self) -> Shape {
        let mut schema = json!({"type": "string", "minLength": self.0.length_min, "maxLength": self.0.length_max});
        if let Some(pattern) = self.0.pattern {
            schema["pattern"] = pattern.into();
        }
        Shape {
            kind: self.0.kind,
            allowed: self.0.allowed.to_owned(),
            example: self.0.example.into(),
            syntax: Syntax::Text,
            schema,
        }
    }
}

/// A path of a file or folder.
pub(crate) struct FilePath(pub(crate) &'static Rule);

impl Form for FilePath {
    type Checked = PathBuf;

    fn check(&self, found: &Found) -> Result<PathBuf, Wrong> {
        Text(self.0).accept(found).map(PathBuf::from)
    }

    fn show(&self, checked: &PathBuf) -> Json {
        checked.to_string_lossy().into_owned().into()
    }

    fn shape(&self) -> Shape {
        Text(self.0).shape()
    }
}

/// An enumeration whose values have names.
pub(crate) trait Choices: Copy + PartialEq + 'static {
    /// Each value with the name it is written by.
    const ALL: &'static [(Self, &'static str)];
}

/// One of a few names.
pub(crate) struct Choice<T>(pub(crate) std::marker::PhantomData<T>);

impl<T> Choice<T> {
    pub(crate) const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: Choices> Form for Choice<T> {
    type Checked = T;

    fn check(&self, found: &Found) -> Result<T, Wrong> {
        let text = text_of(found)?;
        let names = T::ALL.iter().map(|(_, name)| *name);
        let choice = T::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(choice, _)| *choice);
        choice.ok_or_else(|| Wrong {
            write: likely(&text.to_ascii_lowercase(), names).map(str::to_owned),
            ..Wrong::default()
        })
    }

    fn show(&self, checked: &T) -> Json {
        T::ALL
            .iter()
            .find(|(choice, _)| choice == checked)
            .map_or(Json::Null, |(_, name)| (*name).into())
    }

    fn shape(&self) -> Shape {
        let names: Vec<&str> = T::ALL.iter().map(|(_, name)| *name).collect();
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        Shape {
            kind: "choice",
            allowed: format!("one of {}", quoted.join(", ")),
            example: names.first().map_or(Json::Null, |name| (*name).into()),
            syntax: Syntax::Text,
            schema: json!({"type": "string", "enum": names}),
        }
    }
}

/// Several values of one form.
pub(crate) struct List<F> {
    pub(crate) item: F,
    pub(crate) length_min: usize,
    pub(crate) length_max: usize,
}

impl<F: Form> Form for List<F> {
    type Checked = Vec<F::Checked>;

    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong> {
        let Value::List(items) = &found.value else {
            return Err(Wrong::default());
        };
        within(items.len(), &self.length_min, &self.length_max)?;
        let check = |item: &Found| {
            self.item.check(item).map_err(|wrong| Wrong {
                part: wrong.part.or_else(|| Some(item.clone())),
                allowed: wrong
                    .allowed
                    .or_else(|| Some(format!("in this list {}", self.item.shape().allowed))),
                write: wrong.write,
            })
        };
        items.iter().map(check).collect()
    }

    fn show(&self, checked: &Self::Checked) -> Json {
        checked.iter().map(|item| self.item.show(item)).collect()
    }

    fn shape(&self) -> Shape {
        let item = self.item.shape();
        let bounds = format!("{} to {} items", self.length_min, self.length_max);
        Shape {
            kind: "list",
            allowed: format!("a list of {bounds}, each {}", item.allowed),
            example: json!([item.example]),
            syntax: Syntax::List,
            schema: json!({
                "type": "array", "items": item.schema, "minItems": self.length_min, "maxItems": self.length_max
            }),
        }
    }
}

/// A value that may be left out, with no default.
pub(crate) struct Optional<F>(pub(crate) F);

impl<F: Form> Form for Optional<F> {
    type Checked = Option<F::Checked>;

    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong> {
        self.0.check(found).map(Some)
    }

    fn show(&self, checked: &Self::Checked) -> Json {
        checked
            .as_ref()
            .map_or(Json::Null, |checked| self.0.show(checked))
    }

    fn shape(&self) -> Shape {
        self.0.shape()
    }

    fn absent(&self) -> Option<Self::Checked> {
        Some(None)
    }
}

/// Variables for a child process: names that a process can have, values that nobody may see.
pub(crate) struct Variables {
    pub(crate) name: &'static Rule,
    pub(crate) entries_max: usize,
    pub(crate) value_max: usize,
}

impl Form for Variables {
    type Checked = BTreeMap<String, Secret>;

    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong> {
        let Value::Table(entries) = &found.value else {
            return Err(Wrong::default());
        };
        within(entries.len(), &0, &self.entries_max)?;
        let mut variables = BTreeMap::new();
        for (name, entry) in entries {
            if !self.name.accepts(name) {
                return Err(self.wrong(
                    &entry.spot,
                    format!("as a variable's name {}", self.name.allowed),
                ));
            }
            let value = match &entry.value {
                Value::Text(text) if text.len() <= self.value_max && !text.contains('\0') => text,
                _ => {
                    return Err(self.wrong(
                        &entry.spot,
                        format!("for {name} a text of at most {} bytes", self.value_max),
                    ));
                }
            };
            variables.insert(name.clone(), Secret::new(value.clone()));
        }
        Ok(variables)
    }

    fn show(&self, checked: &Self::Checked) -> Json {
        checked
            .keys()
            .map(|name| (name.clone(), Json::from(Secret::MASK)))
            .collect()
    }

    fn shape(&self) -> Shape {
        Shape {
            kind: "variables",
            allowed: format!(
                "a table of at most {} variables with text values, such as {{ TOKEN = \"…\" }}",
                self.entries_max
            ),
            example: json!({"TOKEN": "…"}),
            syntax: Syntax::Map,
            schema: json!({
                "type": "object",
                "propertyNames": {"pattern": self.name.pattern},
                "additionalProperties": {"type": "string", "maxLength": self.value_max},
                "maxProperties": self.entries_max,
            }),
        }
    }
}

impl Variables {
    fn wrong(&self, spot: &Spot, allowed: String) -> Wrong {
        let hidden = Found {
            value: Value::Text(Secret::MASK.to_owned()),
            spot: spot.clone(),
        };
        Wrong {
            part: Some(hidden),
            allowed: Some(allowed),
            write: None,
        }
    }
}

/// Texts by name, as a table, or in the environment as `name=text,name=text`.
pub(crate) struct Texts {
    pub(crate) name: &'static Rule,
    pub(crate) value: &'static Rule,
    pub(crate) entries_max: usize,
}

impl Form for Texts {
    type Checked = BTreeMap<String, String>;

    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong> {
        let entries: Vec<(String, Option<String>, Option<&Found>)> = match &found.value {
            Value::Table(entries) => {
                let text = |entry: &Found| text_of(entry).ok().map(str::to_owned);
                let entry = |(name, entry)| (String::clone(name), text(entry), Some(entry));
                entries.iter().map(entry).collect()
            }
            Value::Text(text) => {
                let parts = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                let entry = |part: &str| {
                    let (name, text) = part.split_once('=').unwrap_or((part, ""));
                    (name.trim().to_owned(), Some(text.trim().to_owned()), None)
                };
                parts.map(entry).collect()
            }
            _ => return Err(Wrong::default()),
        };
        within(entries.len(), &0, &self.entries_max)?;
        let mut texts = BTreeMap::new();
        for (name, text, part) in entries {
            let wrong = |allowed: String| Wrong {
                part: part.cloned(),
                allowed: Some(allowed),
                write: None,
            };
            if !self.name.accepts(&name) {
                return Err(wrong(format!("as a name {}", self.name.allowed)));
            }
            let Some(text) = text.filter(|text| self.value.accepts(text)) else {
                return Err(wrong(format!("for {name} {}", self.value.allowed)));
            };
            texts.insert(name, text);
        }
        Ok(texts)
    }

    fn show(&self, checked: &Self::Checked) -> Json {
        let entry = |(name, text): (&String, &String)| (name.clone(), Json::from(text.as_str()));
        checked.iter().map(entry).collect()
    }

    fn shape(&self) -> Shape {
        let (name, value) = (self.name.example, self.value.example);
        Shape {
            kind: "texts",
            allowed: format!(
                "a table of at most {} texts by name, such as {{ {name:?} = {value:?} }}; in the environment {name}={value}",
                self.entries_max
            ),
            example: json!({name: value}),
            syntax: Syntax::Map,
            schema: json!({
                "type": "object",
                "propertyNames": {"maxLength": self.name.length_max},
                "additionalProperties": {"type": "string", "minLength": self.value.length_min, "maxLength": self.value.length_max},
                "maxProperties": self.entries_max,
            }),
        }
    }
}

/// Whole numbers by name, as a table, or in the environment as `name=number,name=number`.
pub(crate) struct Numbers {
    pub(crate) name: &'static Rule,
    pub(crate) entries_max: usize,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Form for Numbers {
    type Checked = BTreeMap<String, u64>;

    fn check(&self, found: &Found) -> Result<Self::Checked, Wrong> {
        let wrong = |part: Option<&Found>, allowed: String| Wrong {
            part: part.cloned(),
            allowed: Some(allowed),
            write: None,
        };
        let entries: Vec<(String, Option<i128>, Option<&Found>)> = match &found.value {
            Value::Table(entries) => {
                let number = |entry: &Found| match entry.value {
                    Value::Integer(number) => Some(number),
                    _ => None,
                };
                let entry = |(name, entry)| (String::clone(name), number(entry), Some(entry));
                entries.iter().map(entry).collect()
            }
            Value::Text(text) => {
                let parts = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                let entry = |part: &str| {
                    let (name, number) = part.rsplit_once('=').unwrap_or((part, ""));
                    (name.trim().to_owned(), number.trim().parse().ok(), None)
                };
                parts.map(entry).collect()
            }
            _ => return Err(Wrong::default()),
        };
        within(entries.len(), &0, &self.entries_max)?;
        let mut numbers = BTreeMap::new();
        for (name, number, part) in entries {
            if !self.name.accepts(&name) {
                return Err(wrong(part, format!("as a name {}", self.name.allowed)));
            }
            let number = number
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| (self.min..=self.max).contains(number));
            let Some(number) = number else {
                let allowed = format!("a whole number from {} to {}", self.min, self.max);
                return Err(wrong(part, format!("for {name} {allowed}")));
            };
            numbers.insert(name, number);
        }
        Ok(numbers)
    }

    fn show(&self, checked: &Self::Checked) -> Json {
        let entry = |(name, number): (&String, &u64)| (name.clone(), Json::from(*number));
        checked.iter().map(entry).collect()
    }

    fn shape(&self) -> Shape {
        let (min, max, name) = (self.min, self.max, self.name.example);
        Shape {
            kind: "numbers",
            allowed: format!(
                "a table of at most {} whole numbers from {min} to {max} by name, such as {{ {name:?} = {} }}; in the environment {name}={}",
                self.entries_max,
                self.max.min(4),
                self.max.min(4)
            ),
            example: json!({name: self.max.min(4)}),
            syntax: Syntax::Map,
            schema: json!({
                "type": "object",
                "propertyNames": {"maxLength": self.name.length_max},
                "additionalProperties": {"type": "integer", "minimum": min, "maximum": max},
                "maxProperties": self.entries_max,
            }),
        }
    }
}

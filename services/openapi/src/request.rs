//! Arguments to a request: styles of parameters (OpenAPI 3, "Style Values"), and bodies.
//!
//! An argument never leaves its place: what it contributes to the URL is percent-encoded, a path segment that would
//! climb (`..`) or vanish is refused, and so is a header value that would end its line.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::operation::{BODY, Operation, is_json};
use crate::reference::Unfit;

/// Everything but the unreserved characters of RFC 3986.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// What `allowReserved` leaves alone: reserved characters that do not end a query or a pair of it.
const RESERVED: &AsciiSet = &STRICT
    .remove(b':')
    .remove(b'/')
    .remove(b'?')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b',')
    .remove(b';');
/// What a written path may keep.
const PATH: &AsciiSet = &RESERVED
    .add(b'?')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'%');
/// Longest path with query, in bytes.
const TARGET_BYTES_MAX: usize = 16 << 10;
/// Longest header value, in bytes.
const HEADER_BYTES_MAX: usize = 4 << 10;
/// Levels of an object in a query.
const DEEP_MAX: usize = 8;

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`
    pub method: &'static str,
    /// Begins with `/`; to be put after the API's base URL.
    pub path: String,
    /// Without `?`; empty if there is none.
    pub query: String,
    /// Names in lower case. `Cookie` is among them where cookies are sent.
    pub headers: Vec<(String, String)>,
    /// What is sent along.
    pub body: Option<Body>,
}

/// A request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// `application/json`
    pub content_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Why arguments make no request: a sentence for who wrote them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It must be given.
    #[error("the argument {0} is missing")]
    Missing(String),
    /// There is none of that name.
    #[error("there is no argument {0:?}")]
    Unknown(String),
    /// It cannot be sent where it belongs.
    #[error("the argument {argument} cannot be sent: {reason}")]
    Unsendable {
        /// Its name.
        argument: String,
        /// Why.
        reason: &'static str,
    },
    /// Together they are too long.
    #[error("the arguments make a URL of more than {TARGET_BYTES_MAX} bytes")]
    TooLong,
}

/// Where a parameter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

impl Place {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Path, Self::Query, Self::Header, Self::Cookie]
            .into_iter()
            .find(|place| place.as_str() == word)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }

    /// Tells whether a header is for us to set: it says what is sent, to whom, by whom, or how.
    pub(crate) fn is_ours(self, name: &str) -> bool {
        const OURS: [&str; 16] = [
            "accept",
            "accept-encoding",
            "authorization",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "host",
            "keep-alive",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        self == Self::Header && OURS.contains(&name.to_ascii_lowercase().as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
    /// `content` in place of `schema`.
    Json,
}

/// One parameter.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// The tool's argument.
    pub(crate) argument: String,
    name: String,
    place: Place,
    style: Style,
    explode: bool,
    pub(crate) required: bool,
    reserved: bool,
}

impl Parameter {
    pub(crate) fn read(place: Place, name: &str, written: &Value) -> Result<Self, Unfit> {
        let flag = |member: &str| written.get(member).and_then(Value::as_bool);
        let said = written.get("style").and_then(Value::as_str);
        let style = match (place, said) {
            _ if written.get("content").is_some() => Style::Json,
            (Place::Path | Place::Header, None | Some("simple")) => Style::Simple,
            (Place::Path, Some("label")) => Style::Label,
            (Place::Path, Some("matrix")) => Style::Matrix,
            (Place::Query | Place::Cookie, None | Some("form")) => Style::Form,
            (Place::Query, Some("spaceDelimited")) => Style::SpaceDelimited,
            (Place::Query, Some("pipeDelimited")) => Style::PipeDelimited,
            (Place::Query, Some("deepObject")) => Style::DeepObject,
            _ => {
                return Err(Unfit(format!(
                    "the parameter {name:?} has a style that its place does not have"
                )));
            }
        };
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if matches!(place, Place::Header | Place::Cookie)
            && (name.is_empty() || !name.chars().all(token))
        {
            return Err(Unfit(format!(
                "the parameter {name:?} has no name that a {} can have",
                place.as_str()
            )));
        }
        Ok(Self {
            argument: String::new(),
            name: name.to_owned(),
            place,
            style,
            explode: flag("explode").unwrap_or(style == Style::Form),
            required: place == Place::Path || flag("required").unwrap_or(false),
            reserved: flag("allowReserved").unwrap_or(false),
        })
    }

    /// Returns the schema of a parameter as written.
    pub(crate) fn schema(written: &Value) -> Option<&Value> {
        let content = written.get("content").and_then(Value::as_object);
        match content.and_then(|content| content.values().next()) {
            Some(media) => media.get("schema"),
            None => written.get("schema"),
        }
    }

    fn unsendable(&self, reason: &'static str) -> RequestError {
        RequestError::Unsendable {
            argument: self.argument.clone(),
            reason,
        }
    }

    fn encoded(&self, value: &Value) -> String {
        let set = if self.reserved { RESERVED } else { STRICT };
        utf8_percent_encode(&scalar(value), set).to_string()
    }

    /// Writes an array's or object's parts, each by `write`, as `key=value` or as a plain list.
    fn listed(&self, value: &Value, write: impl Fn(&Value) -> String) -> Vec<String> {
        match value {
            Value::Array(items) => items.iter().map(write).collect(),
            Value::Object(members) => members
                .iter()
                .flat_map(|(key, value)| {
                    let key = write(&Value::String(key.clone()));
                    let value = write(value);
                    if self.explode {
                        vec![format!("{key}={value}")]
                    } else {
                        vec![key, value]
                    }
                })
                .collect(),
            single => vec![write(single)],
        }
    }

    fn path(&self, value: &Value) -> Result<String, RequestError> {
        let text = match self.style {
            Style::Json => self.encoded(&Value::String(value.to_string())),
            Style::Label => {
                let separator = if self.explode { "." } else { "," };
                let parts = self.listed(value, |part| self.encoded(part));
                format!(".{}", parts.join(separator))
            }
            Style::Matrix => self.matrix(value),
            _ => self.listed(value, |part| self.encoded(part)).join(","),
        };
        if text.is_empty() {
            return Err(self.unsendable("it is empty, and stands in the path"));
        }
        Ok(text)
    }

    fn matrix(&self, value: &Value) -> String {
        let name = utf8_percent_encode(&self.name, STRICT).to_string();
        let parts = self.listed(value, |part| self.encoded(part));
        match (value, self.explode) {
            (Value::Array(_), true) => {
                let pairs = parts.iter().map(|part| format!(";{name}={part}"));
                pairs.collect()
            }
            (Value::Object(_), true) => parts.iter().map(|part| format!(";{part}")).collect(),
            _ => format!(";{name}={}", parts.join(",")),
        }
    }

    /// Adds `name=value` pairs, encoded.
    fn pairs(&self, value: &Value, pairs: &mut Vec<String>) -> Result<(), RequestError> {
        let name = utf8_percent_encode(&self.name, STRICT).to_string();
        let empty = matches!(value, Value::Array(items) if items.is_empty())
            || matches!(value, Value::Object(members) if members.is_empty());
        if empty {
            return Ok(());
        }
        match (self.style, value) {
            (Style::Json, _) => {
                let text = Value::String(value.to_string());
                pairs.push(format!("{name}={}", self.encoded(&text)));
            }
            (Style::DeepObject, _) => self.deep(&name, value, 0, pairs)?,
            (Style::SpaceDelimited | Style::PipeDelimited, Value::Array(_) | Value::Object(_))
                if !self.explode =>
            {
                let separator = if self.style == Style::SpaceDelimited {
                    "%20"
                } else {
                    "%7C"
                };
                let parts = self.listed(value, |part| self.encoded(part));
                pairs.push(format!("{name}={}", parts.join(separator)));
            }
            (_, Value::Array(_)) if self.explode => {
                let parts = self.listed(value, |part| self.encoded(part));
                pairs.extend(parts.into_iter().map(|part| format!("{name}={part}")));
            }
            (_, Value::Object(_)) if self.explode => {
                pairs.extend(self.listed(value, |part| self.encoded(part)));
            }
            _ => {
                let parts = self.listed(value, |part| self.encoded(part));
                pairs.push(format!("{name}={}", parts.join(",")));
            }
        }
        Ok(())
    }

    fn deep(
        &self,
        name: &str,
        value: &Value,
        depth: usize,
        pairs: &mut Vec<String>,
    ) -> Result<(), RequestError> {
        if depth > DEEP_MAX {
            return Err(self.unsendable("it is nested too deeply"));
        }
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    let key = utf8_percent_encode(key, STRICT);
                    self.deep(&format!("{name}%5B{key}%5D"), value, depth + 1, pairs)?;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.deep(name, item, depth + 1, pairs)?;
                }
            }
            single => pairs.push(format!("{name}={}", self.encoded(single))),
        }
        Ok(())
    }

    fn header(&self, value: &Value) -> Result<String, RequestError> {
        let text = match self.style {
            Style::Json => value.to_string(),
            _ => self.listed(value, scalar).join(","),
        };
        let fits = text.len() <= HEADER_BYTES_MAX
            && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if fits {
            Ok(text.trim().to_owned())
        } else {
            Err(self.unsendable("a header takes printable ASCII of bounded length"))
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A piece of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// As written, encoded.
    Fixed(String),
    /// Index of the parameter that stands there.
    Parameter(usize),
}

/// Splits a path template at its parameters.
pub(crate) fn parts(path: &str, parameters: &[Parameter]) -> Result<Vec<Part>, Unfit> {
    if !path.starts_with('/') {
        return Err(Unfit("its path does not begin with /".into()));
    }
    let mut parts = Vec::new();
    let mut rest = path;
    while let Some((fixed, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| Unfit("its path has { without }".into()))?;
        let at = parameters
            .iter()
            .position(|one| one.place == Place::Path && one.name == name);
        let at = at.ok_or_else(|| Unfit(format!("its path names {name:?}, no parameter does")))?;
        parts.push(Part::Fixed(utf8_percent_encode(fixed, PATH).to_string()));
        parts.push(Part::Parameter(at));
        rest = after;
    }
    parts.push(Part::Fixed(utf8_percent_encode(rest, PATH).to_string()));
    Ok(parts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum BodyKind {
    Json,
    Form,
    Text,
}

/// How a body is written.
#[derive(Debug, Clone)]
pub(crate) struct BodyForm {
    media: String,
    kind: BodyKind,
    pub(crate) required: bool,
}

impl BodyForm {
    /// Returns the form for a media type, or `None` for one that cannot be written.
    pub(crate) fn of(media: &str) -> Option<Self> {
        let essence = media.split(';').next()?.trim().to_ascii_lowercase();
        let (media, kind) = match essence.as_str() {
            "*/*" | "application/*" => ("application/json", BodyKind::Json),
            "application/x-www-form-urlencoded" => (essence.as_str(), BodyKind::Form),
            "text/plain" | "text/*" => ("text/plain; charset=utf-8", BodyKind::Text),
            json if is_json(json) && json.bytes().all(|b| b.is_ascii_graphic()) => {
                (json, BodyKind::Json)
            }
            _ => return None,
        };
        Some(Self {
            media: media.to_owned(),
            kind,
            required: false,
        })
    }

    /// Returns what orders forms by preference, the best first.
    pub(crate) fn rank(&self) -> impl Ord + '_ {
        (self.kind, self.media != "application/json", &self.media)
    }

    fn write(&self, value: &Value) -> Result<Body, RequestError> {
        let unsendable = |reason| RequestError::Unsendable {
            argument: BODY.to_owned(),
            reason,
        };
        let bytes = match (self.kind, value) {
            (BodyKind::Json, value) => value.to_string().into_bytes(),
            (BodyKind::Form, Value::Object(members)) => form(members).into_bytes(),
            (BodyKind::Form, _) => return Err(unsendable("a form is an object")),
            (BodyKind::Text, Value::String(text)) => text.clone().into_bytes(),
            (BodyKind::Text, _) => return Err(unsendable("it is sent as text, and is no string")),
        };
        Ok(Body {
            content_type: self.media.clone(),
            bytes,
        })
    }
}

fn form(members: &Map<String, Value>) -> String {
    let mut pairs = Vec::new();
    for (name, value) in members {
        let name = utf8_percent_encode(name, STRICT);
        let values = match value {
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values {
            let value = scalar(value);
            pairs.push(format!("{name}={}", utf8_percent_encode(&value, STRICT)));
        }
    }
    pairs.join("&")
}

impl Operation {
    /// Makes the request that a call's arguments mean.
    ///
    /// # Errors
    /// [`RequestError`] for an argument that is missing, unknown or cannot stand where it belongs. Schemas are not
    /// checked here.
    pub fn request(&self, arguments: &Map<String, Value>) -> Result<Request, RequestError> {
        let known = |name: &str| {
            (self.body.is_some() && name == BODY)
                || self.parameters.iter().any(|one| one.argument == name)
        };
        if let Some(unknown) = arguments.keys().find(|name| !known(name)) {
            return Err(RequestError::Unknown(unknown.chars().take(64).collect()));
        }
        let given = |name: &str| arguments.get(name).filter(|value| !value.is_null());
        let mut request = Request {
            method: self.method,
            path: self.target(arguments)?,
            query: String::new(),
            headers: Vec::new(),
            body: None,
        };
        let (mut query, mut cookies) = (Vec::new(), Vec::new());
        for parameter in &self.parameters {
            match (given(&parameter.argument), parameter.place) {
                (None, _) if parameter.required => {
                    return Err(RequestError::Missing(parameter.argument.clone()));
                }
                (None, _) | (_, Place::Path) => {}
                (Some(value), Place::Query) => parameter.pairs(value, &mut query)?,
                (Some(value), Place::Cookie) => parameter.pairs(value, &mut cookies)?,
                (Some(value), Place::Header) => {
                    let name = parameter.name.to_ascii_lowercase();
                    request.headers.push((name, parameter.header(value)?));
                }
            }
        }
        if !cookies.is_empty() {
            request.headers.push(("cookie".into(), cookies.join("; ")));
        }
        request.query = query.join("&");
        request.body = match (&self.body, given(BODY)) {
            (Some(form), Some(value)) => Some(form.write(value)?),
            (Some(form), None) if form.required => {
                return Err(RequestError::Missing(BODY.to_owned()));
            }
            _ => None,
        };
        if request.path.len() + request.query.len() > TARGET_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        Ok(request)
    }

    fn target(&self, arguments: &Map<String, Value>) -> Result<String, RequestError> {
        let mut path = String::new();
        for part in &self.path {
            match part {
                Part::Fixed(text) => path.push_str(text),
                Part::Parameter(at) => {
                    let parameter = &self.parameters[*at];
                    let value = arguments
                        .get(&parameter.argument)
                        .filter(|value| !value.is_null())
                        .ok_or_else(|| RequestError::Missing(parameter.argument.clone()))?;
                    path.push_str(&parameter.path(value)?);
                    // A dot segment cannot be encoded: `%2e%2e` climbs as `..` does.
                    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
                        return Err(parameter.unsendable("it would climb out of its path"));
                    }
                }
            }
        }
        Ok(path)
    }
}

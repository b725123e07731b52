//! JSON for a log: bounded, and without what looks like a secret.
//!
//! Whoever allows arguments or results of a tool to be logged does not mean its passwords. So a value is masked for the name it
//! stands under, for the look of the value itself, or because the operator named it; text that holds JSON is looked into. What
//! is masked is masked before anything is cut, so that no part of a secret is left.

use serde_json::Value;

/// What stands in place of a secret.
const MASK: &str = "[redacted]";
/// What stands in place of what is cut off.
const CUT: &str = "…";
/// Larger JSON is not read for a log, in bytes.
const READ_BYTES_MAX: usize = 256 << 10;
/// JSON within JSON, as objects or as text.
const DEPTH_MAX: usize = 32;

/// Parts of names whose values are secrets, in lower case and without what separates words.
const SECRET_NAMES: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "authorization",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "credential",
    "cookie",
    "sessionid",
    "jwt",
];
/// How tokens of well-known issuers begin.
const SECRET_BEGINNINGS: [&str; 14] = [
    "sk-",
    "sk_",
    "pk_live",
    "rk_live",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xox",
    "AKIA",
    "AIza",
    "ya29.",
];
/// From this length on, a word of letters of both cases and digits is taken for a key.
const KEY_CHARS_MIN: usize = 24;

/// Longer words are no names, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// How keys and certificates begin in text.
const KEY_BEGINNING: &str = "-----BEGIN";

/// What the next word of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Shown,
    Secret,
}

/// How much of a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The names of an object's members and what kind of value each has.
    Keys,
    /// All of it but secrets.
    Full,
}

/// What is masked beside what looks like a secret, and how much is written.
#[derive(Debug, Clone, Default)]
pub struct Redaction {
    names: Vec<String>,
    pointers: Vec<String>,
    bytes_max: usize,
}

impl Redaction {
    /// Masks these members: by name wherever they stand (`ssn`), or by JSON Pointer (RFC 6901, `/patient/name`). Writes at
    /// most about `bytes_max` bytes.
    #[must_use]
    pub fn new(members: &[String], bytes_max: usize) -> Self {
        let (pointers, names): (Vec<String>, Vec<String>) = members
            .iter()
            .cloned()
            .partition(|member| member.starts_with('/'));
        Self {
            names: names.iter().map(|name| plain(name)).collect(),
            pointers,
            bytes_max,
        }
    }

    /// Returns JSON for a log.
    #[must_use]
    pub fn show(&self, json: &str, detail: Detail) -> String {
        let value: Option<Value> = match json.len() {
            ..=READ_BYTES_MAX => serde_json::from_str(json).ok(),
            _ => None,
        };
        let Some(mut value) = value else {
            return Value::from(format!("{} bytes", json.len())).to_string();
        };
        for pointer in &self.pointers {
            if let Some(named) = value.pointer_mut(pointer) {
                *named = MASK.into();
            }
        }
        self.mask(&mut value, DEPTH_MAX);
        if detail == Detail::Keys {
            value = kinds(&value);
        }
        let mut left = self.bytes_max;
        cut(&mut value, &mut left);
        value.to_string()
    }

    /// Returns a line of text for a log, such as a program writes for people: what is no secret of it stays, for somebody has to
    /// find out by it what is wrong. It is not cut.
    #[must_use]
    pub fn line(&self, line: &str) -> String {
        if line.contains(KEY_BEGINNING) {
            return MASK.to_owned();
        }
        if line.trim_start().starts_with(['{', '[']) && serde_json::from_str::<Value>(line).is_ok()
        {
            return self
                .mask_text(line, DEPTH_MAX)
                .unwrap_or_else(|| line.to_owned());
        }
        let mut masked = String::with_capacity(line.len());
        let mut next = Next::Shown;
        for piece in line.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end();
            next = self.mask_word(word, next, &mut masked);
            masked.push_str(&piece[word.len()..]);
        }
        masked
    }

    /// Writes one word of a line, and returns what the next one is.
    fn mask_word(&self, word: &str, is: Next, masked: &mut String) -> Next {
        let (name, value) = match word.find(['=', ':']) {
            Some(at) => word.split_at(at + 1),
            None => (word, ""),
        };
        let named = name.len() <= NAME_BYTES_MAX && self.is_named(name);
        let (shown, hidden, next) = if word.is_empty() {
            ("", false, is)
        } else if is_scheme(word) || is == Next::Secret && matches!(word, "=" | ":") {
            // The secret comes after it.
            (word, false, Next::Secret)
        } else if is == Next::Secret {
            ("", true, Next::Shown)
        } else if named && !value.is_empty() && !value.starts_with("//") {
            (name, true, Next::Shown)
        } else if is_secret(word) || word.split(['&', '?']).any(|part| self.is_pair(part)) {
            ("", true, Next::Shown)
        } else if named && (word.starts_with('-') || word.ends_with([':', '='])) {
            (word, false, Next::Secret)
        } else {
            (word, false, Next::Shown)
        };
        masked.push_str(shown);
        masked.push_str(if hidden { MASK } else { "" });
        next
    }

    /// Whether it is a secret's name with its value, as in the query of a URL.
    fn is_pair(&self, part: &str) -> bool {
        let pair = part.split_once('=');
        pair.is_some_and(|(name, value)| !value.is_empty() && self.is_named(name))
    }

    fn mask(&self, value: &mut Value, depth: usize) {
        match value {
            _ if depth == 0 => *value = CUT.into(),
            Value::Object(members) => {
                let names = members.keys().filter(|name| is_secret(name));
                let secret_names: Vec<String> = names.cloned().collect();
                for (name, value) in members.iter_mut() {
                    if self.is_named(name) && !is_empty(value) {
                        *value = MASK.into();
                    } else {
                        self.mask(value, depth - 1);
                    }
                }
                for name in secret_names {
                    members.remove(&name);
                    members.insert(MASK.to_owned(), MASK.into());
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask(item, depth - 1)),
            Value::String(text) => {
                if let Some(masked) = self.mask_text(text, depth) {
                    *text = masked;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text that stands for one that must not be shown as it is.
    fn mask_text(&self, text: &str, depth: usize) -> Option<String> {
        let text = text.trim();
        if text.starts_with(['{', '['])
            && let Ok(mut within) = serde_json::from_str::<Value>(text)
        {
            let before = within.clone();
            self.mask(&mut within, depth - 1);
            return (within != before).then(|| within.to_string());
        }
        let secret = is_secret(text) || self.assigns(text);
        secret.then(|| MASK.to_owned())
    }

    fn is_named(&self, name: &str) -> bool {
        let name = plain(name);
        let secret = SECRET_NAMES.iter().any(|secret| name.contains(secret));
        secret || self.names.contains(&name)
    }

    /// Whether the text gives a value to a name that must not be shown: `password=x`, `Authorization: x`, `--token x`.
    fn assigns(&self, text: &str) -> bool {
        let words = text.split([
            '=', ':', ' ', '\n', '\t', '&', '?', ',', ';', '"', '\'', '{', '}',
        ]);
        words
            .filter(|word| (1..=NAME_BYTES_MAX).contains(&word.len()))
            .any(|word| self.is_named(word))
    }
}

/// A name in lower case and without what separates words.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(_)) || value.as_str() == Some("")
}

/// Whether something in the text looks like a key, a token, or a password in a URL.
fn is_secret(text: &str) -> bool {
    if text.contains(KEY_BEGINNING) {
        return true;
    }
    let mut before = "";
    for word in text.split([
        ' ', '\n', '\t', '"', '\'', ',', ';', '(', ')', '<', '>', '=',
    ]) {
        if !word.is_empty()
            && (is_scheme(before) && word.len() >= 8 || is_token(word) || has_password(word))
        {
            return true;
        }
        if !word.is_empty() {
            before = word;
        }
    }
    false
}

/// Whether it is the name of a scheme after which credentials come.
fn is_scheme(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

fn is_token(word: &str) -> bool {
    let known = SECRET_BEGINNINGS
        .iter()
        .any(|beginning| word.starts_with(beginning) && word.len() >= beginning.len() + 12);
    // A JSON Web Token: its header is an object in Base64.
    let is_jwt = word.starts_with("eyJ") && word.matches('.').count() >= 2;
    let of_key = |c: char| c.is_ascii_alphanumeric() || "+/_-.~".contains(c);
    let is_key = word.len() >= KEY_CHARS_MIN
        && word.chars().all(of_key)
        && !word.contains("//")
        && word.bytes().any(|b| b.is_ascii_digit())
        && word.bytes().any(|b| b.is_ascii_lowercase())
        && word.bytes().any(|b| b.is_ascii_uppercase());
    // Such as SHA-256 of something, or a key in hexadecimal.
    let is_hex = word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    known || is_jwt || is_key || is_hex
}

/// `scheme://user:password@host`
fn has_password(word: &str) -> bool {
    word.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
    })
}

fn kinds(value: &Value) -> Value {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(kind(value))))
            .collect(),
        other => kind(other).into(),
    }
}

/// Leaves as much as there is room for.
fn cut(value: &mut Value, left: &mut usize) {
    match value {
        Value::String(text) => {
            if text.len() > *left {
                let mut end = *left;
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                text.push_str(CUT);
            }
            *left = left.saturating_sub(text.len() + 2);
        }
        Value::Array(items) => {
            let all = items.len();
            let mut kept = 0;
            for item in items.iter_mut() {
                if *left == 0 {
                    break;
                }
                cut(item, left);
                kept += 1;
            }
            items.truncate(kept);
            if kept < all {
                items.push(CUT.into());
            }
        }
        Value::Object(members) => {
            let mut over = Vec::new();
            for (name, value) in members.iter_mut() {
                if *left == 0 || name.len() > *left {
                    over.push(name.clone());
                    continue;
                }
                *left = left.saturating_sub(name.len() + 4);
                cut(value, left);
            }
            let any_over = !over.is_empty();
            for name in over {
                members.remove(&name);
            }
            if any_over {
                members.insert(CUT.to_owned(), CUT.into());
            }
        }
        other => *left = left.saturating_sub(other.to_string().len() + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redaction() -> Redaction {
        let members = ["ssn", "/patient/name", "/list/1"].map(str::to_owned);
        Redaction::new(&members, 4096)
    }

    fn full(value: &Value) -> Value {
        let shown = redaction().show(&value.to_string(), Detail::Full);
        serde_json::from_str(&shown).unwrap()
    }

    #[test]
    fn secrets_are_masked_by_name_by_look_and_by_wish() {
        for (given, shown) in [
            (
                json!({"path": "a/b.txt", "n": 5}),
                json!({"path": "a/b.txt", "n": 5}),
            ),
            (
                json!({"db": {"Pass-Word": "x", "user": "u"}}),
                json!({"db": {"Pass-Word": MASK, "user": "u"}}),
            ),
            (
                json!({"api_key": ["a", "b"], "tokens": 7}),
                json!({"api_key": MASK, "tokens": MASK}),
            ),
            (
                json!({"has_token": true, "secret": ""}),
                json!({"has_token": true, "secret": ""}),
            ),
            (
                json!({"a": {"SSN": "1"}, "patient": {"name": "Ana", "age": 5}}),
                json!({"a": {"SSN": MASK}, "patient": {"name": MASK, "age": 5}}),
            ),
            (json!({"list": ["a", "b"]}), json!({"list": ["a", MASK]})),
            (json!("eyJhbGciOiJI.eyJzdWIi.c2ln"), json!(MASK)),
            (json!(["call with Bearer abcdefgh12"]), json!([MASK])),
            (json!("ghp_abcdefghijklmnop"), json!(MASK)),
            (json!("postgres://me:pw@db/x"), json!(MASK)),
            (
                json!("https://example.com/a:b@c"),
                json!("https://example.com/a:b@c"),
            ),
            (json!("-----BEGIN PRIVATE KEY-----"), json!(MASK)),
            (json!("Zx9Kq2Lm8Vb4Nw7Rt1Yp5Hd3"), json!(MASK)),
            (json!("a".repeat(64)), json!(MASK)),
            (json!("mysql --password=hunter2"), json!(MASK)),
            (json!("the Authorization: header"), json!(MASK)),
            (
                json!("an ordinary sentence of words, long enough to be a key"),
                json!("an ordinary sentence of words, long enough to be a key"),
            ),
            (
                json!({"text": "{\"password\": \"hunter2\", \"n\": 1}"}),
                json!({"text": "{\"n\":1,\"password\":\"[redacted]\"}"}),
            ),
            (json!({"text": "{\"n\": 1}"}), json!({"text": "{\"n\": 1}"})),
            (json!({"ghp_abcdefghijklmnop": 1}), json!({MASK: MASK})),
        ] {
            assert_eq!(full(&given), shown, "{given}");
        }
    }

    #[test]
    fn of_a_line_only_secrets_are_masked() {
        for (given, shown) in [
            (
                "listening on  http://127.0.0.1:80",
                "listening on  http://127.0.0.1:80",
            ),
            ("401: invalid token", "401: invalid token"),
            ("the token is wrong", "the token is wrong"),
            ("password=hunter2 user=u", "password=[redacted] user=u"),
            ("API_KEY: hunter2 x", "API_KEY: [redacted] x"),
            (
                "run --token hunter2 --fast",
                "run --token [redacted] --fast",
            ),
            (
                "Authorization: Bearer hunter22",
                "Authorization: Bearer [redacted]",
            ),
            ("sent bearer hunter22", "sent bearer [redacted]"),
            ("key ghp_abcdefghijklmnop.", "key [redacted]"),
            ("GET http://x/?a=1&token=abc ok", "GET [redacted] ok"),
            ("postgres://me:pw@db/x failed", "[redacted] failed"),
            ("-----BEGIN PRIVATE KEY-----", "[redacted]"),
            (
                r#"{"msg":"x","password":"hunter2"}"#,
                r#"{"msg":"x","password":"[redacted]"}"#,
            ),
            (r#"{"msg":"up"}"#, r#"{"msg":"up"}"#),
            ("", ""),
        ] {
            assert_eq!(redaction().line(given), shown, "{given}");
        }
    }

    #[test]
    fn names_alone_are_shown_where_that_is_the_wish() {
        let given = json!({"path": "x", "n": 1, "o": {"deep": 1}, "l": [1], "z": null, "b": true});
        let shown = redaction().show(&given.to_string(), Detail::Keys);
        let want = json!({"path": "string", "n": "number", "o": "object", "l": "array", "z": "null", "b": "boolean"});
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), want);
    }

    #[test]
    fn what_is_shown_is_bounded_and_whole_json() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        for given in [
            json!("ä ".repeat(5000)),
            json!(vec!["item "; 5000]),
            json!(
                (0..5000)
                    .map(|n| (format!("k{n}"), json!(n)))
                    .collect::<serde_json::Map<_, _>>()
            ),
            json!({"k ".repeat(5000): 1}),
            deep,
        ] {
            let small = Redaction::new(&[], 256);
            let shown = small.show(&given.to_string(), Detail::Full);
            assert!(shown.len() < 1024, "{} bytes", shown.len());
            assert!(serde_json::from_str::<Value>(&shown).is_ok(), "{shown}");
        }
        let huge = format!("\"{}\"", "a ".repeat(READ_BYTES_MAX));
        assert_eq!(redaction().show(&huge, Detail::Full), "\"524290 bytes\"");
        assert_eq!(redaction().show("{", Detail::Full), "\"1 bytes\"");
    }
}

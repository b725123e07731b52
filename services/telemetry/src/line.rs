//! One log line: what every line begins with, and how text of strangers is written safely.
//!
//! A log line is read by machines, which must not be fooled by a line end in a value, and by people
//! in terminals, which act upon control characters, and show text in another order for some others.
//! Both kinds are escaped; letters of every script stay readable.

use std::{cell::RefCell, io};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

/// Longest text in a field that a client chose, in characters.
pub(crate) const TEXT_CHARS_MAX: usize = 256;
/// Longest explanation of a failure in an access line, in characters.
pub(crate) const DETAIL_CHARS_MAX: usize = 1024;
/// Longest message or field of an event, in characters.
pub(crate) const EVENT_CHARS_MAX: usize = 4096;

/// Buffers that one huge line enlarged are not kept.
const KEPT_CAPACITY_MAX: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Who writes the line; the same for a process's whole life.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) service: &'static str,
    pub(crate) instance: String,
    pub(crate) release: String,
}

/// Lends a reused buffer; a line written while another is being written gets a fresh one.
pub(crate) fn with_buffer<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.clear();
            let result = write(&mut buffer);
            if buffer.capacity() > KEPT_CAPACITY_MAX {
                *buffer = Vec::new();
            }
            result
        }
        Err(_) => write(&mut Vec::new()),
    })
}

/// Appends `value` as one line of JSON.
pub(crate) fn write_json(
    buffer: &mut Vec<u8>,
    value: &impl Serialize,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *buffer,
        Escaping,
    ))?;
    buffer.push(b'\n');
    Ok(())
}

/// Appends `text` for a terminal, with what [`is_unsafe`] escaped as in Rust (`\n`, `\u{1b}`).
pub(crate) fn write_plain(buffer: &mut Vec<u8>, text: &str, chars_max: usize) {
    let (text, cut) = bounded(text, chars_max);
    for c in text.chars() {
        let mut utf8 = [0; 4];
        if is_unsafe(c) {
            buffer.extend(c.escape_default().map(|c| c as u8));
        } else {
            buffer.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
    }
    if cut {
        buffer.extend_from_slice("…".as_bytes());
    }
}

/// Appends ` name=text`, quoted where the text could be taken for further fields.
pub(crate) fn write_field(buffer: &mut Vec<u8>, name: &str, text: &str, chars_max: usize) {
    buffer.push(b' ');
    buffer.extend_from_slice(name.as_bytes());
    buffer.push(b'=');
    write_word(buffer, text, chars_max);
}

/// Appends text as one word: in quotes if it holds a space, a quote or an equals sign.
pub(crate) fn write_word(buffer: &mut Vec<u8>, text: &str, chars_max: usize) {
    if text.contains([' ', '"', '=']) {
        buffer.push(b'"');
        write_plain(buffer, &text.replace('"', "\\\""), chars_max);
        buffer.push(b'"');
    } else {
        write_plain(buffer, text, chars_max);
    }
}

/// Text cut to a number of characters, and whether anything was cut.
pub(crate) fn bounded(text: &str, chars_max: usize) -> (&str, bool) {
    if text.len() <= chars_max {
        return (text, false);
    }
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

/// Text that serializes cut, with `…` in place of the rest.
pub(crate) struct Bounded<'a, const CHARS_MAX: usize>(pub(crate) &'a str);

impl<const CHARS_MAX: usize> Serialize for Bounded<'_, CHARS_MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match bounded(self.0, CHARS_MAX) {
            (text, false) => serializer.serialize_str(text),
            (text, true) => serializer.collect_str(&format_args!("{text}…")),
        }
    }
}

/// The time of a line: RFC 3339, UTC, microseconds.
pub(crate) struct Now;

impl Serialize for Now {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", jiff::Timestamp::now()))
    }
}

/// Compact JSON that also escapes what a terminal may act upon.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Control characters, line separators, and characters that change the order of text. All of them
/// lie below U+10000, so that four digits name them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> String {
        let mut buffer = Vec::new();
        write_json(&mut buffer, &Bounded::<8>(text)).unwrap();
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn what_a_terminal_acts_upon_is_escaped_and_letters_are_not() {
        for (text, expect) in [
            ("plain", r#""plain""#),
            ("a\"\n\x1b[1m", r#""a\"\n\u001b[1m""#),
            ("\u{7f}\u{9b}\u{202e}x", r#""\u007f\u009b\u202ex""#),
            ("naïve ☃", r#""naïve ☃""#),
            ("12345678", r#""12345678""#),
            ("123456789", r#""12345678…""#),
            ("ééééééééé", r#""éééééééé…""#),
        ] {
            assert_eq!(json(text), format!("{expect}\n"), "{text:?}");
        }
    }

    #[test]
    fn plain_text_stays_on_its_line() {
        let mut buffer = Vec::new();
        write_plain(&mut buffer, "a\nb\x1b[31m ü \u{202e}", 100);
        assert_eq!(
            String::from_utf8(buffer).unwrap(),
            r"a\nb\u{1b}[31m ü \u{202e}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_one_safe_line_and_reads_back(text in any::<String>()) {
            let mut buffer = Vec::new();
            write_json(&mut buffer, &text).unwrap();
            let line = String::from_utf8(buffer).unwrap();
            prop_assert!(!line.trim_end_matches('\n').chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}

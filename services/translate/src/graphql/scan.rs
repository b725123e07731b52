//! A look at a document's characters before it is parsed.
//!
//! The parser recurses on brackets and has no bound on tokens, so both are counted here first, in one pass
//! that needs no memory. The pass also settles what the parser cannot: `\uD83D\uDE00`, a character escaped
//! as two halves, is put in as itself, and half a character is refused.

use std::borrow::Cow;

use super::error::{Error, LIMIT_EXCEEDED, Location, PARSE_FAILED};
use super::limits::{Limits, NESTING_MAX};

/// Counts a document's tokens and brackets.
pub(super) fn scan<'a>(document: &'a str, limits: &Limits) -> Result<Cow<'a, str>, Error> {
    if document.len() > limits.document_bytes_max {
        let text = format!(
            "The document has more than {} bytes.",
            limits.document_bytes_max
        );
        return Err(Error::new(LIMIT_EXCEEDED, text));
    }
    let mut scanner = Scanner {
        document,
        at: 0,
        open: 0,
        tokens: 0,
        rewritten: String::new(),
        copied: 0,
    };
    scanner.run(limits)?;
    if scanner.copied == 0 {
        return Ok(Cow::Borrowed(document));
    }
    scanner.rewritten.push_str(&document[scanner.copied..]);
    Ok(Cow::Owned(scanner.rewritten))
}

struct Scanner<'a> {
    document: &'a str,
    at: usize,
    open: usize,
    tokens: usize,
    /// The document up to `copied`, when something in it had to be replaced.
    rewritten: String,
    copied: usize,
}

impl Scanner<'_> {
    fn run(&mut self, limits: &Limits) -> Result<(), Error> {
        while let Some(byte) = self.peek(0) {
            let start = self.at;
            self.at += 1;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => continue,
                b'#' => {
                    self.skip_while(|b| b != b'\n' && b != b'\r');
                    continue;
                }
                b'{' | b'[' | b'(' => {
                    self.open += 1;
                    if self.open > NESTING_MAX {
                        let text = format!("More than {NESTING_MAX} brackets are open.");
                        return Err(self.error(LIMIT_EXCEEDED, text, start));
                    }
                }
                b'}' | b']' | b')' => self.open = self.open.saturating_sub(1),
                b'"' => self.string(start)?,
                b if is_word(b) => self.skip_while(is_word),
                _ => {}
            }
            self.tokens += 1;
            if self.tokens > limits.tokens_max {
                let text = format!("The document has more than {} tokens.", limits.tokens_max);
                return Err(self.error(LIMIT_EXCEEDED, text, start));
            }
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.document.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.at += 1;
        }
    }

    /// The rest of a string whose first quote is read. One that does not end is left to the parser to refuse.
    fn string(&mut self, start: usize) -> Result<(), Error> {
        if self.rest().starts_with(b"\"\"") {
            self.at += 2;
            while !self.rest().is_empty() {
                let rest = self.rest();
                if rest.starts_with(b"\\\"\"\"") {
                    self.at += 4;
                } else if rest.starts_with(b"\"\"\"") {
                    self.at += 3;
                    return Ok(());
                } else {
                    self.at += 1;
                }
            }
            return Ok(());
        }
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\n' | b'\r' => return Ok(()),
                b'\\' if self.peek(1) == Some(b'u') => self.escape(start)?,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    /// `\uXXXX`: a half of a character must be followed by its other half, and both become that character.
    fn escape(&mut self, string: usize) -> Result<(), Error> {
        let begin = self.at;
        let Some(first) = self.hex(2) else {
            self.at += 2;
            return Ok(());
        };
        self.at += 6;
        if !(0xD800..0xE000).contains(&first) {
            return Ok(());
        }
        let second = if self.rest().starts_with(b"\\u") {
            self.hex(2)
        } else {
            None
        };
        let whole = second.and_then(|second| {
            let pair = [u16::try_from(first).ok()?, u16::try_from(second).ok()?];
            char::decode_utf16(pair).next()?.ok()
        });
        let Some(whole) = whole else {
            return Err(self.error(
                PARSE_FAILED,
                "Half a character is escaped without its other half.",
                string,
            ));
        };
        self.at += 6;
        self.rewritten.push_str(&self.document[self.copied..begin]);
        self.rewritten.push(whole);
        self.copied = self.at;
        Ok(())
    }

    fn hex(&self, ahead: usize) -> Option<u32> {
        let begin = self.at + ahead;
        let digits = self.document.as_bytes().get(begin..begin + 4)?;
        digits.iter().try_fold(0, |sum, digit| {
            Some(sum * 16 + char::from(*digit).to_digit(16)?)
        })
    }

    fn rest(&self) -> &[u8] {
        self.document.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn error(&self, code: &'static str, text: impl Into<String>, at: usize) -> Error {
        Error::new(code, text).at(locate(self.document, at))
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// The line and column of a byte, both from 1.
fn locate(document: &str, at: usize) -> Location {
    let before = document.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    Location {
        line,
        column: before[begin..].chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(tokens_max: usize) -> Limits {
        Limits {
            tokens_max,
            ..Limits::default()
        }
    }

    #[test]
    fn tokens_are_counted() {
        for (document, tokens) in [
            ("{ a }", 3),
            ("{a(b:\"x y { \\\" z\")}", 8),
            ("# { { {\n{a}", 3),
            ("{a(b: \"\"\"{ \\\"\"\" \" {\"\"\")}", 8),
            ("", 0),
        ] {
            assert!(scan(document, &limits(tokens)).is_ok(), "{document}");
            if tokens > 0 {
                let error = scan(document, &limits(tokens - 1)).unwrap_err();
                assert_eq!(error.extensions.code, LIMIT_EXCEEDED, "{document}");
            }
        }
    }

    #[test]
    fn deep_brackets_are_refused_where_they_are() {
        let document = format!("{{\n  a{}", "[".repeat(10_000));
        let error = scan(&document, &limits(usize::MAX)).unwrap_err();
        let column = 3 + NESTING_MAX;
        assert_eq!(error.locations, [Location { line: 2, column }]);
    }

    #[test]
    fn escaped_halves_become_whole_or_are_refused() {
        let max = limits(100);
        assert_eq!(
            scan(r#"{a(b:"x\uD83D\uDE00y")}"#, &max).unwrap(),
            r#"{a(b:"x😀y")}"#
        );
        assert_eq!(
            scan(r#"{a(b:"\u00e9")}"#, &max).unwrap(),
            r#"{a(b:"\u00e9")}"#
        );
        for half in [
            r#"{a(b:"\uD83D")}"#,
            r#"{a(b:"\uDE00\uD83D")}"#,
            r#"{a(b:"\uD83D\u0041")}"#,
        ] {
            assert_eq!(
                scan(half, &max).unwrap_err().extensions.code,
                PARSE_FAILED,
                "{half}"
            );
        }
    }
}

//! Server-sent events: written whole, read from chunks that break anywhere.
//!
//! The reader keeps at most one event and bounds it, so a server that never ends a line costs no memory.
//! See <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::fmt::Write as _;

/// Largest event that is read, in bytes: name, id and data together.
pub const EVENT_BYTES_MAX: usize = 16 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// `id`: where to resume after.
    pub id: Option<String>,
    /// `event`: its kind; `message` when absent.
    pub name: Option<String>,
    /// `data`: the lines, joined by line feeds.
    pub data: String,
    /// `retry`: milliseconds to wait before connecting anew.
    pub retry_ms: Option<u64>,
}

impl Event {
    /// A message without id.
    #[must_use]
    pub fn message(data: impl Into<String>) -> Event {
        Event {
            data: data.into(),
            ..Event::default()
        }
    }

    /// Adds an id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Event {
        self.id = Some(id.into());
        self
    }

    /// Writes the event as it goes over the wire. Line ends within id and name are dropped: they would
    /// begin a field of somebody's choice.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(self.data.len() + 32);
        let mut field = |name: &str, value: &str| {
            let clean: String = value
                .chars()
                .filter(|c| !matches!(c, '\r' | '\n' | '\0'))
                .collect();
            let _ = writeln!(text, "{name}: {clean}");
        };
        if let Some(name) = &self.name {
            field("event", name);
        }
        if let Some(id) = &self.id {
            field("id", id);
        }
        if let Some(retry) = self.retry_ms {
            field("retry", &retry.to_string());
        }
        let one_kind = self.data.replace("\r\n", "\n").replace('\r', "\n");
        for line in one_kind.split('\n') {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
        text
    }
}

/// A comment, which keeps a connection from looking idle.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line or event exceeds the bound.
    #[error("an event exceeds {0} bytes")]
    TooLarge(usize),
    /// Not UTF-8.
    #[error("the event stream is not UTF-8")]
    NotUtf8,
}

/// Reads events from chunks.
#[derive(Debug)]
pub struct Decoder {
    bytes_max: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last chunk ended in a carriage return; a line feed that follows belongs to it.
    after_return: bool,
    /// Nothing was read yet: a byte order mark may come.
    at_start: bool,
    event: Event,
    /// A `data` field was seen: an event without one is none.
    has_data: bool,
    event_bytes: usize,
    last_id: Option<String>,
    retry_ms: Option<u64>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new(EVENT_BYTES_MAX)
    }
}

impl Decoder {
    /// A reader that takes events of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Decoder {
        Decoder {
            bytes_max,
            line: Vec::new(),
            after_return: false,
            at_start: true,
            event: Event::default(),
            has_data: false,
            event_bytes: 0,
            last_id: None,
            retry_ms: None,
        }
    }

    /// Reads a chunk; the events that end within it, in order. What has not ended waits for the next.
    ///
    /// # Errors
    /// The stream is of no use any more after any error.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        let mut rest = chunk;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
            self.extend(&rest[..end])?;
            let is_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_return {
                match rest.first() {
                    None => self.after_return = true,
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                }
            }
            events.extend(self.end_line()?);
        }
        self.extend(rest)?;
        Ok(events)
    }

    /// The id of the last event that had one: what `Last-Event-ID` repeats.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The newest `retry`, of whichever event: milliseconds to wait before connecting anew.
    #[must_use]
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.event_bytes + self.line.len() + bytes.len() > self.bytes_max {
            return Err(SseError::TooLarge(self.bytes_max));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, SseError> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&bytes).map_err(|_| SseError::NotUtf8)?;
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.end_event());
        }
        self.event_bytes += line.len() + 1;
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => self.event.name = (!value.is_empty()).then(|| value.to_owned()),
            "id" if !value.contains('\0') => {
                self.event.id = Some(value.to_owned());
                self.last_id = Some(value.to_owned());
            }
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => {
                self.event.retry_ms = value.parse().ok();
                self.retry_ms = self.event.retry_ms.or(self.retry_ms);
            }
            // A comment, or a field that nobody defined.
            _ => {}
        }
        Ok(None)
    }

    fn end_event(&mut self) -> Option<Event> {
        self.event_bytes = 0;
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `id|name|data|retry` of each event.
    fn read(chunks: &[&str]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let events = chunks
            .iter()
            .flat_map(|chunk| decoder.push(chunk.as_bytes()).unwrap());
        events
            .map(|e| {
                let retry = e.retry_ms.map(|r| r.to_string()).unwrap_or_default();
                format!(
                    "{}|{}|{}|{retry}",
                    e.id.unwrap_or_default(),
                    e.name.unwrap_or_default(),
                    e.data
                )
            })
            .collect()
    }

    #[test]
    fn streams_are_read_as_the_standard_has_it() {
        for (stream, expected) in [
            ("data: a\n\n", &["||a|"][..]),
            ("data:a\r\ndata: b\r\n\r\n", &["||a\nb|"]),
            ("data: a\r\rdata: b\r\r", &["||a|", "||b|"]),
            (
                "\u{feff}id: 7\nevent: e\nretry: 30\ndata:  x\n\n",
                &["7|e| x|30"],
            ),
            (": comment\n\ndata\n\n", &["|||"]),
            ("id: 1\ndata:\n\n", &["1|||"]),
            ("id: 1\n\ndata: a\n\n", &["||a|"]),
            ("retry: soon\nid: a\0b\nunknown: 1\ndata: a\n\n", &["||a|"]),
            ("data: never ends\n", &[]),
        ] {
            assert_eq!(read(&[stream]), expected, "{stream:?}");
            let one_by_one: Vec<String> = stream.chars().map(String::from).collect();
            let one_by_one: Vec<&str> = one_by_one.iter().map(String::as_str).collect();
            assert_eq!(read(&one_by_one), expected, "{stream:?} in pieces");
        }
    }

    #[test]
    fn the_last_id_and_retry_outlive_their_event() {
        let mut decoder = Decoder::default();
        decoder.push(b"id: 5\nretry: 9\n\ndata: a\n\n").unwrap();
        assert_eq!(
            (decoder.last_id(), decoder.retry_ms()),
            (Some("5"), Some(9))
        );
    }

    #[test]
    fn a_line_or_event_without_end_is_refused() {
        for (chunk, times) in [("x", 20), ("data: 12345\n", 3)] {
            let mut decoder = Decoder::new(16);
            let refused = (0..times).find_map(|_| decoder.push(chunk.as_bytes()).err());
            assert_eq!(refused, Some(SseError::TooLarge(16)), "{chunk:?}");
        }
        let mut small = Decoder::new(16);
        for _ in 0..100 {
            assert_eq!(small.push(b"data: 1234\n\n").unwrap().len(), 1);
        }
        assert_eq!(small.push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    #[test]
    fn nobody_smuggles_a_field() {
        let event = Event {
            id: Some("1\ndata: evil".into()),
            name: Some("a\r\nb".into()),
            data: "x\r\ny\rz".into(),
            retry_ms: None,
        };
        assert_eq!(
            event.encode(),
            "event: ab\nid: 1data: evil\ndata: x\ndata: y\ndata: z\n\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(data in "[^\r\0]{0,80}", id in "[a-z0-9]{0,8}", cut in any::<prop::sample::Index>()) {
            let event = Event::message(data).with_id(id);
            let text = event.encode();
            let (head, tail) = text.as_bytes().split_at(cut.index(text.len()));
            let mut decoder = Decoder::default();
            let mut events = decoder.push(head).unwrap();
            events.extend(decoder.push(tail).unwrap());
            prop_assert_eq!(events, vec![event]);
        }
    }
}

//! Server-sent events: bytes to the data of each event. Pure and bounded.

/// Splits a stream of bytes into events, whatever pieces it comes in.
#[derive(Debug)]
pub struct EventReader {
    limit: usize,
    /// Of the line under way.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte ended a line as a carriage return: a line feed after it ends none.
    after_return: bool,
}

/// An event is larger than is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl EventReader {
    /// Takes events whose data has at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_return: false,
        }
    }

    /// Takes in bytes, and hands the data of each event that they complete to `event`.
    ///
    /// # Errors
    /// [`TooLong`] when an event is larger than the limit; the stream cannot be read on.
    pub fn feed(&mut self, bytes: &[u8], mut event: impl FnMut(Vec<u8>)) -> Result<(), TooLong> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    if let Some(data) = self.end_line() {
                        event(data);
                    }
                }
                _ => self.line.push(byte),
            }
            // A field's name and its colon come on top of the data.
            if self.line.len() + self.data.len() > self.limit.saturating_add(8) {
                return Err(TooLong);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let whole = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(whole);
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        if let Some(value) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_come() {
        let stream = b"\xef\xbb\xbf: hello\r\nid: 1\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nevent: x\n\ndata\n\rdata: two\r\rdata: lost";
        for size in 1..stream.len() {
            let (mut reader, mut events) = (EventReader::new(100), Vec::new());
            for piece in stream.chunks(size) {
                reader
                    .feed(piece, |data| events.push(String::from_utf8(data).unwrap()))
                    .unwrap();
            }
            assert_eq!(events, ["{\"a\":\n1}", "two"], "pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut reader = EventReader::new(100);
        assert_eq!(reader.feed(&[b'x'; 200], |_| {}), Err(TooLong));
        let mut reader = EventReader::new(100);
        assert_eq!(
            reader.feed(&b"data: 0123456789\n".repeat(20), |_| {}),
            Err(TooLong)
        );
    }
}

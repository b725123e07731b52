//! Bytes to lines, with a bound: the frame of MCP over pipes.
//!
//! A line that is too long is not kept, but its ends are: a JSON-RPC response has its id at one of them, so the one call
//! that it answers can be failed and the others go on.

/// How much of each end of a line that is too long is kept, in bytes.
pub const END_BYTES: usize = 128;

/// One line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line; never empty, blanks at its ends removed.
    Whole(&'a [u8]),
    /// A line longer than the limit.
    TooLong {
        /// Its first bytes.
        head: &'a [u8],
        /// Its last bytes.
        tail: &'a [u8],
    },
}

/// Splits a stream of chunks into lines. Holds at most the limit of one line.
#[derive(Debug)]
pub struct LineSplitter {
    limit: usize,
    partial: Vec<u8>,
    /// The last bytes of a line whose beginning was given up; `partial` then keeps its head.
    overflow: Option<Vec<u8>>,
}

impl LineSplitter {
    /// Makes a splitter for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
            overflow: None,
        }
    }

    /// Takes the next bytes and gives every line that they complete to `emit`.
    pub fn feed(&mut self, mut chunk: &[u8], mut emit: impl FnMut(Line<'_>)) {
        while let Some(end) = chunk.iter().position(|&byte| byte == b'\n') {
            let (rest, next) = (&chunk[..end], &chunk[end + 1..]);
            if self.partial.is_empty() && self.overflow.is_none() && rest.len() <= self.limit {
                whole(rest, &mut emit);
            } else {
                self.keep(rest);
                self.finish(&mut emit);
            }
            chunk = next;
        }
        self.keep(chunk);
    }

    /// Ends the stream: what is left without a line feed is the last line.
    pub fn finish(&mut self, mut emit: impl FnMut(Line<'_>)) {
        match self.overflow.take() {
            None => whole(&self.partial, &mut emit),
            Some(tail) => emit(Line::TooLong {
                head: &self.partial,
                tail: &tail,
            }),
        }
        self.partial.clear();
        // One huge line must not hold its memory for ever.
        self.partial.shrink_to(64 << 10);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overflow.is_none() {
            if self.partial.len() + bytes.len() <= self.limit {
                self.partial.extend_from_slice(bytes);
                return;
            }
            let from = self.partial.len().saturating_sub(END_BYTES);
            self.overflow = Some(self.partial[from..].to_vec());
            let room = END_BYTES.saturating_sub(self.partial.len());
            self.partial
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.partial.truncate(END_BYTES);
            self.partial.shrink_to(END_BYTES);
        }
        if let Some(tail) = &mut self.overflow {
            tail.extend_from_slice(&bytes[bytes.len().saturating_sub(END_BYTES)..]);
            let surplus = tail.len().saturating_sub(END_BYTES);
            tail.drain(..surplus);
        }
    }
}

fn whole(line: &[u8], emit: &mut impl FnMut(Line<'_>)) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        emit(Line::Whole(line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(limit: usize, chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        let mut show = |line: Line<'_>| {
            lines.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong { head, tail } => {
                    format!("{}…{}", head.escape_ascii(), tail.escape_ascii())
                }
            });
        };
        for chunk in chunks {
            splitter.feed(chunk, &mut show);
        }
        splitter.finish(&mut show);
        lines
    }

    #[test]
    fn lines_come_out_whatever_the_chunks() {
        for (chunks, lines) in [
            (vec!["a\nb\n"], vec!["a", "b"]),
            (vec!["a", "b", "\r\nc"], vec!["ab", "c"]),
            (vec!["\n\n  \n", "x\n"], vec!["x"]),
            (
                vec!["0123456789\n", "ok\n"],
                vec!["0123456789…0123456789", "ok"],
            ),
            (
                vec!["01234", "56789", "\nok\n"],
                vec!["0123456789…0123456789", "ok"],
            ),
        ] {
            let chunks: Vec<&[u8]> = chunks.into_iter().map(str::as_bytes).collect();
            assert_eq!(split(8, &chunks), lines);
        }
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing_and_memory_is_bounded(
            text in proptest::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..600),
            cuts in proptest::collection::vec(1usize..40, 1..80),
        ) {
            let mut chunks = Vec::new();
            let (mut rest, mut cuts) = (text.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, next) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                chunks.push(chunk);
                rest = next;
            }
            prop_assert_eq!(split(150, &chunks), split(150, &[&text]));
        }
    }
}

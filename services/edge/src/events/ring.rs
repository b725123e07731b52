//! The latest events of one principal, or of all, each at its place. Pure.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

/// Most events that are kept.
pub const EVENTS_MAX: usize = 256;
/// Most bytes that are kept; a larger event is told of as missed.
pub const BYTES_MAX: usize = 64 << 10;

/// Where an event stands among those of its ring: milliseconds since 1970, then a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    ms: u64,
    number: u64,
}

impl Place {
    /// Reads [`Place::fmt`] back.
    pub fn parse(text: &str) -> Option<Place> {
        let (ms, number) = text.split_once('-')?;
        let digits = |text: &str| -> Option<u64> {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| text.parse().ok()).flatten()
        };
        Some(Place {
            ms: digits(ms)?,
            number: digits(number)?,
        })
    }

    /// A place in time: before all that comes then.
    pub fn at(ms: u64) -> Place {
        Place { ms, number: 0 }
    }

    /// The next place, no earlier than `now_ms`.
    fn next(self, now_ms: u64) -> Place {
        if now_ms > self.ms {
            return Place {
                ms: now_ms,
                number: 0,
            };
        }
        Place {
            ms: self.ms,
            number: self.number + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// What comes after a place is not all here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed;

/// The latest events.
#[derive(Debug)]
pub struct Ring {
    entries: VecDeque<(Place, Bytes)>,
    bytes: usize,
    /// All that came after this is here.
    from: Place,
    last: Place,
}

impl Ring {
    /// Nothing yet.
    pub fn new(now_ms: u64) -> Ring {
        let now = Place::at(now_ms);
        Ring {
            entries: VecDeque::new(),
            bytes: 0,
            from: now,
            last: now,
        }
    }

    /// Where the next event comes after.
    pub fn last(&self) -> Place {
        self.last
    }

    /// Adds an event.
    pub fn push(&mut self, now_ms: u64, message: Bytes) {
        self.add(self.last.next(now_ms), message);
    }

    /// Adds an event that has its place already; one that is not after all others is known.
    pub fn insert(&mut self, place: Place, message: Bytes) -> bool {
        let is_new = place > self.last;
        if is_new {
            self.add(place, message);
        }
        is_new
    }

    /// Puts what is kept elsewhere before what has come since; all after `from` is there.
    pub fn load(&mut self, from: Place, kept: Vec<(Place, Bytes)>) {
        let since = std::mem::take(&mut self.entries);
        (self.bytes, self.from, self.last) = (0, from, from);
        for (place, message) in kept.into_iter().chain(since) {
            self.insert(place, message);
        }
    }

    /// Forgets all: something was missed that cannot be had any more.
    pub fn lose(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.from = Place {
            ms: u64::MAX,
            number: u64::MAX,
        };
    }

    fn add(&mut self, place: Place, message: Bytes) {
        self.last = place;
        self.bytes += message.len();
        self.entries.push_back((place, message));
        while self.entries.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some((place, message)) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= message.len();
            self.from = place;
        }
    }

    /// The first event after a place.
    ///
    /// # Errors
    /// [`Missed`] when it is not kept any more, or the place is none that there was.
    pub fn after(&self, place: Place) -> Result<Option<(Place, Bytes)>, Missed> {
        if place < self.from || place > self.last {
            return Err(Missed);
        }
        let at = self.entries.partition_point(|(known, _)| *known <= place);
        Ok(self.entries.get(at).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ring: &Ring, mut place: Place) -> Result<Vec<Bytes>, Missed> {
        let mut read = Vec::new();
        while let Some((at, message)) = ring.after(place)? {
            assert!(at > place);
            place = at;
            read.push(message);
        }
        Ok(read)
    }

    #[test]
    fn events_are_read_from_any_place_that_is_kept() {
        let mut ring = Ring::new(1000);
        let begin = ring.last();
        assert_eq!(read(&ring, begin), Ok(vec![]));
        // The clock may stand still, or go back.
        for (now, message) in [(1000, "a"), (1000, "b"), (900, "c"), (2000, "d")] {
            ring.push(now, message.into());
        }
        assert_eq!(read(&ring, begin).unwrap(), ["a", "b", "c", "d"]);
        let (second, _) = ring
            .after(ring.after(begin).unwrap().unwrap().0)
            .unwrap()
            .unwrap();
        assert_eq!(read(&ring, second).unwrap(), ["c", "d"]);
        assert_eq!(read(&ring, ring.last()).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_not_kept_is_missed() {
        let mut ring = Ring::new(5);
        let begin = ring.last();
        for n in 0..EVENTS_MAX {
            ring.push(6, n.to_string().into());
        }
        assert_eq!(read(&ring, begin).unwrap().len(), EVENTS_MAX);
        ring.push(7, "one more".into());
        assert_eq!(read(&ring, begin), Err(Missed));
        let before = ring.last();
        ring.push(8, vec![b'x'; BYTES_MAX + 1].into());
        assert_eq!(read(&ring, before), Err(Missed), "too large to be kept");
        ring.push(9, "small".into());
        let known = Place::parse("8-0").unwrap();
        assert_eq!(read(&ring, known).unwrap(), ["small"]);
        for elsewhere in ["4-0", "99-0"] {
            let place = Place::parse(elsewhere).unwrap();
            assert_eq!(read(&ring, place), Err(Missed), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_kept_elsewhere_stands_before_what_came_since() {
        let place = |ms| Place::at(ms);
        let mut ring = Ring::new(0);
        assert!(ring.insert(place(30), "c".into()));
        assert!(!ring.insert(place(30), "c".into()), "told twice");
        let kept = [(place(20), "b".into()), (place(30), "c".into())];
        ring.load(place(10), kept.into());
        ring.insert(place(40), "d".into());
        assert_eq!(read(&ring, place(10)).unwrap(), ["b", "c", "d"]);
        assert_eq!(read(&ring, place(9)), Err(Missed));
        ring.lose();
        assert_eq!(read(&ring, place(40)), Err(Missed));
    }

    #[test]
    fn places_are_ours_or_nothing() {
        let place = Place { ms: 12, number: 3 };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for text in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "1-x",
            "+1-2",
            "1--2",
            "99999999999999999999-1",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}

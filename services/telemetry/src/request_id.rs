//! The name of a request in every log line, span, header and error.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// Longest `X-Request-ID` that is kept.
pub const REQUEST_ID_CHARS_MAX: usize = 128;

/// A client's own valid id, or a fresh UUIDv7. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Keeps the value of `X-Request-ID` if it has 1 to [`REQUEST_ID_CHARS_MAX`] visible ASCII
    /// characters; makes a fresh id otherwise.
    pub fn accept(header: Option<&[u8]>) -> Self {
        header.and_then(Self::parse).unwrap_or_else(Self::fresh)
    }

    /// A new UUIDv7: sorts by time, so that logs of one period lie together.
    pub fn fresh() -> Self {
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(
            &*Uuid::now_v7().hyphenated().encode_lower(&mut text),
        ))
    }

    /// The value, if it is a valid id.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let valid = (1..=REQUEST_ID_CHARS_MAX).contains(&value.len())
            && value.iter().all(u8::is_ascii_graphic);
        valid
            .then(|| std::str::from_utf8(value).ok())?
            .map(|text| Self(text.into()))
    }

    /// The id as it is written in headers and logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for RequestId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_03_a_valid_id_is_kept_and_any_other_replaced() {
        let longest = "x".repeat(REQUEST_ID_CHARS_MAX);
        for kept in ["a", "0190-abc/DEF.~!", &longest] {
            assert_eq!(RequestId::accept(Some(kept.as_bytes())).as_str(), kept);
        }
        let too_long = "x".repeat(REQUEST_ID_CHARS_MAX + 1);
        for refused in [
            "",
            "two words",
            "tab\t",
            "line\r\nend",
            "\u{7f}",
            "é",
            &too_long,
        ] {
            let id = RequestId::accept(Some(refused.as_bytes()));
            assert_eq!(
                Uuid::parse_str(id.as_str()).unwrap().get_version_num(),
                7,
                "{refused:?}"
            );
        }
    }

    #[test]
    fn fresh_ids_differ_and_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| RequestId::fresh().to_string()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

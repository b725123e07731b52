//! W3C Trace Context (Level 1) and Baggage: reading them strictly, and passing them on.

use std::{fmt::Write as _, sync::Arc};

use http::HeaderMap;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use super::state::{baggage, tracestate};

/// `00-{32 hex}-{16 hex}-{2 hex}`
const TRACEPARENT_LEN: usize = 55;

/// Where in a trace something happens: the trace, this span, and its parent. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    parent_id: Option<SpanId>,
    /// Whether this span itself is in another process.
    remote: bool,
    parent_is_remote: bool,
    sampled: bool,
    tracestate: Option<Arc<str>>,
    baggage: Option<Arc<str>>,
}

impl TraceContext {
    /// A trace that begins here.
    pub fn new_root(sampled: bool) -> Self {
        Self {
            trace_id: fresh_trace_id(),
            span_id: fresh_span_id(),
            parent_id: None,
            remote: false,
            parent_is_remote: false,
            sampled,
            tracestate: None,
            baggage: None,
        }
    }

    /// The caller's context, from its headers. `None` without exactly one valid `traceparent`; what
    /// is invalid in the other two headers is left out.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let parent = parents.next()?.to_str().ok()?;
        if parents.next().is_some() {
            return None;
        }
        Self::from_text(
            Some(parent),
            joined(headers, "tracestate").as_deref(),
            joined(headers, "baggage").as_deref(),
        )
    }

    /// The caller's context, from the same values elsewhere, such as MCP's `_meta`.
    pub fn from_text(
        traceparent: Option<&str>,
        tracestate: Option<&str>,
        baggage: Option<&str>,
    ) -> Option<Self> {
        let (trace_id, span_id, sampled) = parse_traceparent(traceparent?)?;
        Some(Self {
            trace_id,
            span_id,
            parent_id: None,
            remote: true,
            parent_is_remote: false,
            sampled,
            tracestate: tracestate.and_then(self::tracestate),
            baggage: baggage.and_then(self::baggage),
        })
    }

    /// The context in which a request is served: a child of the caller's, or else a trace of its own,
    /// sampled if `sample` says so of its id. Baggage is kept either way.
    pub fn accept(headers: &HeaderMap, sample: impl FnOnce(TraceId) -> bool) -> Self {
        if let Some(caller) = Self::from_headers(headers) {
            return caller.child();
        }
        let mut root = Self::new_root(false);
        root.sampled = sample(root.trace_id);
        root.baggage = joined(headers, "baggage")
            .as_deref()
            .and_then(self::baggage);
        root
    }

    /// The context of something that happens within this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span_id: fresh_span_id(),
            parent_id: Some(self.span_id),
            remote: false,
            parent_is_remote: self.remote,
            ..self.clone()
        }
    }

    /// The trace's id; prints as 32 hex digits.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// This span's id; prints as 16 hex digits.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The id of the span this one is a child of.
    pub fn parent_id(&self) -> Option<SpanId> {
        self.parent_id
    }

    /// Whether the parent is in another process.
    pub fn parent_is_remote(&self) -> bool {
        self.parent_is_remote
    }

    /// Whether the trace's spans are to be recorded.
    pub fn sampled(&self) -> bool {
        self.sampled
    }

    /// `traceparent` for what is called from this span. The response header `traceresponse` has the
    /// same form.
    pub fn traceparent(&self) -> String {
        let mut value = String::with_capacity(TRACEPARENT_LEN);
        // Writing to a string cannot fail.
        let _ = write!(
            value,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        );
        value
    }

    /// `tracestate` as it came, if it was valid.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// `baggage` as it came, without invalid entries.
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }

    /// The headers for what is called from this span.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("traceparent", Some(self.traceparent())),
            ("tracestate", self.tracestate().map(str::to_owned)),
            ("baggage", self.baggage().map(str::to_owned)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

fn fresh_trace_id() -> TraceId {
    std::iter::repeat_with(|| RandomIdGenerator::default().new_trace_id())
        .find(|id| *id != TraceId::INVALID)
        .unwrap_or(TraceId::INVALID)
}

fn fresh_span_id() -> SpanId {
    std::iter::repeat_with(|| RandomIdGenerator::default().new_span_id())
        .find(|id| *id != SpanId::INVALID)
        .unwrap_or(SpanId::INVALID)
}

/// Several headers of one name are one list (RFC 9110, 5.3); one unreadable value spoils it.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Result<Vec<_>, _> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str())
        .collect();
    values
        .ok()
        .filter(|values| !values.is_empty())
        .map(|values| values.join(","))
}

/// Version 00 exactly; of a later version, the part that looks like version 00.
fn parse_traceparent(value: &str) -> Option<(TraceId, SpanId, bool)> {
    let bytes = value.as_bytes();
    if bytes.len() < TRACEPARENT_LEN || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let version = hex(&bytes[..2])?;
    let later = version > 0 && bytes.get(TRACEPARENT_LEN).is_none_or(|&byte| byte == b'-');
    if version == 0xff || !(later || bytes.len() == TRACEPARENT_LEN) {
        return None;
    }
    let trace_id = TraceId::from(hex(&bytes[3..35])?);
    let span_id = SpanId::from(u64::try_from(hex(&bytes[36..52])?).ok()?);
    let flags = hex(&bytes[53..55])?;
    (trace_id != TraceId::INVALID && span_id != SpanId::INVALID).then_some((
        trace_id,
        span_id,
        flags & 1 == 1,
    ))
}

/// Lower-case hexadecimal digits only, as the standard demands.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_parent_is_followed() {
        for (value, sampled) in [
            (PARENT, true),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                false,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
                true,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02",
                false,
            ),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                true,
            ),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes",
                true,
            ),
        ] {
            let context = TraceContext::from_text(Some(value), None, None).unwrap();
            assert_eq!(
                context.trace_id().to_string(),
                "4bf92f3577b34da6a3ce929d0e0e4736"
            );
            assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
            assert_eq!(context.sampled(), sampled, "{value}");
        }
    }

    #[test]
    fn an_invalid_parent_is_not() {
        for value in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-0001",
        ] {
            assert_eq!(
                TraceContext::from_text(Some(value), Some("a=1"), None),
                None,
                "{value}"
            );
        }
        assert_eq!(
            TraceContext::from_headers(&headers(&[
                ("traceparent", PARENT),
                ("traceparent", PARENT)
            ])),
            None
        );
    }

    #[test]
    fn brg_22_what_came_goes_on_with_a_new_parent() {
        let came = headers(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "tenant=x"),
        ]);
        let served = TraceContext::accept(&came, |_| panic!("the caller has decided"));
        assert_eq!(
            served.parent_id().map(|id| id.to_string()).as_deref(),
            Some("00f067aa0ba902b7")
        );
        assert!(served.parent_is_remote());
        let attempt = served.child();
        assert_eq!(attempt.parent_id(), Some(served.span_id()));
        assert!(!attempt.parent_is_remote());
        let gone: Vec<_> = attempt.headers().collect();
        let traceparent = format!(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01",
            attempt.span_id()
        );
        assert_eq!(
            gone,
            [
                ("traceparent", traceparent),
                ("tracestate", "a=1,b=2".into()),
                ("baggage", "tenant=x".into())
            ]
        );
    }

    #[test]
    fn without_a_parent_a_trace_begins_and_keeps_its_baggage() {
        let came = headers(&[("tracestate", "a=1"), ("baggage", "k=v")]);
        let context = TraceContext::accept(&came, |_| true);
        assert!(context.sampled() && context.parent_id().is_none());
        assert_eq!(
            (context.tracestate(), context.baggage()),
            (None, Some("k=v"))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sampled: bool) {
            let root = TraceContext::new_root(sampled);
            let read = TraceContext::from_text(Some(&root.traceparent()), None, None).unwrap();
            prop_assert_eq!((read.trace_id(), read.span_id(), read.sampled()), (root.trace_id(), root.span_id(), sampled));
        }

        #[test]
        fn no_header_is_passed_on_that_would_not_be_accepted(parent in ".{0,70}", state in ".{0,600}", bag in "[ -~]{0,9000}") {
            let _ = TraceContext::from_text(Some(&parent), None, None);
            let context = TraceContext::from_text(Some(PARENT), Some(&state), Some(&bag)).unwrap();
            for (_, value) in context.headers() {
                prop_assert!(HeaderValue::from_str(&value).is_ok());
            }
            let again = TraceContext::from_text(Some(PARENT), context.tracestate(), context.baggage()).unwrap();
            prop_assert_eq!(again.tracestate(), context.tracestate());
            prop_assert_eq!(again.baggage(), context.baggage());
        }
    }
}

//! The lists that travel with a trace: `tracestate` and `baggage`, checked and bounded.
//!
//! A gateway passes on what others wrote, so it must not become the way to send an app a header of
//! any length or with any bytes.

use std::sync::Arc;

/// List members of `tracestate`; more make it invalid.
const STATE_MEMBERS_MAX: usize = 32;
/// Length of `tracestate` that every party must be able to pass on.
const STATE_CHARS_MAX: usize = 512;
/// Members above this length are the first to go when `tracestate` is too long.
const STATE_MEMBER_CHARS_LARGE: usize = 128;
/// List members of `baggage`.
const BAGGAGE_MEMBERS_MAX: usize = 64;
/// Length of `baggage`.
const BAGGAGE_CHARS_MAX: usize = 8192;

/// A valid `tracestate`, shortened as the standard says; `None` if it is invalid or empty.
pub(super) fn tracestate(value: &str) -> Option<Arc<str>> {
    let mut members = Vec::new();
    for member in value
        .split(',')
        .map(trim)
        .filter(|member| !member.is_empty())
    {
        let (key, value) = member.split_once('=')?;
        let known = members.iter().any(|(other, _)| *other == key);
        if known
            || !is_state_key(key)
            || !is_state_value(value)
            || members.len() == STATE_MEMBERS_MAX
        {
            return None;
        }
        members.push((key, member));
    }
    let length = |members: &[(&str, &str)]| {
        members
            .iter()
            .map(|(_, member)| member.len() + 1)
            .sum::<usize>()
    };
    while length(&members) > STATE_CHARS_MAX + 1 {
        let large = members
            .iter()
            .rposition(|(_, member)| member.len() > STATE_MEMBER_CHARS_LARGE);
        members.remove(large.unwrap_or(members.len() - 1));
    }
    let members: Vec<_> = members.into_iter().map(|(_, member)| member).collect();
    (!members.is_empty()).then(|| members.join(",").into())
}

/// The valid members of `baggage`, as many as fit; `None` if there are none.
pub(super) fn baggage(value: &str) -> Option<Arc<str>> {
    let mut kept = String::new();
    let members = value
        .split(',')
        .map(trim)
        .filter(|member| is_baggage_member(member));
    for member in members.take(BAGGAGE_MEMBERS_MAX) {
        if kept.len() + 1 + member.len() <= BAGGAGE_CHARS_MAX {
            if !kept.is_empty() {
                kept.push(',');
            }
            kept.push_str(member);
        }
    }
    (!kept.is_empty()).then(|| kept.into())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_state_key(key: &str) -> bool {
    let simple = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=256).contains(&key.len())
        && key.bytes().next().is_some_and(simple)
        && key.bytes().all(|c| simple(c) || b"_-*/@".contains(&c))
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value
            .bytes()
            .all(|c| matches!(c, b' '..=b'~') && c != b',' && c != b'=')
        && !value.ends_with(' ')
}

/// `key=value` and any `;property` or `;property=value`.
fn is_baggage_member(member: &str) -> bool {
    let mut parts = member.split(';').map(trim);
    let pair = parts.next().and_then(|pair| pair.split_once('='));
    pair.is_some_and(is_baggage_pair)
        && parts.all(|property| {
            property
                .split_once('=')
                .map_or_else(|| is_token(property), is_baggage_pair)
        })
}

fn is_baggage_pair((key, value): (&str, &str)) -> bool {
    let octet = |c: u8| matches!(c, b'!'..=b'~') && !matches!(c, b'"' | b',' | b';' | b'\\');
    is_token(trim(key)) && trim(value).bytes().all(octet)
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracestate_is_kept_whole_or_not_at_all() {
        let many = |n: usize| {
            (0..n)
                .map(|i| format!("k{i}=v"))
                .collect::<Vec<_>>()
                .join(",")
        };
        for (value, expect) in [
            ("a=1", Some("a=1")),
            (" a=1 ,\tb=x y", Some("a=1,b=x y")),
            ("a=1,,b=2,", Some("a=1,b=2")),
            ("1t@sys-*/_=v", Some("1t@sys-*/_=v")),
            ("", None),
            (" , ", None),
            ("a", None),
            ("a=", None),
            ("A=1", None),
            ("a=1=2", None),
            ("a=1,a=2", None),
            ("a=é", None),
            ("a=1,b=\u{1}", None),
            (&many(32), Some(&many(32))),
            (&many(33), None),
        ] {
            assert_eq!(tracestate(value).as_deref(), expect, "{value:?}");
        }
    }

    #[test]
    fn a_long_tracestate_loses_large_members_first_then_the_last() {
        let large = format!("large={}", "x".repeat(200));
        let small: Vec<_> = (0..8).map(|i| format!("k{i}={}", "y".repeat(50))).collect();
        let value = format!("{large},{}", small.join(","));
        assert_eq!(
            tracestate(&value).as_deref(),
            Some(small.join(",").as_str())
        );
        let small: Vec<_> = (0..12)
            .map(|i| format!("k{}={}", i % 10 + 10 * (i / 10), "y".repeat(50)))
            .collect();
        assert_eq!(
            tracestate(&small.join(",")).as_deref(),
            Some(small[..9].join(",").as_str())
        );
    }

    #[test]
    fn baggage_keeps_its_valid_members() {
        let long = format!("k={}", "v".repeat(8190));
        for (value, expect) in [
            ("a=1", Some("a=1")),
            (" a = 1 ; p=2;q , b=%20", Some("a = 1 ; p=2;q,b=%20")),
            ("a=", Some("a=")),
            ("a=b=c", Some("a=b=c")),
            ("no pair,b=2", Some("b=2")),
            ("a=1;bad property,b=\"2\",c=3", Some("c=3")),
            ("a=é", None),
            ("", None),
            (&long, None),
            (&format!("a=1,{long},b=2"), Some("a=1,b=2")),
        ] {
            assert_eq!(baggage(value).as_deref(), expect, "{value:?}");
        }
    }
}

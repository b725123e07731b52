//! The language that a client wants answers in: the first choice of its `Accept-Language` (RFC 9110, section 12.5.4), if that
//! is a language tag (BCP 47).

use oxilangtag::LanguageTag;

/// Ranges of a header that are looked at; nobody speaks more.
const RANGES_MAX: usize = 32;
/// Longest tag that is taken, in bytes. RFC 5646, section 4.4.1, has none longer than 35 that says something.
const TAG_BYTES_MAX: usize = 64;

/// Returns the range of the greatest weight, the first among equals, in the case that BCP 47 has for it (`de-CH`). What is no
/// language tag, `*` included, is passed over.
#[must_use]
pub fn preferred(accept_language: &str) -> Option<String> {
    let mut best: Option<(u16, String)> = None;
    for range in accept_language.split(',').take(RANGES_MAX) {
        let mut parts = range.split(';').map(str::trim);
        let tag = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(Some(1000), weight).unwrap_or(0);
        if weight > best.as_ref().map_or(0, |(weight, _)| *weight)
            && let Some(tag) = tag_of(tag)
        {
            best = Some((weight, tag));
        }
    }
    best.map(|(_, tag)| tag)
}

fn tag_of(text: &str) -> Option<String> {
    if text.len() > TAG_BYTES_MAX {
        return None;
    }
    let tag = LanguageTag::parse_and_normalize(text).ok()?;
    Some(tag.into_inner())
}

/// `q=` with at most three digits after the point, in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let text = parameter
        .strip_prefix("q=")
        .or_else(|| parameter.strip_prefix("Q="))?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{part:0<3}").parse().ok()?;
    let weight = if whole == "1" { 1000 } else { thousandths };
    (whole == "0" || thousandths == 0).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_greatest_weight_that_is_a_language_counts() {
        let long = format!("de-{}", "abcdefgh-".repeat(8));
        for (header, want) in [
            ("de", Some("de")),
            ("DE-ch", Some("de-CH")),
            ("zh-hant-tw", Some("zh-Hant-TW")),
            ("da, en-gb;q=0.8, en;q=0.7", Some("da")),
            ("en;q=0.5, fr;q=0.9", Some("fr")),
            ("en;q=0.9, fr;q=0.9", Some("en")),
            ("en; q=0.9 , fr", Some("fr")),
            ("*, nl;q=0.1", Some("nl")),
            ("*", None),
            ("", None),
            ("en;q=0", None),
            ("en;q=1.001, fr;q=0.2", Some("fr")),
            ("en;q=0.1234, fr;q=0.1", Some("fr")),
            ("en;level=1, fr;q=0.1", Some("fr")),
            ("\u{e9}n, e n, ../..;q=1, {{x}}", None),
            (long.as_str(), None),
        ] {
            assert_eq!(preferred(header).as_deref(), want, "{header}");
        }
        let many = "*, ".repeat(RANGES_MAX) + "de";
        assert_eq!(preferred(&many), None);
    }
}

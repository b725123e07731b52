//! `text`: counting, comparing and searching text. Every answer is bounded, every pattern runs in linear time.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::{Algorithm, ChangeTag, TextDiff};
use tokio::sync::Semaphore;

use super::tool::{About, Hints, Refusal, Tool};
use crate::plugin::CallContext;

/// The largest compiled pattern, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// The largest text that a replacement may grow to, in bytes.
const REPLACED_BYTES_MAX: usize = 8 << 20;
/// How much of a matching line is shown, in characters.
const LINE_CHARS_MAX: usize = 500;

/// Returns the tools of the set; `threads` bounds those whose work grows with the text.
pub(crate) fn tools(threads: &Arc<Semaphore>) -> Vec<Tool> {
    vec![
        Tool::blocking(
            About {
                name: "stats",
                title: "Text statistics",
                description: "Counts bytes, characters, words and lines.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            stats,
        ),
        Tool::blocking(
            About {
                name: "diff",
                title: "Compare two texts",
                description: "Compares two texts line by line and answers a unified diff with counts.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            diff,
        ),
        Tool::blocking(
            About {
                name: "search",
                title: "Search by regular expression",
                description: "Finds matches of a regular expression (Rust syntax: no look-around, no back-references, linear time) with line, column and groups.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            search,
        ),
        Tool::blocking(
            About {
                name: "replace",
                title: "Replace by regular expression",
                description: "Replaces every match of a regular expression; `$1` or `${name}` in the replacement stand for groups.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            replace,
        ),
        Tool::blocking(
            About {
                name: "case",
                title: "Change letter case",
                description: "Rewrites a text in another case: upper, lower, title, snake, kebab, camel or pascal.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            case,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stats {
    /// The text.
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct Counted {
    /// Bytes in UTF-8.
    bytes: usize,
    /// Unicode scalar values.
    characters: usize,
    /// Runs without white space.
    words: usize,
    /// Lines; a last line needs no line feed.
    lines: usize,
    /// Characters of the longest line.
    longest_line: usize,
}

fn stats((): &(), input: Stats, _: &CallContext) -> Result<Counted, Refusal> {
    let text = input.text;
    Ok(Counted {
        bytes: text.len(),
        characters: text.chars().count(),
        words: text.split_whitespace().count(),
        lines: text.lines().count(),
        longest_line: text
            .lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap_or(0),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Diff {
    /// The old text.
    before: String,
    /// The new text.
    after: String,
    /// Unchanged lines shown around a change.
    #[serde(default = "three")]
    #[schemars(range(max = 100))]
    context: usize,
}

fn three() -> usize {
    3
}

#[derive(Serialize, JsonSchema)]
struct Compared {
    /// Whether the texts are the same.
    equal: bool,
    /// Lines only in the new text.
    insertions: usize,
    /// Lines only in the old text.
    deletions: usize,
    /// The difference in unified form; empty if equal.
    unified: String,
}

fn diff((): &(), input: Diff, context: &CallContext) -> Result<Compared, Refusal> {
    // Past the deadline the algorithm answers a coarser difference instead of a late one.
    let compared = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(context.deadline)
        .diff_lines(&input.before, &input.after);
    let count = |tag| {
        compared
            .iter_all_changes()
            .filter(|change| change.tag() == tag)
            .count()
    };
    Ok(Compared {
        equal: input.before == input.after,
        insertions: count(ChangeTag::Insert),
        deletions: count(ChangeTag::Delete),
        unified: compared
            .unified_diff()
            .context_radius(input.context)
            .header("before", "after")
            .to_string(),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Search {
    /// The text.
    text: String,
    /// The regular expression.
    pattern: String,
    /// Whether letter case is ignored.
    #[serde(default)]
    ignore_case: bool,
    /// How many matches are answered at most.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 1000))]
    limit: usize,
}

fn hundred() -> usize {
    100
}

#[derive(Serialize, JsonSchema)]
struct Found {
    /// The matches in order.
    matches: Vec<Match>,
    /// Whether there are more than were answered.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
struct Match {
    /// Line, from 1.
    line: usize,
    /// Character in the line, from 1.
    column: usize,
    /// What matched.
    text: String,
    /// Capture groups, the first group first; null where a group took no part.
    groups: Vec<Option<String>>,
}

fn search((): &(), input: Search, context: &CallContext) -> Result<Found, Refusal> {
    let pattern = compile(&input.pattern, input.ignore_case)?;
    let mut found = Found {
        matches: Vec::new(),
        truncated: false,
    };
    let (mut line, mut line_start, mut seen) = (1, 0, 0);
    for captures in pattern.captures_iter(&input.text) {
        if found.matches.len() == input.limit || context.is_over() {
            found.truncated = true;
            break;
        }
        let Some(whole) = captures.get(0) else {
            continue;
        };
        // Each stretch of text is looked at once, however many matches there are.
        for (at, _) in input.text[seen..whole.start()].match_indices('\n') {
            line += 1;
            line_start = seen + at + 1;
        }
        seen = whole.start();
        found.matches.push(Match {
            line,
            column: input.text[line_start..whole.start()].chars().count() + 1,
            text: clipped(whole.as_str()),
            groups: captures
                .iter()
                .skip(1)
                .map(|group| group.map(|group| clipped(group.as_str())))
                .collect(),
        });
    }
    Ok(found)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// The text.
    text: String,
    /// The regular expression.
    pattern: String,
    /// What takes the place of each match.
    replacement: String,
    /// Whether letter case is ignored.
    #[serde(default)]
    ignore_case: bool,
}

#[derive(Serialize, JsonSchema)]
struct Replaced {
    /// The new text.
    text: String,
    /// How many matches were replaced.
    replacements: usize,
}

fn replace((): &(), input: Replace, context: &CallContext) -> Result<Replaced, Refusal> {
    let pattern = compile(&input.pattern, input.ignore_case)?;
    let (mut text, mut replacements, mut copied) = (String::new(), 0, 0);
    for captures in pattern.captures_iter(&input.text) {
        let Some(whole) = captures.get(0) else {
            continue;
        };
        text.push_str(&input.text[copied..whole.start()]);
        captures.expand(&input.replacement, &mut text);
        copied = whole.end();
        replacements += 1;
        if text.len() > REPLACED_BYTES_MAX {
            return Err(Refusal(format!(
                "the result would be larger than {REPLACED_BYTES_MAX} bytes"
            )));
        }
        if context.is_over() {
            return Err(Refusal("ran out of time".into()));
        }
    }
    text.push_str(&input.text[copied..]);
    Ok(Replaced { text, replacements })
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Regex, Refusal> {
    RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .multi_line(true)
        .size_limit(PATTERN_SIZE_MAX)
        .dfa_size_limit(PATTERN_SIZE_MAX)
        .build()
        .map_err(|error| Refusal(format!("the pattern is not valid: {error}")))
}

fn clipped(text: &str) -> String {
    text.chars().take(LINE_CHARS_MAX).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The text.
    text: String,
    /// The case to write it in.
    to: Style,
}

#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Style {
    Upper,
    Lower,
    Title,
    Snake,
    Kebab,
    Camel,
    Pascal,
}

#[derive(Serialize, JsonSchema)]
struct Cased {
    /// The rewritten text.
    text: String,
}

fn case((): &(), input: Case, _: &CallContext) -> Result<Cased, Refusal> {
    let text = &input.text;
    let text = match input.to {
        Style::Upper => text.to_uppercase(),
        Style::Lower => text.to_lowercase(),
        Style::Title => words(text).map(capital).collect::<Vec<_>>().join(" "),
        Style::Snake => words(text)
            .map(str::to_lowercase)
            .collect::<Vec<_>>()
            .join("_"),
        Style::Kebab => words(text)
            .map(str::to_lowercase)
            .collect::<Vec<_>>()
            .join("-"),
        Style::Pascal => words(text).map(capital).collect(),
        Style::Camel => {
            let mut words = words(text);
            let first = words.next().map(str::to_lowercase).unwrap_or_default();
            first + &words.map(capital).collect::<String>()
        }
    };
    Ok(Cased { text })
}

/// Splits at everything that is no letter or digit, and where a small letter or digit meets a capital one.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).flat_map(|part| {
        let mut cuts: Vec<usize> = part
            .char_indices()
            .zip(part.chars().skip(1))
            .filter(|((_, before), after)| !before.is_uppercase() && after.is_uppercase())
            .map(|((at, before), _)| at + before.len_utf8())
            .collect();
        cuts.push(part.len());
        let mut start = 0;
        cuts.into_iter()
            .map(move |cut| {
                let word = &part[start..cut];
                start = cut;
                word
            })
            .filter(|word| !word.is_empty())
    })
}

fn capital(word: &str) -> String {
    let mut rest = word.chars();
    let first = rest
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    first + &rest.as_str().to_lowercase()
}

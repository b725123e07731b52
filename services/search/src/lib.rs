//! Finds tools by what somebody wants to do: ranks definitions by the words of a query.
//!
//! The ranking is BM25F (Robertson and Zaragoza, 2009): a word counts more where it is rare, where it stands
//! in a short text, and in a field that says more of a tool. Words are compared by their stems; identifiers
//! are split into words; words that tools use for the same thing count a little for one another, and a word
//! that no tool has stands for those that look like it. The same tools and query give the same order always.
//!
//! It decides and does nothing else: no clock, no randomness, no I/O.

pub mod words;

use std::collections::{BTreeMap, HashMap};

use words::{kin, words};

/// Longest query that is looked at, in bytes; what is past that is not read.
pub const QUERY_BYTES_MAX: usize = 2048;
/// Most words of a query that count.
const QUERY_WORDS_MAX: usize = 64;
/// Longest text of one field that is looked at, in bytes.
const FIELD_BYTES_MAX: usize = 16 * 1024;
/// How fast more of the same word counts less.
const K1: f64 = 1.2;
/// What a word counts that is only related to the one that was asked for.
const KIN_WEIGHT: f64 = 0.4;
/// What a word counts that only looks like the one that was asked for.
const ALIKE_WEIGHT: f64 = 0.5;

/// What is known of one tool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Document<'a> {
    /// Its name.
    pub name: &'a str,
    /// A name for people; may be empty.
    pub title: &'a str,
    /// What it does; may be empty.
    pub description: &'a str,
    /// The names of its arguments, and what is said of them.
    pub arguments: &'a str,
}

/// A field's weight, and how much a long text in it counts against a tool.
struct Field {
    weight: f64,
    b: f64,
}

/// In the order of [`Document`].
const FIELDS: [Field; 4] = [
    Field {
        weight: 4.0,
        b: 0.3,
    },
    Field {
        weight: 3.0,
        b: 0.3,
    },
    Field {
        weight: 1.5,
        b: 0.6,
    },
    Field {
        weight: 0.5,
        b: 0.75,
    },
];

/// How often a word stands in each field of a tool.
type Counts = [u32; FIELDS.len()];

/// A tool that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Its place among the documents.
    pub at: usize,
    /// How well it fits; only good for comparing within one answer.
    pub score: f64,
}

/// Tools, ready to be searched.
#[derive(Debug, Default)]
pub struct Index {
    names: Vec<Box<str>>,
    lengths: Vec<[u32; FIELDS.len()]>,
    averages: [f64; FIELDS.len()],
    /// By stem: which documents have it, in order, and how often in each field. Sorted, so that sums are
    /// always formed in one order.
    postings: BTreeMap<Box<str>, Vec<(usize, Counts)>>,
}

impl Index {
    /// Indexes documents.
    #[must_use]
    pub fn new<'a>(documents: impl IntoIterator<Item = Document<'a>>) -> Index {
        let mut index = Index::default();
        for (at, document) in documents.into_iter().enumerate() {
            index.add(at, &document);
        }
        for (field, average) in index.averages.iter_mut().enumerate() {
            let total: f64 = index.lengths.iter().map(|l| f64::from(l[field])).sum();
            *average = (total / index.lengths.len().max(1) as f64).max(1.0);
        }
        index
    }

    fn add(&mut self, at: usize, document: &Document<'_>) {
        let fields = [
            document.name,
            document.title,
            document.description,
            document.arguments,
        ];
        let mut lengths = [0; FIELDS.len()];
        let mut counts: HashMap<String, Counts> = HashMap::new();
        for (field, text) in fields.into_iter().enumerate() {
            for word in words(cut(text, FIELD_BYTES_MAX)) {
                lengths[field] += 1;
                counts.entry(word).or_default()[field] += 1;
            }
        }
        for (word, counts) in counts {
            let postings = self.postings.entry(word.into()).or_default();
            postings.push((at, counts));
        }
        self.lengths.push(lengths);
        self.names.push(document.name.into());
    }

    /// How many tools there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The tools that fit a query, the best first, at most `limit`; equals in the order of their names.
    #[must_use]
    pub fn find(&self, query: &str, limit: usize) -> Vec<Found> {
        let mut scores = vec![0.0; self.len()];
        for (word, weight) in self.wanted(query) {
            self.score(&word, weight, &mut scores);
        }
        let mut found: Vec<Found> = scores
            .into_iter()
            .enumerate()
            .filter(|(_, score)| *score > 0.0)
            .map(|(at, score)| Found { at, score })
            .collect();
        found.sort_by(|a, b| {
            let by_score = b.score.total_cmp(&a.score);
            by_score.then_with(|| self.names[a.at].cmp(&self.names[b.at]))
        });
        found.truncate(limit);
        found
    }

    /// The words to look for with their weights: those of the query, their kin, and for a word that no tool
    /// has those that look like it.
    fn wanted(&self, query: &str) -> BTreeMap<String, f64> {
        let mut wanted: BTreeMap<String, f64> = BTreeMap::new();
        let mut want = |word: &str, weight: f64| {
            let known = wanted.entry(word.to_owned()).or_default();
            *known = known.max(weight);
        };
        let asked = words(cut(query, QUERY_BYTES_MAX));
        for word in asked.into_iter().take(QUERY_WORDS_MAX) {
            want(&word, 1.0);
            for other in kin(&word) {
                want(other, KIN_WEIGHT);
            }
            if !self.postings.contains_key(word.as_str()) {
                for other in self.postings.keys().filter(|other| alike(&word, other)) {
                    want(other, ALIKE_WEIGHT);
                }
            }
        }
        wanted
    }

    fn score(&self, word: &str, weight: f64, scores: &mut [f64]) {
        let Some(postings) = self.postings.get(word) else {
            return;
        };
        let (all, having) = (self.len() as f64, postings.len() as f64);
        let rarity = (1.0 + (all - having + 0.5) / (having + 0.5)).ln();
        for (at, counts) in postings {
            let mut frequency = 0.0;
            for (field, rules) in FIELDS.iter().enumerate() {
                let length = f64::from(self.lengths[*at][field]) / self.averages[field];
                let norm = 1.0 - rules.b + rules.b * length;
                frequency += rules.weight * f64::from(counts[field]) / norm;
            }
            scores[*at] += weight * rarity * frequency * (K1 + 1.0) / (frequency + K1);
        }
    }
}

/// The beginning of a text, at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether one word may be the other, mistyped or cut short: one begins with the other, or one letter differs.
fn alike(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (short, long) = if a.len() <= b.len() {
        (&a, &b)
    } else {
        (&b, &a)
    };
    if short.len() < 4 {
        return false;
    }
    if long.starts_with(short) {
        return true;
    }
    if long.len() - short.len() > 1 {
        return false;
    }
    let same = short
        .iter()
        .zip(long.iter())
        .take_while(|(x, y)| x == y)
        .count();
    let (short, long) = (&short[same..], &long[same..]);
    match long.len() - short.len() {
        1 => short == &long[1..],
        _ if short.len() >= 2 && short[0] == long[1] && short[1] == long[0] => {
            short[2..] == long[2..]
        }
        _ => short[1..] == long[1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: [(&str, &str); 5] = [
        ("files_read", "Reads a file of the folder."),
        ("files_write", "Writes a file, over one that is there."),
        ("mail_sendMessage", "Sends an e-mail to one or more people."),
        (
            "weather_forecast",
            "Tells the weather of the coming days at a place.",
        ),
        ("db_query", "Runs a SQL statement and returns the rows."),
    ];

    fn index() -> Index {
        Index::new(TOOLS.map(|(name, description)| Document {
            name,
            description,
            ..Document::default()
        }))
    }

    fn best(query: &str) -> Vec<&'static str> {
        let found = index().find(query, 2);
        found.into_iter().map(|found| TOOLS[found.at].0).collect()
    }

    #[test]
    fn words_find_their_tools() {
        for (query, first) in [
            ("read a file", "files_read"),
            ("reading files", "files_read"),
            ("store text in a file", "files_write"),
            ("send_message", "mail_sendMessage"),
            ("email somebody", "mail_sendMessage"),
            ("will it rain: wether forcast", "weather_forecast"),
            ("database rows", "db_query"),
            ("DBQuery", "db_query"),
        ] {
            assert_eq!(best(query).first(), Some(&first), "{query}");
        }
        for query in ["", "the of and", "\u{1f980}", "qzxv"] {
            assert!(best(query).is_empty(), "{query}");
        }
    }

    #[test]
    fn equals_stand_in_the_order_of_their_names() {
        let same = ["b", "c", "a"].map(|name| Document {
            name,
            description: "Does the same thing.",
            ..Document::default()
        });
        let found = Index::new(same).find("same thing", 3);
        assert_eq!(found.iter().map(|f| f.at).collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn words_that_look_alike() {
        for (a, b, expect) in [
            ("weather", "wether", true),
            ("weather", "waether", true),
            ("weather", "weathar", true),
            ("repo", "repositori", true),
            ("cat", "cats", false),
            ("file", "mail", false),
            ("read", "road", true),
            ("abcd", "abdcx", false),
        ] {
            assert_eq!(alike(a, b), expect, "{a} {b}");
            assert_eq!(alike(b, a), expect, "{b} {a}");
        }
    }

    #[test]
    fn no_text_is_too_long() {
        let long = "é".repeat(QUERY_BYTES_MAX);
        assert!(cut(&long, QUERY_BYTES_MAX - 1).len() < QUERY_BYTES_MAX);
        assert!(index().find(&"file ".repeat(10_000), 1).len() == 1);
    }
}

//! Text to words that can be compared: identifiers are split, endings and words without meaning go.

use std::sync::LazyLock;

/// Words that say nothing of what is wanted.
const EMPTY: &[&str] = &[
    "a", "about", "all", "am", "an", "and", "any", "are", "as", "at", "be", "been", "by", "can",
    "could", "do", "does", "for", "from", "had", "has", "have", "her", "here", "his", "how", "i",
    "if", "in", "into", "is", "it", "its", "let", "like", "me", "my", "need", "not", "of", "on",
    "one", "or", "our", "out", "over", "please", "s", "should", "so", "some", "t", "than", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "tool", "us",
    "want", "was", "we", "were", "what", "when", "where", "which", "who", "will", "with", "would",
    "you", "your",
];

/// Words that tools use for the same thing.
const KIN: &[&[&str]] = &[
    &["add", "create", "new", "make", "insert", "open", "register"],
    &["delete", "remove", "erase", "drop", "destroy", "trash"],
    &[
        "get", "fetch", "read", "retrieve", "load", "show", "view", "download", "see",
    ],
    &["list", "show", "enumerate", "browse", "see"],
    &["search", "find", "lookup", "look", "query", "locate"],
    &[
        "update", "edit", "change", "modify", "set", "rename", "patch",
    ],
    &["send", "post", "submit", "publish", "notify", "tell"],
    &["write", "save", "store", "put", "append"],
    &["run", "execute", "start", "launch", "invoke", "trigger"],
    &["stop", "cancel", "abort", "kill", "end", "terminate"],
    &["copy", "duplicate", "clone"],
    &["move", "transfer", "relocate"],
    &["image", "picture", "photo", "screenshot"],
    &["mail", "email", "message", "inbox"],
    &["message", "chat", "text"],
    &["repository", "repo"],
    &["database", "db", "sql", "table", "row", "postgres"],
    &["document", "doc", "page", "note"],
    &["folder", "directory", "dir"],
    &["pull", "pr", "merge"],
    &["issue", "bug", "ticket"],
    &["task", "todo", "ticket"],
    &["user", "person", "people", "member", "account"],
    &["event", "meeting", "appointment", "calendar", "schedule"],
    &[
        "weather",
        "forecast",
        "temperature",
        "rain",
        "snow",
        "sunny",
        "warm",
        "cold",
    ],
    &["summarise", "summary", "digest", "overview"],
    &["hash", "checksum", "digest"],
    &["time", "clock", "date"],
    &[
        "money", "currency", "exchange", "euro", "dollar", "pound", "yen",
    ],
    &["pay", "payment", "charge", "bill", "invoice"],
    &["refund", "reimburse"],
    &["log", "trace"],
    &["metric", "measurement", "statistics"],
    &["alert", "alarm", "incident", "outage", "pager"],
    &["acknowledge", "ack", "confirm"],
    &["deploy", "release", "rollout", "ship"],
    &[
        "translate",
        "language",
        "english",
        "french",
        "german",
        "spanish",
        "chinese",
        "japanese",
    ],
    &["route", "direction", "navigation"],
    &["file", "document"],
    &["convert", "transform", "format"],
    &["web", "url", "http", "link", "site"],
];

/// The words of a text, as stems in the order of the text. Letters of scripts without case or spaces stay
/// together.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for run in text.split(|c: char| !c.is_alphanumeric()) {
        for part in split_identifier(run) {
            let word = part.to_lowercase();
            if !EMPTY.contains(&word.as_str()) {
                words.push(stem(&word));
            }
        }
    }
    words
}

/// Words that may stand for a stem.
pub fn kin(stem: &str) -> impl Iterator<Item = &'static str> {
    static STEMS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
        let stems = |group: &&[&str]| group.iter().map(|word| self::stem(word)).collect();
        KIN.iter().map(stems).collect()
    });
    let groups = STEMS
        .iter()
        .filter(move |group| group.iter().any(|word| word == stem));
    groups.flat_map(|group| group.iter().map(String::as_str))
}

/// Cuts `parseHTTPResponse2` into `parse`, `HTTP`, `Response`, `2`.
fn split_identifier(run: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = run.char_indices().collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for at in 1..chars.len() {
        let (before, (offset, here)) = (chars[at - 1].1, chars[at]);
        let next_is_lower = chars
            .get(at + 1)
            .is_some_and(|(_, next)| next.is_lowercase());
        let begins = (here.is_uppercase() && before.is_lowercase())
            || (here.is_uppercase() && before.is_uppercase() && next_is_lower)
            || here.is_numeric() != before.is_numeric();
        if begins {
            parts.push(&run[start..offset]);
            start = offset;
        }
    }
    parts.push(&run[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// The stem of an English word: step 1 and the common endings of Porter's algorithm (1980). Other words are
/// left as they are.
fn stem(word: &str) -> String {
    if word.len() < 3 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let mut word = plural(word).to_owned();
    past(&mut word);
    for (ending, instead, least) in ENDINGS {
        if let Some(root) = word.strip_suffix(ending)
            && measure(root) >= *least
            && (*ending != "ion" || root.ends_with(['s', 't']))
        {
            word = format!("{root}{instead}");
            break;
        }
    }
    if word.len() > 2 && word.ends_with('y') && has_vowel(&word[..word.len() - 1]) {
        word.pop();
        word.push('i');
    }
    word
}

/// Endings, what stands for them, and how long (in Porter's measure) what is left must be.
const ENDINGS: &[(&str, &str, usize)] = &[
    ("ization", "iz", 1),
    ("ments", "", 2),
    ("ment", "", 2),
    ("ness", "", 1),
    ("able", "", 2),
    ("ible", "", 2),
    ("ance", "", 2),
    ("ence", "", 2),
    ("ive", "", 2),
    ("ion", "", 1),
    ("e", "", 1),
];

fn plural(word: &str) -> &str {
    if word.ends_with("sses")
        || word.ends_with("xes")
        || word.ends_with("ches")
        || word.ends_with("shes")
    {
        &word[..word.len() - 2]
    } else if word.ends_with("ies") && word.len() > 4 {
        // The y comes back as i.
        &word[..word.len() - 2]
    } else if word.ends_with("ss") || word.ends_with("us") || word.ends_with("is") {
        word
    } else {
        word.strip_suffix('s').unwrap_or(word)
    }
}

fn past(word: &mut String) {
    let root = ["ing", "ed"]
        .into_iter()
        .find_map(|ending| word.strip_suffix(ending))
        .filter(|root| root.len() > 2 && has_vowel(root));
    let Some(root) = root else {
        return;
    };
    let doubled = root.as_bytes().windows(2).last();
    let keep = match doubled {
        Some([a, b]) if a == b && !b"lsz".contains(b) => root.len() - 1,
        _ => root.len(),
    };
    word.truncate(keep);
    if ["at", "bl", "iz"].iter().any(|end| word.ends_with(end)) {
        word.push('e');
    }
}

fn is_vowel(word: &[u8], at: usize) -> bool {
    match word[at] {
        b'a' | b'e' | b'i' | b'o' | b'u' => true,
        b'y' => at > 0 && !is_vowel(word, at - 1),
        _ => false,
    }
}

fn has_vowel(word: &str) -> bool {
    (0..word.len()).any(|at| is_vowel(word.as_bytes(), at))
}

/// How often vowels are followed by consonants.
fn measure(word: &str) -> usize {
    let kinds: Vec<bool> = (0..word.len())
        .map(|at| is_vowel(word.as_bytes(), at))
        .collect();
    kinds.windows(2).filter(|pair| pair[0] && !pair[1]).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_words() {
        for (text, expect) in [
            ("listPullRequests", &["list", "pull", "request"][..]),
            ("list_pull_requests", &["list", "pull", "request"]),
            ("parseHTTPResponse2", &["pars", "http", "respons", "2"]),
            ("files.read-text", &["fil", "read", "text"]),
            ("What is the time?", &["tim"]),
            ("Grüße senden", &["grüße", "senden"]),
            ("天気 tokyo", &["天気", "tokyo"]),
            ("", &[]),
            ("_-_", &[]),
        ] {
            assert_eq!(words(text), expect, "{text}");
        }
    }

    #[test]
    fn forms_of_a_word_have_one_stem() {
        for forms in [
            &["file", "files"][..],
            &["read", "reads", "reading"],
            &["delete", "deletes", "deleted", "deleting", "deletion"],
            &["create", "creates", "created", "creating", "creation"],
            &["query", "queries", "querying"],
            &["stop", "stops", "stopped", "stopping"],
            &["translate", "translation", "translating"],
            &["search", "searches", "searching"],
            &["directory", "directories"],
            &["pay", "pays", "paying"],
            &["schedule", "scheduled", "scheduling"],
            &["deployment", "deploy", "deployed"],
            &["notify", "notifies", "notified"],
        ] {
            let stems: Vec<String> = forms.iter().map(|form| stem(form)).collect();
            assert!(stems.iter().all(|s| *s == stems[0]), "{forms:?}: {stems:?}");
        }
        for (a, b) in [
            ("list", "listen"),
            ("mail", "main"),
            ("status", "stat"),
            ("address", "add"),
        ] {
            assert_ne!(stem(a), stem(b));
        }
    }

    #[test]
    fn kin_are_found_by_any_form() {
        for (word, other) in [
            ("deleting", "removed"),
            ("photos", "image"),
            ("schedule", "meetings"),
        ] {
            let (word, other) = (stem(word), stem(other));
            assert!(kin(&word).any(|kin| kin == other), "{word} {other}");
        }
        assert_eq!(kin("zebra").count(), 0);
    }
}

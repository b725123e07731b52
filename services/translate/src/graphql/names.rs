//! Names that GraphQL allows, made from names that MCP allows.
//!
//! GraphQL names are `[_A-Za-z][_0-9A-Za-z]*` and must not begin with two underscores. A name that fits
//! stays as it is and has the first claim on itself; others are spelled with underscores, and where two
//! would then be the same, the later one in byte order gets a number. So the mapping is injective and
//! depends on the set of names alone, never on their order.

use std::collections::HashSet;

/// Whether GraphQL allows `name` for a field, an argument or a type.
pub(super) fn is_legal(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric())
        && !name.starts_with("__")
}

/// The nearest legal spelling.
fn spell(original: &str) -> String {
    let mut name = String::with_capacity(original.len() + 1);
    for c in original.chars() {
        match c {
            '0'..='9' if name.is_empty() => {
                name.push('_');
                name.push(c);
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' => name.push(c),
            // Two leading underscores belong to introspection.
            _ if name == "_" => {}
            _ => name.push('_'),
        }
    }
    if name.is_empty() {
        name.push('_');
    }
    name
}

/// Names that are taken in one scope.
#[derive(Debug, Default)]
pub(super) struct Namer(HashSet<String>);

impl Namer {
    pub(super) fn with_reserved(reserved: &[&str]) -> Namer {
        Namer(reserved.iter().map(|&name| name.to_owned()).collect())
    }

    /// Takes `wanted`, or the first free of `wanted_2`, `wanted_3` and so on.
    pub(super) fn claim(&mut self, wanted: &str) -> String {
        let name = if self.0.contains(wanted) {
            (2u64..)
                // After a lone underscore, another would make the two that belong to introspection.
                .map(|n| match wanted {
                    "_" => format!("_{n}"),
                    wanted => format!("{wanted}_{n}"),
                })
                .find(|name| !self.0.contains(name))
                .expect("a finite set leaves some number free")
        } else {
            wanted.to_owned()
        };
        self.0.insert(name.clone());
        name
    }
}

/// Gives each original its name, in the order of `originals`, which must differ from each other.
pub(super) fn assign(originals: &[&str], reserved: &[&str]) -> Vec<String> {
    let mut namer = Namer::with_reserved(reserved);
    let mut names = vec![String::new(); originals.len()];
    let mut rest: Vec<usize> = Vec::new();
    for (i, original) in originals.iter().enumerate() {
        if is_legal(original) && !reserved.contains(original) {
            names[i] = namer.claim(original);
        } else {
            rest.push(i);
        }
    }
    rest.sort_by_key(|&i| originals[i]);
    for i in rest {
        names[i] = namer.claim(&spell(originals[i]));
    }
    names
}

/// The name of a type that stands for `name`: `get_weather` is `GetWeather`.
pub(super) fn type_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for word in name.split('_').filter(|word| !word.is_empty()) {
        let mut chars = word.chars();
        if out.ends_with(|c: char| c.is_ascii_digit())
            && word.starts_with(|c: char| c.is_ascii_digit())
        {
            out.push('_');
        }
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    if !out.starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.insert(0, 'T');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings() {
        for (original, name) in [
            ("get_weather", "get_weather"),
            ("get-weather", "get_weather"),
            ("a.b/c", "a_b_c"),
            ("7zip", "_7zip"),
            ("__schema", "_schema"),
            ("--x", "_x"),
            ("größe", "gr__e"),
            ("", "_"),
            ("日本", "_"),
        ] {
            assert_eq!(assign(&[original], &[]), [name], "{original}");
        }
    }

    #[test]
    fn legal_names_come_first_and_others_are_numbered() {
        let names = assign(&["a-b", "a.b", "a_b", "tools"], &["tools"]);
        assert_eq!(names, ["a_b_2", "a_b_3", "a_b", "tools_2"]);
        let reversed = assign(&["tools", "a_b", "a.b", "a-b"], &["tools"]);
        assert_eq!(reversed, ["tools_2", "a_b", "a_b_3", "a_b_2"]);
    }

    #[test]
    fn types() {
        for (name, ty) in [
            ("get_weather", "GetWeather"),
            ("getWeather", "GetWeather"),
            ("_7zip", "T7zip"),
            ("a_1_2", "A1_2"),
            ("_", "T"),
        ] {
            assert_eq!(type_name(name), ty, "{name}");
        }
    }

    proptest! {
        #[test]
        fn naming_is_legal_injective_and_independent_of_order(
            set in prop::collection::hash_set("[a-b_.\\-0-2é]{0,5}", 0..24), rotate in 0usize..24,
        ) {
            let mut originals: Vec<&str> = set.iter().map(String::as_str).collect();
            let reserved = ["tools", "a", "b_2"];
            let names = assign(&originals, &reserved);
            let distinct: HashSet<&String> = names.iter().collect();
            prop_assert_eq!(distinct.len(), originals.len());
            prop_assert!(names.iter().all(|name| is_legal(name) && !reserved.contains(&name.as_str())));
            let pairs: HashSet<(&str, String)> = originals.iter().copied().zip(names).collect();
            let by = rotate % originals.len().max(1);
            originals.rotate_left(by);
            let again: HashSet<(&str, String)> = originals.iter().copied().zip(assign(&originals, &reserved)).collect();
            prop_assert_eq!(pairs, again);
        }
    }
}

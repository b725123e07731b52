//! The table of what is done names tests that exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::files;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    tests: Vec<String>,
}

#[test]
fn every_row_names_tests_that_exist() {
    let text = fs::read_to_string(testkit::workspace().join("tests/features.toml")).unwrap();
    let rows: BTreeMap<String, Row> = toml::from_str(&text).unwrap();
    assert!(!rows.is_empty());
    let mut missing = Vec::new();
    for (id, row) in &rows {
        let (area, number) = id
            .rsplit_once('-')
            .unwrap_or_else(|| panic!("{id} is no row"));
        assert!(
            area.bytes().all(|b| b.is_ascii_uppercase()) && number.parse::<u32>().is_ok(),
            "{id}"
        );
        assert!(!row.tests.is_empty(), "{id} names no test");
        missing.extend(
            row.tests
                .iter()
                .filter(|name| !exists(name))
                .map(|name| format!("{id}: {name}")),
        );
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

/// Whether a test `crate::module::function` stands where its path says.
fn exists(name: &str) -> bool {
    let mut parts: Vec<&str> = name.split("::").collect();
    let (Some(function), krate) = (parts.pop(), parts.remove(0)) else {
        return false;
    };
    // A module `tests` stands in the file of what it tests, or in one of its own.
    let inside: Vec<&str> = parts.iter().copied().filter(|m| *m != "tests").collect();
    let marker = format!("fn {function}(");
    sources(krate).into_iter().any(|file| {
        let path = file.with_extension("");
        let mut segments: Vec<String> = path
            .iter()
            .map(|s| s.to_string_lossy().into_owned())
            .collect();
        if segments
            .last()
            .is_some_and(|s| ["mod", "lib", "main"].contains(&s.as_str()))
        {
            segments.pop();
        }
        let ends = [&inside, &parts].into_iter().any(|modules| {
            segments.len() >= modules.len()
                && segments[segments.len() - modules.len()..]
                    .iter()
                    .map(String::as_str)
                    .eq(modules.iter().copied())
        });
        ends && fs::read_to_string(&file).is_ok_and(|text| text.contains(&marker))
    })
}

fn sources(krate: &str) -> Vec<PathBuf> {
    let root = testkit::workspace();
    let folder = match krate {
        "cli" | "loadtest" | "fuzz" => root.join(krate),
        "tests" => root.join("tests/it"),
        library => root.join("services").join(library),
    };
    if folder.exists() {
        files(&folder, "rs")
    } else {
        Vec::new()
    }
}

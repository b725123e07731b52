//! The table of the bridge in README.md names tests that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_pair_names_a_test_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for folder in ["src", "src/era"] {
        for file in fs::read_dir(root.join(folder)).unwrap().flatten() {
            let Ok(text) = fs::read_to_string(file.path()) else {
                continue;
            };
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line == "#[test]" {
                    let name = lines.next().unwrap().trim_start_matches("fn ");
                    tests.insert(name.split('(').next().unwrap().to_owned());
                }
            }
        }
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let rows: Vec<_> = readme
        .lines()
        .filter(|line| line.starts_with('|') && line.ends_with("` |"))
        .collect();
    assert!(rows.len() > 30, "the table is gone");
    for row in rows {
        let name = row.trim_end_matches("` |").rsplit('`').next().unwrap();
        assert!(tests.contains(name), "no such test: {row}");
    }
}

//! The table of the bridge in README.md names tests that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_pair_names_a_test_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for (folder, prefix) in [
        ("src", ""),
        ("src/era", ""),
        ("src/era/old_client", ""),
        ("../app/tests/it", "app::"),
    ] {
        for file in fs::read_dir(root.join(folder)).unwrap().flatten() {
            let path = file.path();
            let module = path.file_stem().unwrap().to_string_lossy();
            let prefix = match prefix {
                "" => String::new(),
                prefix => format!("{prefix}{module}::"),
            };
            let Ok(text) = fs::read_to_string(file.path()) else {
                continue;
            };
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if matches!(line, "#[test]" | "#[tokio::test]") {
                    let name = lines.next().unwrap().trim_start_matches("async ");
                    let name = name.trim_start_matches("fn ").split('(').next();
                    tests.insert(format!("{prefix}{}", name.unwrap()));
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

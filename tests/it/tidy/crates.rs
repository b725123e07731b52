//! Who may use whom, and what a crate must not know.

use std::collections::BTreeMap;
use std::fs;

use cargo_metadata::{DependencyKind, MetadataCommand};

use super::files;

/// The libraries, with those of ours that each may use. The README draws the same picture.
const ARROWS: &[(&str, &[&str])] = &[
    ("mcp", &[]),
    ("policy", &[]),
    ("rollout", &[]),
    ("search", &[]),
    ("signature", &[]),
    ("settings", &[]),
    ("store", &[]),
    ("telemetry", &[]),
    ("admin-api", &[]),
    ("openapi", &[]),
    ("wasm", &[]),
    ("translate", &["mcp"]),
    ("legacy", &["mcp", "store"]),
    ("registry", &["store"]),
    ("account", &[]),
    (
        "edge",
        &[
            "account",
            "admin-api",
            "legacy",
            "mcp",
            "policy",
            "registry",
            "search",
            "settings",
            "signature",
            "store",
            "telemetry",
            "translate",
        ],
    ),
    (
        "app",
        &[
            "admin-api",
            "legacy",
            "mcp",
            "openapi",
            "registry",
            "settings",
            "store",
            "telemetry",
            "wasm",
        ],
    ),
    (
        "cli",
        &[
            "account",
            "admin-api",
            "mcp",
            "registry",
            "rollout",
            "settings",
            "store",
            "telemetry",
        ],
    ),
    ("loadtest", &["mcp", "settings"]),
    ("testkit", &[]),
    ("tests", &[]),
];

/// Crates that decide and do nothing else, and words that would betray them.
const PURE: &[&str] = &[
    "mcp",
    "translate",
    "openapi",
    "policy",
    "rollout",
    "search",
    "signature",
];
const IMPURE_WORDS: &[&str] = &[
    "async fn",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net",
    "std::env::var",
    "tokio::",
    "rand::rng(",
];

/// Crates that alone may name a library.
const ONLY: &[(&str, &str)] = &[
    ("pingora", "edge"),
    ("axum", "app"),
    ("goose", "loadtest"),
    ("ratatui", "cli"),
    ("wasmtime", "wasm"),
];

#[test]
fn arrows_between_crates_are_those_of_the_readme() {
    let metadata = MetadataCommand::new()
        .manifest_path(testkit::workspace().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for package in &metadata.packages {
        let may = allowed.get(package.name.as_str()).unwrap_or_else(|| {
            panic!(
                "{} is not in the picture: add it here and in the README",
                package.name
            )
        });
        for dependency in &package.dependencies {
            if dependency.path.is_some() && dependency.kind != DependencyKind::Development {
                assert!(
                    may.contains(&dependency.name.as_str()),
                    "{} must not use {}",
                    package.name,
                    dependency.name
                );
            }
            for (library, only) in ONLY {
                assert!(
                    dependency.name != *library
                        || package.name.as_str() == *only
                        || dependency.kind == DependencyKind::Development,
                    "only {only} names {library}, not {}",
                    package.name
                );
            }
        }
    }
}

#[test]
fn deciding_crates_do_nothing_else() {
    for name in PURE {
        for file in files(
            &testkit::workspace().join("services").join(name).join("src"),
            "rs",
        ) {
            // Files of tests alone.
            if ["tests", "simulation"]
                .iter()
                .any(|name| file.file_stem().is_some_and(|stem| stem == *name))
            {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            // Tests may wait and draw; what is built may not.
            let built = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in built.lines().filter(|l| !l.trim_start().starts_with("//")) {
                for word in IMPURE_WORDS {
                    assert!(
                        !line.contains(word),
                        "{}: {word} in {line:?}",
                        file.display()
                    );
                }
            }
        }
    }
}

#[test]
fn each_dependency_says_why_it_is_there() {
    for file in files(&testkit::workspace(), "toml") {
        if file.file_name().is_none_or(|name| name != "Cargo.toml")
            || file.parent() == Some(&testkit::workspace())
        {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let mut in_dependencies = false;
        let mut explained = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
                explained = false;
            } else if line.trim().is_empty() {
                explained = false;
            } else if line.starts_with('#') {
                explained = true;
            } else if in_dependencies && line.contains('=') {
                // Lines of one group share the reason above them.
                assert!(explained, "{}: say why above: {line}", file.display());
            }
        }
    }
}

#[test]
fn nothing_is_silenced_without_a_reason() {
    for file in files(&testkit::workspace(), "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let bare = ["#[", "#!["].map(|open| format!("{open}allow("));
        for (number, line) in text.lines().enumerate() {
            assert!(
                !bare
                    .iter()
                    .any(|b| line.trim_start().starts_with(b.as_str())),
                "{}:{}: use #[expect(…, reason = …)]",
                file.display(),
                number + 1
            );
        }
    }
}

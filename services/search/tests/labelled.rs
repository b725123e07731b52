//! A hundred tools as fleets have them, and what people ask for, each with the tool that does it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use search::{Document, Index};

const TOOLS: &str = include_str!("tools.txt");
const QUERIES: &str = include_str!("queries.txt");

fn documents() -> Vec<Document<'static>> {
    let parse = |line: &'static str| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [name, description, arguments] = parts[..] else {
            panic!("not a tool: {line}");
        };
        Document {
            name,
            title: "",
            description,
            arguments,
        }
    };
    TOOLS.lines().map(parse).collect()
}

/// The part of the queries whose tool is among the first so many that are found.
fn recall(limit: usize) -> (f64, Vec<&'static str>) {
    let documents = documents();
    let index = Index::new(documents.iter().copied());
    let mut missed = Vec::new();
    for line in QUERIES.lines() {
        let (query, wanted) = line.split_once(" | ").unwrap();
        assert!(documents.iter().any(|d| d.name == wanted), "{wanted}");
        let found = index.find(query, limit);
        if !found.iter().any(|f| documents[f.at].name == wanted) {
            missed.push(line);
        }
    }
    let all = QUERIES.lines().count();
    ((all - missed.len()) as f64 / all as f64, missed)
}

#[test]
fn of_a_hundred_tools_the_right_one_is_among_the_first_five() {
    assert_eq!(documents().len(), 100);
    assert!(QUERIES.lines().count() >= 100);
    let (at_five, missed) = recall(5);
    assert!(at_five >= 0.95, "recall@5 is {at_five:.3}: {missed:#?}");
    let (at_one, missed) = recall(1);
    assert!(at_one >= 0.75, "recall@1 is {at_one:.3}: {missed:#?}");
}

#[test]
fn the_order_of_the_tools_changes_nothing() {
    let documents = documents();
    let mut turned = documents.clone();
    turned.rotate_left(37);
    let (one, other) = (
        Index::new(documents.iter().copied()),
        Index::new(turned.iter().copied()),
    );
    for line in QUERIES.lines() {
        let query = line.split(" | ").next().unwrap();
        let names = |index: &Index, of: &[Document<'static>]| -> Vec<&str> {
            index
                .find(query, 10)
                .iter()
                .map(|f| of[f.at].name)
                .collect()
        };
        assert_eq!(names(&one, &documents), names(&other, &turned), "{query}");
    }
}

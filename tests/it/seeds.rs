//! Every seed of every fuzz target, replayed: what the fuzzer found once stays found.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;

#[test]
fn every_seed_holds() {
    let folder = testkit::workspace().join("fuzz/seeds");
    for (name, check) in [
        ("envelope", targets::envelope as fn(&[u8])),
        ("session", targets::session),
        ("older", targets::older),
        ("sse", targets::sse),
        ("parked", targets::parked),
        ("bridge", targets::bridge),
        ("graphql", targets::graphql),
        ("capnp", targets::capnp),
        ("configuration", targets::configuration),
        ("openapi", targets::openapi),
        ("priority", targets::priority),
        ("language", targets::language),
        ("signature", targets::signature),
        ("search", targets::search),
        ("lines", targets::lines),
    ] {
        let mut seeds = 0;
        for entry in fs::read_dir(folder.join(name)).unwrap().flatten() {
            check(&fs::read(entry.path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}

//! What a component is told of its call.

use wasm::Grants;

use crate::harness::{call, load};

#[tokio::test]
async fn a_component_knows_which_call_it_runs_for() {
    let plugin = load(
        &wat::parse_str(include_str!("told.wat")).unwrap(),
        Grants::default(),
    );
    for (tool, told) in [
        ("request", "r-1"),
        ("span", "00-trace-span-01"),
        ("principal", "ana"),
        ("tenant", "acme"),
        ("locale", "de-CH"),
        ("flag", "new"),
    ] {
        assert_eq!(
            call(&plugin, tool, "{}").await,
            Ok(Ok(told.into())),
            "{tool}"
        );
    }
}

//! Where a call goes: first which release serves it, then (one attempt at a time) which of its instances.

use std::sync::Arc;

use mcp::{Call, Cause, Failure, Repeat};
use policy::split::Facts;

use crate::admission::Permit;
use crate::context::Context;
use crate::edge::Edge;
use crate::fleet::View;

/// A call with all that its attempts need. Holds the call's place until it is dropped.
pub struct Route {
    /// What is to be sent.
    pub call: Call,
    /// Whether it may be sent twice.
    pub repeat: Repeat,
    /// The fleet as it was when the release was chosen: one call sees one split.
    pub view: Arc<View>,
    /// The release that serves it.
    pub release: Arc<str>,
    _permit: Option<Permit>,
}

/// Chooses the release.
///
/// # Errors
/// [`Cause::NoBackend`] when nobody has said yet where traffic goes.
pub fn choose(
    edge: &Edge,
    context: &Context,
    call: Call,
    permit: Option<Permit>,
) -> Result<Route, Failure> {
    let view = edge.fleet.view();
    let split = view.split().ok_or_else(|| Failure::new(Cause::NoBackend))?;
    let facts = Facts {
        pinned: context.pinned.as_deref(),
        sticky: context.sticky,
        random: edge.turns.next(),
    };
    let chosen = split.choose(&facts).release;
    // A candidate without an instance must not cost anybody a call.
    let release = if view.has_instances(chosen) {
        chosen
    } else {
        split.stable()
    };
    Ok(Route {
        repeat: edge.catalogue.load().repeat(&call),
        release: Arc::clone(release),
        call,
        view: Arc::clone(&view),
        _permit: permit,
    })
}

//! What an instance lacks that others of its release offer: a plugin of it is still starting, or has failed.
//!
//! Its own health is no measure of that, since it answers well: "no such tool". So calls of what it lacks, and
//! lists, go to the others while there are any. In a healthy fleet there are no gaps, and this costs nothing.

use std::collections::{BTreeSet, HashMap};

use mcp::Method;
use policy::balance::BackendId;
use registry::Instance;

/// Gaps of one release.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    by_tool: HashMap<String, Vec<BackendId>>,
    /// Instances with any gap.
    any: Vec<BackendId>,
}

impl Gaps {
    /// Compares what the instances of a release say that they offer.
    pub fn among(instances: &[(BackendId, &Instance)]) -> Gaps {
        let offered: Vec<(BackendId, BTreeSet<&str>)> = instances
            .iter()
            .map(|(id, instance)| (*id, tools(instance)))
            .collect();
        let all: BTreeSet<&str> = offered
            .iter()
            .flat_map(|(_, tools)| tools)
            .copied()
            .collect();
        let mut gaps = Gaps::default();
        for (id, tools) in &offered {
            let lacking = all.difference(tools);
            for tool in lacking {
                gaps.by_tool
                    .entry((*tool).to_owned())
                    .or_default()
                    .push(*id);
            }
            if tools.len() < all.len() {
                gaps.any.push(*id);
            }
        }
        gaps
    }

    /// The instances that would answer such a call without what it is about.
    pub fn to_avoid(&self, method: &Method, name: Option<&str>) -> &[BackendId] {
        match (method, name) {
            _ if self.any.is_empty() => &[],
            (Method::ToolsCall, Some(name)) => self.by_tool.get(name).map_or(&[], Vec::as_slice),
            // Of the rest it is not known what an instance lacks.
            _ => &self.any,
        }
    }
}

fn tools(instance: &Instance) -> BTreeSet<&str> {
    let tools = instance.plugins.iter().flat_map(|plugin| &plugin.tools);
    tools.map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use policy::balance::{Member, Pool, Rules};
    use registry::{PluginState, Role};

    use super::*;

    fn instance(name: &str, tools: &[&str]) -> Instance {
        let mut instance = Instance::new(Role::App, name, "r", "127.0.0.1:1");
        instance.plugins = vec![PluginState {
            tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
            ..PluginState::default()
        }];
        instance
    }

    #[test]
    fn a_call_goes_where_its_tool_is() {
        let now = Instant::now();
        let pool = Pool::new(Rules::default(), now);
        let member = |key: &str| Member {
            key: key.to_owned(),
            weight: 1,
            draining: false,
            target: (),
        };
        pool.set_members(["a", "b", "c"].map(member), now);
        let id = |key: &str| {
            pool.status(now)
                .into_iter()
                .find(|s| s.key == key)
                .unwrap()
                .id
        };
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let whole = instance("a", &["x", "y"]);
        let (no_y, nothing) = (instance("b", &["x"]), instance("c", &[]));
        let gaps = Gaps::among(&[(a, &whole), (b, &no_y), (c, &nothing)]);
        let call = |name| gaps.to_avoid(&Method::ToolsCall, Some(name)).to_vec();
        assert_eq!(call("x"), [c]);
        assert_eq!(call("y"), [b, c]);
        assert_eq!(call("unknown"), []);
        assert_eq!(gaps.to_avoid(&Method::ToolsList, None), [b, c]);
        // What nobody has is nobody's gap.
        assert_eq!(Gaps::among(&[(a, &whole), (b, &whole)]), Gaps::default());
    }
}

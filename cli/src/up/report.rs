//! What `up` says at the end: where the fleet is, a token, and what to try next.

use anyhow::Result;
use registry::{Desired, Role};
use serde::Serialize;
use settings::Settings;

use super::ready::Tool;
use crate::context::{Context, Endpoints};
use crate::keys::TokenRequest;
use crate::output::{Report, Tone, paint};
use crate::token::{DEFAULT_SUBJECT, DEFAULT_TTL};

/// The result of `up`.
#[derive(Debug, Serialize)]
pub(crate) struct Up {
    endpoints: Endpoints,
    token: String,
    edges: u32,
    apps: u32,
    changed: Vec<String>,
    next: Vec<String>,
}

impl Up {
    /// Gathers what there is to say; signs a development token.
    pub(crate) fn new(
        ctx: &Context,
        settings: &Settings,
        desired: &Desired,
        changed: Vec<String>,
        first: &Tool,
    ) -> Result<Self> {
        let endpoints = ctx.endpoints()?;
        let token = ctx.token(
            settings,
            TokenRequest {
                issuer: String::new(),
                audience: String::new(),
                subject: DEFAULT_SUBJECT.to_owned(),
                tenant: None,
                scope: "mcp".to_owned(),
                ttl: DEFAULT_TTL,
            },
        )?;
        let count = |role| {
            desired
                .pools
                .iter()
                .filter(|p| p.role == role)
                .map(|p| p.replicas)
                .sum()
        };
        let jsonrpc = endpoints.jsonrpc.clone().unwrap_or_default();
        let call = format!(
            r#"curl -s {jsonrpc} -H "Authorization: Bearer $(sweetops token)" -H 'Content-Type: application/json' -d '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}","arguments":{}}}}}'"#,
            first.name, first.arguments
        );
        Ok(Self {
            endpoints,
            token: token.token,
            edges: count(Role::Edge),
            apps: count(Role::App),
            changed,
            next: vec![
                call,
                "sweetops top".to_owned(),
                "sweetops deploy --canary 5%".to_owned(),
            ],
        })
    }
}

impl Report for Up {
    fn text(&self, color: bool) -> String {
        let mut text = paint(color, Tone::Good, "up");
        text.push_str(&format!(": {} edge, {} apps\n\n", self.edges, self.apps));
        for (name, address) in [
            ("MCP", &self.endpoints.mcp),
            ("JSON-RPC", &self.endpoints.jsonrpc),
            ("batches", &self.endpoints.batch),
            ("GraphQL", &self.endpoints.graphql),
            ("Cap'n Proto", &self.endpoints.capnp),
            ("operators", &self.endpoints.admin),
        ] {
            text.push_str(&format!(
                "  {name:<12} {}\n",
                address.as_deref().unwrap_or("-")
            ));
        }
        text.push_str(&format!("\n  token        {}\n\nTry next:\n", self.token));
        for command in &self.next {
            text.push_str(&format!("  {command}\n"));
        }
        text
    }
}

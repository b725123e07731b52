//! What `up` says at the end: where the fleet is, a token, and what to try next.

use std::path::Path;

use anyhow::Result;
use registry::{Desired, Role};
use serde::Serialize;
use settings::Settings;

use super::ready::Tool;
use crate::context::{Context, Endpoints};
use crate::keys::TokenRequest;
use crate::output::{Report, Tone, paint};
use crate::state::StateDir;
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
        let program = program(ctx);
        let call = format!(
            r#"curl -s {jsonrpc} -H "Authorization: Bearer $({program} token)" -H 'Content-Type: application/json' -d '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}","arguments":{}}}}}'"#,
            first.name, first.arguments
        );
        Ok(Self {
            endpoints,
            token: token.token,
            edges: count(Role::Edge),
            apps: count(Role::App),
            changed,
            next: vec![call, format!("{program} top"), format!("{program} drift")],
        })
    }
}

/// How to call this program again from the same shell: by its name if that finds it, and with the state
/// folder if that was named on the command line.
fn program(ctx: &Context) -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search)
        .map(|folder| folder.join("sweetops"))
        .find(|p| p.is_file());
    let by_name = found.is_some_and(|p| p.canonicalize().is_ok_and(|p| p == own));
    let name = if by_name {
        "sweetops".to_owned()
    } else {
        quoted(&own.to_string_lossy())
    };
    let known = StateDir::locate(
        std::env::var_os("SWEETOPS_STATE").as_deref().map(Path::new),
        |name| std::env::var_os(name),
    );
    match known {
        Ok(known) if known == ctx.state => name,
        _ => format!(
            "{name} --state {}",
            quoted(&ctx.state.path().to_string_lossy())
        ),
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl Report for Up {
    fn text(&self, color: bool) -> String {
        let mut text = paint(color, Tone::Good, "up");
        let some = |n: u32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        text.push_str(&format!(
            ": {}, {}\n\n",
            some(self.edges, "edge"),
            some(self.apps, "app")
        ));
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

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("/opt/sweetops"), "/opt/sweetops");
        assert_eq!(quoted("/my files/it's"), r"'/my files/it'\''s'");
    }
}

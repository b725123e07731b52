//! `sweetops token`: signs a token with the fleet's own key.

use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::exit::Exit;
use crate::keys::{Token, TokenRequest};
use crate::output::Report;

/// Sign a token that the edges accept.
///
/// The fleet's own key signs; only the owner of the state folder can read it. The token goes to standard
/// output alone, so that it can stand in a command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops token\n  \
    sweetops token --subject ana --tenant acme --ttl 1h\n  \
    curl -H \"Authorization: Bearer $(sweetops token)\" …")]
pub(crate) struct TokenArgs {
    /// How long the token is good for
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = duration)]
    ttl: Duration,
    /// Who calls
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SUBJECT)]
    subject: String,
    /// The tenant that the caller belongs to
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// What the caller may do; may be repeated
    #[arg(long, value_name = "SCOPE", default_value = "mcp")]
    scope: Vec<String>,
}

/// The caller's name when none is given.
pub(crate) const DEFAULT_SUBJECT: &str = "developer";
/// The life of a development token.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(12 * 3600);

/// A duration on the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    settings::quantity::parse_duration(text).map_err(|e| e.to_string())
}

/// Signs and prints.
pub(crate) async fn run(ctx: &Context, args: TokenArgs) -> Result<Exit> {
    let settings = ctx.edge_settings().await?;
    let token = ctx.token(
        &settings,
        TokenRequest {
            issuer: String::new(),
            audience: String::new(),
            subject: args.subject,
            tenant: args.tenant,
            scope: args.scope.join(" "),
            ttl: args.ttl,
        },
    )?;
    ctx.out.report(&token, Exit::DONE)
}

impl Report for Token {
    fn text(&self, _color: bool) -> String {
        format!("{}\n", self.token)
    }
}

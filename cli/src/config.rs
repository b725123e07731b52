//! `sweetops config`: what can be configured, and whether a file is right.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Report;

/// Show what can be configured, or check a file.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sweetops config docs\n  sweetops config explain edge.rate.burst\n  sweetops config validate sweetmcp.toml\n  sweetops config schema > sweetmcp.schema.json"
)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the JSON Schema of sweetmcp.toml
    Schema,
    /// Print every key with its default and meaning
    Docs,
    /// Say what a key means, what it is now, and where that comes from
    Explain {
        /// The key, such as edge.rate.burst
        key: String,
        /// The configuration [default: the fleet's]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a file; exit 2 when it is wrong
    Validate {
        /// The file [default: the fleet's]
        file: Option<PathBuf>,
    },
}

/// Words, for people and programs alike.
#[derive(Debug, Serialize)]
struct Words {
    text: String,
}

impl Report for Words {
    fn text(&self, _color: bool) -> String {
        self.text.clone()
    }
}

/// The schema is JSON in either form.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Schema(Value);

impl Report for Schema {
    fn text(&self, _color: bool) -> String {
        format!("{:#}\n", self.0)
    }
}

/// Shows or checks.
pub(crate) fn run(ctx: &Context, args: ConfigArgs) -> Result<Exit> {
    match args.what {
        What::Schema => {
            ctx.out
                .result(&Schema(settings::schema_json()).text(false))?;
            Ok(Exit::DONE)
        }
        What::Docs => ctx.out.report(
            &Words {
                text: settings::reference_markdown(),
            },
            Exit::DONE,
        ),
        What::Explain { key, config } => explain(ctx, &key, config),
        What::Validate { file } => {
            let path = ctx.config(file.as_deref())?;
            ctx.settings(&path)?;
            ctx.out.report(
                &Words {
                    text: format!("{} is right\n", path.display()),
                },
                Exit::DONE,
            )
        }
    }
}

fn explain(ctx: &Context, key: &str, config: Option<PathBuf>) -> Result<Exit> {
    let mut text = settings::explain(key).map_err(|nearest| {
        Failure::new(format!("there is no key {key:?}"))
            .hint(format!(
                "the nearest is {nearest}; `sweetops config docs` lists them all"
            ))
            .exit(Exit::USAGE)
    })?;
    let path = ctx.config(config.as_deref())?;
    if path.exists() {
        let loaded = ctx.settings(&path)?;
        if let Some(value) = loaded.settings.shown().get(key) {
            let origin = loaded
                .origins
                .get(key)
                .map_or_else(|| "default".to_owned(), ToString::to_string);
            text.push_str(&format!("  now:     {value} ({origin})\n"));
        }
    }
    ctx.out.report(&Words { text }, Exit::DONE)
}

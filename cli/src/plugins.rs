//! `sweetops plugin`: what the fleet's plugins are, what of them has changed since it was pinned, and letting that in.
//!
//! The apps write what waits beside the pins (`pins/NAME.waiting.json`); approving moves it into the pins, which the apps
//! read again within seconds. Nobody else writes pins that are there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use registry::PluginPhase;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use settings::PluginKind;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Report, Tone, printable, table};
use crate::state::{read_optional, write_atomic};

/// How much of a digest a table shows.
const DIGEST_CHARS: usize = 12;

/// Show the fleet's plugins, and approve what has changed in them.
///
/// With `pins = "refuse"`, a plugin's tools, prompts, resources and files stay what they were when they were first seen;
/// one that changes, or is new, is not served before it is approved here.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    sweetops plugin\n  \
    sweetops plugin show tracker\n  \
    sweetops plugin approve tracker tools/search\n  \
    sweetops plugin approve tracker --all"
)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Show(ShowArgs),
    Approve(ApproveArgs),
}

/// Show what waits for approval: the definition as it is pinned, and as it is now.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops plugin show tracker\n  \
    sweetops plugin show tracker -o json | jq '.waiting[].now'")]
struct ShowArgs {
    /// The plugin's name
    name: String,
}

/// Approve what waits; the apps serve it within seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops plugin approve tracker tools/search\n  \
    sweetops plugin approve tracker tools/search=1f09ab   (refused if it is another by now)\n  \
    sweetops plugin approve tracker --all")]
struct ApproveArgs {
    /// The plugin's name
    name: String,
    /// What to approve, as `show` lists it; with `=` and the beginning of its digest, only if that is still the one
    #[arg(value_name = "ITEM[=DIGEST]", required_unless_present = "all")]
    items: Vec<String>,
    /// Approve everything that waits
    #[arg(long, conflicts_with = "items")]
    all: bool,
}

/// Shows or approves.
pub(crate) async fn run(ctx: &Context, args: PluginArgs) -> Result<Exit> {
    match args.what {
        None => list(ctx).await,
        Some(What::Show(args)) => show(ctx, &args.name),
        Some(What::Approve(args)) => approve(ctx, &args),
    }
}

/// One pinned thing, as the apps write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pin {
    sha256: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    definition: Value,
}

type Pinned = BTreeMap<String, Pin>;

/// The two kinds of pins, by what follows the plugin's name in the file's.
const BOOKS: [&str; 2] = ["", ".files"];

fn book(ctx: &Context, name: &str, book: &str, part: &str) -> PathBuf {
    let folder = ctx.state.path().join("pins");
    folder.join(format!("{name}{book}{part}.json"))
}

fn read(path: &Path) -> Result<Pinned> {
    let Some(bytes) = read_optional(path)? else {
        return Ok(Pinned::new());
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{} holds no pins", path.display()))
}

fn waiting(ctx: &Context, name: &str) -> Result<Vec<(&'static str, Pinned)>> {
    let read = |part| Ok((part, read(&book(ctx, name, part, ".waiting"))?));
    BOOKS.into_iter().map(read).collect()
}

/// All plugins.
#[derive(Debug, Serialize)]
struct Plugins {
    plugins: Vec<PluginView>,
}

/// One plugin.
#[derive(Debug, Serialize)]
struct PluginView {
    name: String,
    kind: &'static str,
    pins: String,
    /// Instances in which it is ready, of those that have it.
    ready: usize,
    instances: usize,
    tools: usize,
    waiting: usize,
}

async fn list(ctx: &Context) -> Result<Exit> {
    let settings = ctx.settings(&ctx.config(None)?)?.settings;
    let mut follower = registry::watch_fleet(ctx.store().await?.clone());
    let fleet = crate::traffic::look(&mut follower).await?;
    let mut plugins = Vec::new();
    for plugin in &settings.plugins {
        let states: Vec<_> = fleet
            .live(registry::Role::App)
            .filter_map(|app| app.plugins.iter().find(|state| state.name == plugin.name))
            .collect();
        let waiting = waiting(ctx, &plugin.name)?;
        plugins.push(PluginView {
            name: plugin.name.clone(),
            kind: kind(&plugin.kind),
            pins: format!("{:?}", plugin.pins).to_lowercase(),
            ready: states
                .iter()
                .filter(|state| state.state == PluginPhase::Ready)
                .count(),
            instances: states.len(),
            tools: states
                .iter()
                .map(|state| state.tools.len())
                .max()
                .unwrap_or(0),
            waiting: waiting.iter().map(|(_, pins)| pins.len()).sum(),
        });
    }
    ctx.out.report(&Plugins { plugins }, Exit::DONE)
}

fn kind(kind: &PluginKind) -> &'static str {
    match kind {
        PluginKind::Stdio { .. } => "stdio",
        PluginKind::Http { .. } => "http",
        PluginKind::Openapi { .. } => "openapi",
        PluginKind::Wasm { .. } => "wasm",
        PluginKind::Builtin { .. } => "builtin",
    }
}

impl Report for Plugins {
    fn text(&self, color: bool) -> String {
        let row = |one: &PluginView| {
            let ready = match (one.ready, one.instances) {
                (ready, all) if ready == all => Tone::Good,
                (0, _) => Tone::Bad,
                _ => Tone::Warn,
            };
            let waits = (one.waiting > 0).then_some(Tone::Warn);
            vec![
                (None, one.name.clone()),
                (None, one.kind.to_owned()),
                (Some(ready), format!("{}/{}", one.ready, one.instances)),
                (None, one.tools.to_string()),
                (None, one.pins.clone()),
                (waits, one.waiting.to_string()),
            ]
        };
        let rows: Vec<_> = self.plugins.iter().map(row).collect();
        let heading = ["PLUGIN", "KIND", "READY", "TOOLS", "PINS", "WAITING"];
        let mut text = table(color, &heading, &rows);
        if let Some(one) = self.plugins.iter().find(|one| one.waiting > 0) {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\n`sweetops plugin show {}` tells what waits",
                one.name
            );
        }
        text
    }
}

/// What waits in one plugin.
#[derive(Debug, Serialize)]
struct Waiting {
    plugin: String,
    waiting: Vec<WaitingView>,
}

/// One thing that waits.
#[derive(Debug, Serialize)]
struct WaitingView {
    item: String,
    sha256: String,
    /// The pinned digest; absent if the item is new.
    pinned_sha256: Option<String>,
    /// The definition as it is pinned; null for files and new items.
    was: Value,
    /// The definition as it is now; null for files.
    now: Value,
}

fn show(ctx: &Context, name: &str) -> Result<Exit> {
    ctx.out.report(&waiting_of(ctx, name)?, Exit::DONE)
}

fn waiting_of(ctx: &Context, name: &str) -> Result<Waiting> {
    known(ctx, name)?;
    let mut views = Vec::new();
    for (part, waits) in waiting(ctx, name)? {
        let pinned = read(&book(ctx, name, part, ""))?;
        views.extend(waits.into_iter().map(|(item, pin)| {
            let before = pinned.get(&item);
            WaitingView {
                pinned_sha256: before.map(|pin| pin.sha256.clone()),
                was: before.map_or(Value::Null, |pin| pin.definition.clone()),
                sha256: pin.sha256,
                now: pin.definition,
                item,
            }
        }));
    }
    Ok(Waiting {
        plugin: name.to_owned(),
        waiting: views,
    })
}

/// Refuses a name that no plugin has, so that it is no path either.
fn known(ctx: &Context, name: &str) -> Result<()> {
    let settings = ctx.settings(&ctx.config(None)?)?.settings;
    if settings.plugins.iter().any(|plugin| plugin.name == name) {
        return Ok(());
    }
    let names: Vec<_> = settings
        .plugins
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    Err(Failure::new(format!("there is no plugin {name:?}"))
        .hint(format!("there are {}", names.join(", ")))
        .exit(Exit::USAGE)
        .into())
}

impl Report for Waiting {
    fn text(&self, color: bool) -> String {
        if self.waiting.is_empty() {
            return format!("nothing of {} waits for approval\n", self.plugin);
        }
        let short = |digest: &str| digest.chars().take(DIGEST_CHARS).collect::<String>();
        let row = |one: &WaitingView| {
            let pinned = one.pinned_sha256.as_deref();
            vec![
                (None, printable(&one.item)),
                (None, pinned.map_or_else(|| "new".to_owned(), short)),
                (Some(Tone::Warn), short(&one.sha256)),
            ]
        };
        let rows: Vec<_> = self.waiting.iter().map(row).collect();
        let mut text = table(color, &["ITEM", "PINNED", "NOW"], &rows);
        for one in self.waiting.iter().filter(|one| !one.now.is_null()) {
            let _ = writeln!(text, "\n{}", printable(&one.item));
            for (word, definition) in [("was", &one.was), ("now", &one.now)] {
                if !definition.is_null() {
                    let _ = writeln!(text, "  {word}  {}", printable(&definition.to_string()));
                }
            }
        }
        let _ = writeln!(
            text,
            "\n`sweetops plugin approve {} ITEM` lets one in",
            self.plugin
        );
        text
    }
}

/// What was approved.
#[derive(Debug, Serialize)]
struct Approved {
    plugin: String,
    approved: BTreeMap<String, String>,
}

impl Report for Approved {
    fn text(&self, _color: bool) -> String {
        self.approved
            .iter()
            .fold(String::new(), |mut text, (item, digest)| {
                let _ = writeln!(text, "approved {} with {digest}", printable(item));
                text
            })
    }
}

fn approve(ctx: &Context, args: &ApproveArgs) -> Result<Exit> {
    known(ctx, &args.name)?;
    let waiting = waiting(ctx, &args.name)?;
    let wanted = if args.all {
        None
    } else {
        Some(args.items.as_slice())
    };
    let chosen = choose(&waiting, wanted)?;
    let mut approved = BTreeMap::new();
    for (part, pins) in chosen {
        if pins.is_empty() {
            continue;
        }
        let path = book(ctx, &args.name, part, "");
        let mut pinned = read(&path)?;
        approved.extend(
            pins.iter()
                .map(|(item, pin)| (item.clone(), pin.sha256.clone())),
        );
        pinned.extend(pins);
        write_atomic(&path, &serde_json::to_vec_pretty(&pinned)?)?;
    }
    if approved.is_empty() {
        ctx.out
            .step(&format!("nothing of {} waits for approval", args.name));
    }
    let plugin = args.name.clone();
    ctx.out.report(&Approved { plugin, approved }, Exit::DONE)
}

/// Picks what was asked for out of what waits; everything for `None`.
fn choose(
    waiting: &[(&'static str, Pinned)],
    wanted: Option<&[String]>,
) -> Result<Vec<(&'static str, Pinned)>> {
    let Some(wanted) = wanted else {
        return Ok(waiting.to_vec());
    };
    let mut chosen: Vec<(&'static str, Pinned)> = waiting
        .iter()
        .map(|(part, _)| (*part, Pinned::new()))
        .collect();
    for text in wanted {
        let holds = |item: &str| waiting.iter().position(|(_, pins)| pins.contains_key(item));
        // A name may have `=` in it.
        let (item, digest) = match (holds(text), text.rsplit_once('=')) {
            (None, Some((item, digest))) => (item, Some(digest)),
            _ => (text.as_str(), None),
        };
        let found = holds(item).and_then(|at| Some((at, waiting.get(at)?.1.get(item)?)));
        let Some((at, pin)) = found else {
            return Err(Failure::new(format!("{item:?} does not wait for approval"))
                .hint("`sweetops plugin show NAME` lists what does")
                .exit(Exit::USAGE)
                .into());
        };
        if digest.is_some_and(|digest| digest.is_empty() || !pin.sha256.starts_with(digest)) {
            return Err(
                Failure::new(format!("{item:?} is another by now: {}", pin.sha256))
                    .hint("look at it again with `sweetops plugin show NAME`")
                    .exit(Exit::REFUSED)
                    .into(),
            );
        }
        if let Some((_, pins)) = chosen.get_mut(at) {
            pins.insert(item.to_owned(), pin.clone());
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::tell;

    fn pin(sha256: &str, definition: Value) -> Pin {
        let sha256 = sha256.to_owned();
        Pin { sha256, definition }
    }

    fn waits() -> Vec<(&'static str, Pinned)> {
        let tools = [
            ("tools/a".to_owned(), pin("1f09ab", json!({"name": "a"}))),
            ("resources/x?y=z".to_owned(), pin("22", json!({}))),
        ];
        let files = [("/srv/a=b.py".to_owned(), pin("33", Value::Null))];
        vec![("", tools.into()), (".files", files.into())]
    }

    #[test]
    fn what_is_approved_is_what_was_seen() {
        let chosen = |items: &[&str]| {
            let items: Vec<String> = items.iter().map(|&item| item.to_owned()).collect();
            choose(&waits(), Some(&items)).map(|chosen| {
                let names = chosen.into_iter().flat_map(|(_, pins)| pins.into_keys());
                names.collect::<Vec<_>>()
            })
        };
        assert_eq!(chosen(&["tools/a"]).unwrap(), ["tools/a"]);
        assert_eq!(chosen(&["tools/a=1f09"]).unwrap(), ["tools/a"]);
        assert_eq!(
            chosen(&["/srv/a=b.py", "resources/x?y=z=22"]).unwrap(),
            ["resources/x?y=z", "/srv/a=b.py"]
        );
        assert_eq!(choose(&waits(), None).unwrap(), waits());
        for (item, exit) in [
            ("tools/a=2f", Exit::REFUSED),
            ("tools/a=", Exit::REFUSED),
            ("tools/b", Exit::USAGE),
            ("../../x", Exit::USAGE),
        ] {
            assert_eq!(tell(&chosen(&[item]).unwrap_err()).exit, exit, "{item}");
        }
    }

    #[test]
    fn people_see_what_was_and_what_is() {
        let view = |item: &str, pinned: Option<&str>, was: Value, now: Value| WaitingView {
            item: item.to_owned(),
            sha256: "1f09ab23456789".to_owned(),
            pinned_sha256: pinned.map(str::to_owned),
            was,
            now,
        };
        let waiting = Waiting {
            plugin: "tracker".to_owned(),
            waiting: vec![
                view(
                    "tools/a",
                    Some("aa00bb11cc22dd33"),
                    json!({"description": "adds"}),
                    json!({"description": "sends\u{1b}[2J"}),
                ),
                view("/srv/run", None, Value::Null, Value::Null),
            ],
        };
        insta::assert_snapshot!(waiting.text(false), @r#"
        ITEM      PINNED        NOW
        tools/a   aa00bb11cc22  1f09ab234567
        /srv/run  new           1f09ab234567

        tools/a
          was  {"description":"adds"}
          now  {"description":"sends\u001b[2J"}

        `sweetops plugin approve tracker ITEM` lets one in
        "#);
    }
}

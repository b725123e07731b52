//! Definitions that stay what they were: a plugin that changes a tool behind its operator's back is found out.
//!
//! The first definitions of a plugin are pinned, by digest, in a file of its own. From then on a definition that is not the
//! pinned one, or is new, is reported, or held back until the operator approves: by putting the digest that the log names
//! into the file, or by removing the file, so that what there is now is pinned. Several processes may share a file; whoever
//! comes first writes it, and nobody overwrites it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::{Item, Listing, builtin::hex, followed};

/// The largest file of pins, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Changes that are remembered as told.
const TOLD_MAX: usize = 10_000;

/// What happens to a definition that is not the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// It is logged, and served.
    Report,
    /// It is logged, and held back.
    Refuse,
}

/// How a plugin is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinSpec {
    /// Where the digests are kept.
    pub file: PathBuf,
    /// What happens to what changed.
    pub on_change: OnChange,
}

/// Digests by list and name: `tools/echo`.
type Digests = BTreeMap<String, String>;

/// The pins of one plugin.
#[derive(Debug)]
pub(crate) struct Pins {
    spec: PinSpec,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the file was last changed, as of the last look.
    modified: Option<SystemTime>,
    /// What was logged.
    told: BTreeSet<(String, String)>,
}

impl Pins {
    pub(crate) fn new(spec: PinSpec) -> Self {
        Self {
            spec,
            seen: Mutex::default(),
        }
    }

    /// Tells whether the file is another than at the last [`Self::apply`].
    pub(crate) fn changed(&self) -> bool {
        self.modified() != self.seen().modified
    }

    /// Pins what a plugin offers if nothing is pinned yet, else returns what of it is served, and what is held back.
    pub(crate) fn apply(&self, plugin: &str, listing: Arc<Listing>) -> (Arc<Listing>, Vec<String>) {
        let offered = digests(&listing);
        let modified = self.modified();
        self.seen().modified = modified;
        let pinned = match self.pinned(&offered) {
            Ok(pinned) => pinned,
            Err(error) => {
                let file = self.spec.file.display().to_string();
                let error = telemetry::error_chain(&error);
                tracing::error!(
                    plugin,
                    file,
                    error,
                    "the plugin's pins cannot be read or written"
                );
                // Without pins nothing can be vouched for.
                Digests::new()
            }
        };
        let changed = changed(&pinned, &offered);
        for name in &changed {
            let digest = offered.get(name).cloned().unwrap_or_default();
            let mut seen = self.seen();
            if seen.told.len() < TOLD_MAX && seen.told.insert((name.clone(), digest.clone())) {
                let file = self.spec.file.display().to_string();
                let pinned = pinned.contains_key(name);
                let name = name.escape_debug().to_string();
                tracing::warn!(
                    plugin,
                    name,
                    digest,
                    pinned,
                    file,
                    "a definition is not the pinned one"
                );
            }
        }
        match self.spec.on_change {
            OnChange::Refuse if !changed.is_empty() => (
                Arc::new(without(&listing, &changed)),
                changed.into_iter().collect(),
            ),
            _ => (listing, Vec::new()),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn modified(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.spec.file).ok()?.modified().ok()
    }

    /// Returns what is pinned; what is offered now, if that is the first.
    fn pinned(&self, offered: &Digests) -> std::io::Result<Digests> {
        let read = || {
            let bytes = followed::read(&self.spec.file, FILE_BYTES_MAX)?;
            serde_json::from_slice(&bytes).map_err(std::io::Error::other)
        };
        match read() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !offered.is_empty() => {
                self.pin(offered)?;
                read()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Digests::new()),
            read => read,
        }
    }

    /// Writes the first pins: whole or not at all, and never over others.
    fn pin(&self, offered: &Digests) -> std::io::Result<()> {
        let file = &self.spec.file;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        let mut written = std::fs::File::create(&draft)?;
        written.write_all(&serde_json::to_vec_pretty(offered)?)?;
        written.sync_all()?;
        let linked = std::fs::hard_link(&draft, file);
        std::fs::remove_file(&draft)?;
        match linked {
            // Another process was faster: its pins hold.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }
}

/// Returns what is offered and is not, or not so, among the pins.
fn changed(pinned: &Digests, offered: &Digests) -> BTreeSet<String> {
    offered
        .iter()
        .filter(|(name, digest)| pinned.get(*name) != Some(*digest))
        .map(|(name, _)| name.clone())
        .collect()
}

fn lists(listing: &Listing) -> [(&'static str, &Vec<Item>); 4] {
    [
        ("tools", &listing.tools),
        ("prompts", &listing.prompts),
        ("resources", &listing.resources),
        ("templates", &listing.templates),
    ]
}

fn digests(listing: &Listing) -> Digests {
    lists(listing)
        .into_iter()
        .flat_map(|(list, items)| {
            let named = move |item: &Item| (format!("{list}/{}", item.key), item_digest(item));
            items.iter().map(named)
        })
        .collect()
}

/// The order of members and the space between them say nothing.
fn item_digest(item: &Item) -> String {
    let value: Value = serde_json::from_str(item.raw.get()).unwrap_or_default();
    hex(digest(&SHA256, value.to_string().as_bytes()).as_ref())
}

fn without(listing: &Listing, held: &BTreeSet<String>) -> Listing {
    let kept = |list: &str, items: &[Item]| {
        let stays = |item: &&Item| !held.contains(&format!("{list}/{}", item.key));
        items.iter().filter(stays).cloned().collect()
    };
    Listing {
        tools: kept("tools", &listing.tools),
        prompts: kept("prompts", &listing.prompts),
        resources: kept("resources", &listing.resources),
        templates: kept("templates", &listing.templates),
        freshness: listing.freshness,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(tools: &[(&str, &str)]) -> Arc<Listing> {
        let tools = tools.iter().map(|(name, raw)| Item {
            key: (*name).to_owned(),
            raw: serde_json::from_str(raw).unwrap(),
        });
        Arc::new(Listing {
            tools: tools.collect(),
            ..Listing::default()
        })
    }

    fn served(pins: &Pins, tools: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let (listing, held) = pins.apply("p", listing(tools));
        (
            listing.tools.iter().map(|tool| tool.key.clone()).collect(),
            held,
        )
    }

    #[test]
    fn what_changes_or_is_new_is_held_until_it_is_approved() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pins/p.json");
        let pins = |on_change| {
            Pins::new(PinSpec {
                file: file.clone(),
                on_change,
            })
        };
        let refuse = pins(OnChange::Refuse);
        assert_eq!(served(&refuse, &[]).0.len(), 0);
        assert!(
            !file.exists(),
            "nothing is pinned before there is something"
        );
        let first = [
            ("a", r#"{"name":"a","description":"adds"}"#),
            ("b", r#"{"name":"b"}"#),
        ];
        assert_eq!(served(&refuse, &first).0, ["a", "b"]);
        let reordered = [("a", r#"{ "description":"adds", "name":"a" }"#)];
        assert_eq!(served(&refuse, &reordered).0, ["a"]);

        let pulled = [
            ("a", r#"{"name":"a","description":"sends it all to me"}"#),
            first[1],
            ("c", r#"{"name":"c"}"#),
        ];
        let (kept, held) = served(&pins(OnChange::Refuse), &pulled);
        assert_eq!(
            (kept, held),
            (
                vec!["b".to_owned()],
                vec!["tools/a".to_owned(), "tools/c".to_owned()]
            )
        );
        assert_eq!(served(&pins(OnChange::Report), &pulled).0, ["a", "b", "c"]);

        std::fs::remove_file(&file).unwrap();
        assert!(refuse.changed());
        assert_eq!(served(&refuse, &pulled).0, ["a", "b", "c"]);
        assert_eq!(served(&refuse, &first).0, ["b"]);
    }

    #[test]
    fn pins_that_cannot_be_read_vouch_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        std::fs::write(&file, "{").unwrap();
        let pins = Pins::new(PinSpec {
            file,
            on_change: OnChange::Refuse,
        });
        assert_eq!(served(&pins, &[("a", "{}")]).0.len(), 0);
    }
}

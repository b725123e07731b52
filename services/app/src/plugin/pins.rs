//! Definitions and files that stay what they were: a plugin that changes a tool behind its operator's back is found out.
//!
//! What a plugin offers first is pinned in a file of its own, and so are the digests of the files that it is made of when
//! they are first used. From then on what is not the pinned one, or is new, is reported, or held back until the operator
//! approves. What waits for that lies beside the pins, for `sweetops plugin` to show. Several processes may share the files;
//! whoever comes first writes the pins, and nobody but the operator overwrites them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Item, Listing, builtin::hex, followed};

/// The largest file of pins, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Changes that are remembered as told.
const TOLD_MAX: usize = 10_000;

/// What happens to what is not the pinned one.
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
    /// Where the pins are kept: `NAME.json`. Beside it lie `NAME.files.json` and what waits, `NAME.waiting.json` and
    /// `NAME.files.waiting.json`.
    pub file: PathBuf,
    /// What happens to what changed.
    pub on_change: OnChange,
}

/// One thing that is pinned, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    /// SHA-256 of the definition or file, in hexadecimal.
    sha256: String,
    /// The definition; null for a file.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    definition: Value,
}

/// Pins by list and name, `tools/echo`, or by path.
type Pinned = BTreeMap<String, Pin>;

/// A file of pins, and what waits to get into it.
#[derive(Debug)]
struct Book {
    file: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the file was last changed, as of the last look.
    modified: Option<SystemTime>,
    /// What was logged.
    told: BTreeSet<(String, String)>,
    /// What we have said to be waiting.
    waiting: Pinned,
}

impl Book {
    fn new(file: PathBuf) -> Self {
        let seen = Mutex::default();
        Self { file, seen }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn modified(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.file).ok()?.modified().ok()
    }

    /// Pins what is offered if nothing is pinned yet, else returns what of it is not, or not so, among the pins.
    fn changed(&self, plugin: &str, offered: &Pinned) -> BTreeSet<String> {
        self.seen().modified = self.modified();
        let cannot = |error: &std::io::Error, what: &str| {
            let file = self.file.display().to_string();
            let error = telemetry::error_chain(error);
            tracing::error!(
                plugin,
                file,
                error,
                what,
                "the plugin's pins cannot be used"
            );
        };
        let pinned = self.pinned(offered).unwrap_or_else(|error| {
            cannot(&error, "read or written");
            // Without pins nothing can be vouched for.
            Pinned::new()
        });
        let waiting: Pinned = offered
            .iter()
            .filter(|(name, pin)| {
                pinned.get(*name).map(|pin| pin.sha256.as_str()) != Some(&pin.sha256)
            })
            .map(|(name, pin)| (name.clone(), pin.clone()))
            .collect();
        for (name, pin) in &waiting {
            let mut seen = self.seen();
            let change = (name.clone(), pin.sha256.clone());
            if seen.told.len() < TOLD_MAX && seen.told.insert(change) {
                let (digest, was_pinned) = (pin.sha256.as_str(), pinned.contains_key(name));
                let name = name.escape_debug().to_string();
                tracing::warn!(
                    plugin,
                    name,
                    digest,
                    was_pinned,
                    "a definition or file is not the pinned one; `sweetops plugin show` tells more"
                );
            }
        }
        let names = waiting.keys().cloned().collect();
        if let Err(error) = self.tell_waiting(waiting) {
            cannot(&error, "told what waits");
        }
        names
    }

    /// Returns what is pinned; what is offered now, if that is the first.
    fn pinned(&self, offered: &Pinned) -> std::io::Result<Pinned> {
        let read = || {
            let bytes = followed::read(&self.file, FILE_BYTES_MAX)?;
            serde_json::from_slice(&bytes).map_err(std::io::Error::other)
        };
        match read() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !offered.is_empty() => {
                self.pin(offered)?;
                read()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Pinned::new()),
            read => read,
        }
    }

    /// Writes the first pins: whole or not at all, and never over others.
    fn pin(&self, offered: &Pinned) -> std::io::Result<()> {
        let draft = draft(&self.file, offered)?;
        let linked = std::fs::hard_link(&draft, &self.file);
        std::fs::remove_file(&draft)?;
        match linked {
            // Another process was faster: its pins hold.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }

    /// Writes what waits beside the pins, if it is not what we wrote before.
    fn tell_waiting(&self, waiting: Pinned) -> std::io::Result<()> {
        let mut seen = self.seen();
        if seen.waiting == waiting {
            return Ok(());
        }
        let file = self.file.with_extension("waiting.json");
        if waiting.is_empty() {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            std::fs::rename(draft(&file, &waiting)?, &file)?;
        }
        seen.waiting = waiting;
        Ok(())
    }
}

/// Writes pins into a file beside the one that they are for.
fn draft(file: &Path, pins: &Pinned) -> std::io::Result<PathBuf> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let draft = file.with_extension(format!("{}.draft", std::process::id()));
    let mut written = std::fs::File::create(&draft)?;
    written.write_all(&serde_json::to_vec_pretty(pins)?)?;
    written.sync_all()?;
    Ok(draft)
}

/// The definitions of one plugin.
#[derive(Debug)]
pub(crate) struct Pins {
    book: Book,
    on_change: OnChange,
}

impl Pins {
    pub(crate) fn new(spec: PinSpec) -> Self {
        Self {
            book: Book::new(spec.file),
            on_change: spec.on_change,
        }
    }

    /// Tells whether the file is another than at the last [`Self::apply`].
    pub(crate) fn changed(&self) -> bool {
        self.book.modified() != self.book.seen().modified
    }

    /// Pins what a plugin offers if nothing is pinned yet, else returns what of it is served, and what is held back.
    pub(crate) fn apply(&self, plugin: &str, listing: Arc<Listing>) -> (Arc<Listing>, Vec<String>) {
        let changed = self.book.changed(plugin, &pins(&listing));
        match self.on_change {
            OnChange::Refuse if !changed.is_empty() => (
                Arc::new(without(&listing, &changed)),
                changed.into_iter().collect(),
            ),
            _ => (listing, Vec::new()),
        }
    }
}

/// The files that one plugin is made of: programs, scripts, components, documents.
#[derive(Debug)]
pub(crate) struct FilePins {
    book: Book,
    on_change: OnChange,
}

/// A plugin's files are not the pinned ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not the pinned one; `sweetops plugin approve` lets it in", .0.join(", "))]
pub(crate) struct NotPinned(Vec<String>);

impl FilePins {
    pub(crate) fn new(spec: &PinSpec) -> Self {
        Self {
            book: Book::new(spec.file.with_extension("files.json")),
            on_change: spec.on_change,
        }
    }

    /// Returns the file whose change may let in what was refused.
    pub(crate) fn path(&self) -> &Path {
        &self.book.file
    }

    /// Pins files by their digests if nothing is pinned yet, else checks that they are the pinned ones. Blocks.
    ///
    /// # Errors
    /// [`NotPinned`] when they are not, and are to be refused.
    pub(crate) fn check(
        &self,
        plugin: &str,
        files: impl IntoIterator<Item = (PathBuf, String)>,
    ) -> Result<(), NotPinned> {
        let pin = |(path, sha256): (PathBuf, String)| {
            let definition = Value::Null;
            (path.display().to_string(), Pin { sha256, definition })
        };
        let offered: Pinned = files.into_iter().map(pin).collect();
        let changed = self.book.changed(plugin, &offered);
        match self.on_change {
            OnChange::Refuse if !changed.is_empty() => {
                let shown = changed.iter().map(|path| path.escape_debug().to_string());
                Err(NotPinned(shown.collect()))
            }
            _ => Ok(()),
        }
    }
}

fn lists(listing: &Listing) -> [(&'static str, &Vec<Item>); 4] {
    [
        ("tools", &listing.tools),
        ("prompts", &listing.prompts),
        ("resources", &listing.resources),
        ("templates", &listing.templates),
    ]
}

fn pins(listing: &Listing) -> Pinned {
    lists(listing)
        .into_iter()
        .flat_map(|(list, items)| {
            let named = move |item: &Item| (format!("{list}/{}", item.key), pin(item));
            items.iter().map(named)
        })
        .collect()
}

/// The order of members and the space between them say nothing.
fn pin(item: &Item) -> Pin {
    let definition: Value = serde_json::from_str(item.raw.get()).unwrap_or_default();
    Pin {
        sha256: sha256(definition.to_string().as_bytes()),
        definition,
    }
}

/// Returns the SHA-256 of bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
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
        let other = pins(OnChange::Refuse);
        let (kept, held) = served(&other, &pulled);
        assert_eq!(
            (kept, held),
            (
                vec!["b".to_owned()],
                vec!["tools/a".to_owned(), "tools/c".to_owned()]
            )
        );
        let waiting = || std::fs::read_to_string(file.with_extension("waiting.json"));
        let waits: Value = serde_json::from_str(&waiting().unwrap()).unwrap();
        assert_eq!(
            waits["tools/a"]["definition"]["description"],
            "sends it all to me"
        );
        assert_eq!(waits.as_object().unwrap().len(), 2);
        assert_eq!(served(&other, &first).0, ["a", "b"]);
        assert!(waiting().is_err(), "nothing waits any more");
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

    #[test]
    fn a_changed_file_is_refused_or_reported() {
        let folder = tempfile::tempdir().unwrap();
        let spec = |on_change| PinSpec {
            file: folder.path().join("p.json"),
            on_change,
        };
        let files = |digest: &str| {
            let file = |name: &str, digest: &str| (PathBuf::from(name), digest.to_owned());
            [file("/bin/a", "1"), file("/srv/b", digest)]
        };
        let refuse = FilePins::new(&spec(OnChange::Refuse));
        assert_eq!(refuse.check("p", files("2")), Ok(()));
        assert_eq!(
            refuse.check("p", files("3")),
            Err(NotPinned(vec!["/srv/b".into()]))
        );
        let report = FilePins::new(&spec(OnChange::Report));
        assert_eq!(report.check("p", files("3")), Ok(()));
        let waiting = folder.path().join("p.files.waiting.json");
        let waits = std::fs::read_to_string(&waiting).unwrap();
        std::fs::write(refuse.path(), waits).unwrap();
        // Only what is in the file is approved.
        assert_eq!(
            refuse.check("p", files("3")),
            Err(NotPinned(vec!["/bin/a".into()]))
        );
    }
}

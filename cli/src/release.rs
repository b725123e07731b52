//! Releases: what an instance runs, copied into the state folder and named by its content.
//!
//! A release is a program, a configuration, the settings taken from the environment, and optionally a folder
//! of files that plugins need. Instances run from the copy, so a rebuilt program or an edited file changes
//! nothing that runs, a crashed instance comes back as what it was, and the release before is still there to
//! return to.
//!
//! The id covers the parts of the configuration that the role reads. An edit of `[edge]` therefore makes a
//! new edge release and leaves the app's as it is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{Context as Hash, SHA256};
use registry::Role;
use serde::{Deserialize, Serialize};

use crate::agent::digest_file;
use crate::binaries::program_name;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::hex;
use crate::state::{StateDir, write_atomic};

/// Files in a release's folder; a bound against a mistyped path such as `/`.
const FILES_MAX: usize = 100_000;
/// Bytes in a release's folder.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// What to make a release of.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Edge or app.
    pub(crate) role: Role,
    /// The program.
    pub(crate) program: PathBuf,
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// Files for plugins, which then run in a copy of this folder.
    pub(crate) folder: Option<PathBuf>,
    /// Settings from the environment (`SWEETMCP__…`).
    pub(crate) environment: Vec<(String, String)>,
}

/// A release in the state folder, with all that is needed to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    /// SHA-256 of its content, in hex.
    pub(crate) id: String,
    /// Edge or app.
    pub(crate) role: Role,
    /// When it was made, in milliseconds of Unix time.
    pub(crate) created_unix_ms: u64,
    /// Where the configuration and the files came from.
    pub(crate) source: String,
    /// SHA-256 of the program, in hex.
    pub(crate) binary_digest: String,
    /// Where its instances run: the copied folder, or the folder of the configuration.
    pub(crate) working_dir: PathBuf,
    /// Settings from the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Its folder; known from where it was found.
    #[serde(skip)]
    pub(crate) path: PathBuf,
}

impl Release {
    /// The copied program.
    pub(crate) fn program(&self) -> PathBuf {
        self.path.join(program_name(self.role))
    }

    /// The copied configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("sweetmcp.toml")
    }

    /// The first twelve characters of the id, for people.
    pub(crate) fn short(&self) -> &str {
        short(&self.id)
    }

    /// Finds a release by its full id.
    pub(crate) fn load(state: &StateDir, id: &str) -> Result<Self> {
        registry::check_name(id).context("that is no release id")?;
        let path = state.release(id);
        let record = path.join("release.json");
        let bytes = fs::read(&record).map_err(|e| {
            let missing = e.kind() == ErrorKind::NotFound;
            let failure = Failure::new(format!("release {} cannot be read", short(id))).source(e);
            if missing {
                failure.hint("`sweetops status` shows the releases that run")
            } else {
                failure
            }
        })?;
        let found: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not the record of a release", record.display()))?;
        Ok(Self { path, ..found })
    }

    /// The record that the whole fleet reads.
    pub(crate) fn record(&self, config_digest: &str) -> registry::Release {
        registry::Release {
            id: self.id.clone(),
            path: self.path.to_string_lossy().into_owned(),
            created_unix_ms: self.created_unix_ms,
            source: self.source.clone(),
            config_digest: config_digest.to_owned(),
            binary_digest: self.binary_digest.clone(),
        }
    }
}

/// The first twelve characters of a release id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Copies the source into the state folder, unless that very content is there already.
pub(crate) fn prepare(state: &StateDir, source: &Source) -> Result<Release> {
    let files = source
        .folder
        .as_deref()
        .map(list)
        .transpose()?
        .unwrap_or_default();
    let config = fs::read_to_string(&source.config)
        .with_context(|| format!("cannot read {}", source.config.display()))?;
    let binary_digest = digest_file(&source.program)?;
    let environment = relevant_environment(source.role, &source.environment);
    let id = identify(source, &config, &binary_digest, &environment, &files)?;
    let path = state.release(&id);
    if path.is_dir() {
        return Release::load(state, &id);
    }
    let origin = source.folder.as_deref().unwrap_or(&source.config);
    let working_dir = match source.folder {
        Some(_) => path.join("files"),
        None => source
            .config
            .parent()
            .map_or_else(|| state.path().to_owned(), Path::to_owned),
    };
    let release = Release {
        id,
        role: source.role,
        created_unix_ms: registry::unix_ms(),
        source: origin.to_string_lossy().into_owned(),
        binary_digest,
        working_dir,
        environment,
        path,
    };
    store(state, source, &config, &files, &release).with_context(|| {
        format!(
            "cannot copy release {} to {}",
            release.short(),
            state.releases().display()
        )
    })?;
    Ok(release)
}

/// Writes the folder under another name and then gives it its own, so that a release is whole or absent.
fn store(
    state: &StateDir,
    source: &Source,
    config: &str,
    files: &[Item],
    release: &Release,
) -> Result<()> {
    let draft = state
        .releases()
        .join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let write = || -> Result<()> {
        fs::create_dir(&draft)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o700))?;
        let program = draft.join(program_name(source.role));
        fs::copy(&source.program, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
        write_atomic(&draft.join("sweetmcp.toml"), config.as_bytes())?;
        if let Some(folder) = &source.folder {
            copy_files(folder, &draft.join("files"), files)?;
        }
        write_atomic(
            &draft.join("release.json"),
            &serde_json::to_vec_pretty(release)?,
        )?;
        match fs::rename(&draft, &release.path) {
            // Somebody else stored the same content meanwhile.
            Err(_) if release.path.is_dir() => Ok(fs::remove_dir_all(&draft)?),
            other => Ok(other?),
        }
    };
    write().inspect_err(|_| {
        // Useless now; the error says why.
        let _ = fs::remove_dir_all(&draft);
    })
}

/// One entry of a release's folder.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    /// Relative to the folder.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    File { executable: bool },
    Link { target: PathBuf },
    Folder,
}

/// Lists a folder in a fixed order. Version control's own folder is left out.
fn list(folder: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut bytes = 0_u64;
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let here = folder.join(&relative);
        let entries =
            fs::read_dir(&here).with_context(|| format!("cannot list {}", here.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", here.display()))?;
            if entry.file_name() == OsStr::new(".git") {
                continue;
            }
            let path = relative.join(entry.file_name());
            let meta = entry
                .metadata()
                .with_context(|| format!("cannot inspect {}", path.display()))?;
            let kind = if meta.is_symlink() {
                Kind::Link {
                    target: fs::read_link(entry.path())?,
                }
            } else if meta.is_dir() {
                pending.push(path.clone());
                Kind::Folder
            } else {
                bytes = bytes.saturating_add(meta.len());
                Kind::File {
                    executable: meta.permissions().mode() & 0o100 != 0,
                }
            };
            items.push(Item { path, kind });
            if items.len() > FILES_MAX || bytes > BYTES_MAX {
                return Err(too_large(folder).into());
            }
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

fn too_large(folder: &Path) -> Failure {
    Failure::new(format!(
        "{} is too large for a release: at most {FILES_MAX} files and {} GiB",
        folder.display(),
        BYTES_MAX >> 30,
    ))
    .hint("name a folder that holds only what the plugins need")
    .exit(Exit::USAGE)
}

fn copy_files(from: &Path, to: &Path, items: &[Item]) -> Result<()> {
    fs::create_dir(to)?;
    for item in items {
        let (source, target) = (from.join(&item.path), to.join(&item.path));
        let copied = match &item.kind {
            Kind::Folder => fs::create_dir(&target),
            Kind::File { .. } => fs::copy(&source, &target).map(|_| ()),
            Kind::Link { target: aim } => symlink(aim, &target),
        };
        copied.with_context(|| format!("cannot copy {}", source.display()))?;
    }
    Ok(())
}

fn identify(
    source: &Source,
    config: &str,
    binary_digest: &str,
    environment: &[(String, String)],
    files: &[Item],
) -> Result<String> {
    let mut hash = Hash::new(&SHA256);
    feed(&mut hash, "sweetmcp release 1");
    feed(&mut hash, source.role.as_str());
    feed(&mut hash, binary_digest);
    for (key, value) in relevant_config(source.role, config)
        .with_context(|| format!("cannot read {}", source.config.display()))?
    {
        feed(&mut hash, &key);
        feed(&mut hash, &value);
    }
    for (name, value) in environment {
        feed(&mut hash, name);
        feed(&mut hash, value);
    }
    // Where a plugin runs is part of what it does.
    if source.role == Role::App && source.folder.is_none() {
        feed(
            &mut hash,
            &source
                .config
                .parent()
                .unwrap_or(Path::new(""))
                .to_string_lossy(),
        );
    }
    for item in files {
        feed(&mut hash, &item.path.to_string_lossy());
        match &item.kind {
            Kind::Folder => feed(&mut hash, "folder"),
            Kind::Link { target } => feed(&mut hash, &format!("link {}", target.display())),
            Kind::File { executable } => {
                feed(&mut hash, if *executable { "program" } else { "file" });
                let folder = source.folder.as_deref().unwrap_or(Path::new(""));
                feed(&mut hash, &digest_file(&folder.join(&item.path))?);
            }
        }
    }
    Ok(hex(hash.finish().as_ref()))
}

/// Length first, so that two different lists never feed the same bytes.
fn feed(hash: &mut Hash, text: &str) {
    hash.update(&text.len().to_le_bytes());
    hash.update(text.as_bytes());
}

/// Whether a role does not read a key. One that nobody knows counts as read.
fn is_foreign(role: Role, key: &str) -> bool {
    let (foreign, read): (&[&str], &[&str]) = match role {
        Role::Edge => (&["app", "plugin", "fleet", "rollout"], &["fleet.zone"]),
        Role::App => (
            &["edge", "fleet", "rollout"],
            &["edge.session", "fleet.zone"],
        ),
    };
    let within = |sections: &[&str]| {
        sections.iter().any(|section| {
            key.strip_prefix(section)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    within(foreign) && !within(read)
}

/// What a role reads of a configuration, as dotted keys with their values.
pub(crate) fn relevant_config(role: Role, config: &str) -> Result<BTreeMap<String, String>> {
    let table: toml::Table = config.parse().context("it is not TOML")?;
    let mut flat = BTreeMap::new();
    for (key, value) in &table {
        flatten(&mut flat, key, value);
    }
    flat.retain(|key, _| !is_foreign(role, key));
    Ok(flat)
}

fn flatten(flat: &mut BTreeMap<String, String>, key: &str, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                flatten(flat, &format!("{key}.{name}"), value);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (index, value) in items.iter().enumerate() {
                // A plugin is known by its name, wherever in the list it stands.
                let label = value.get("name").and_then(toml::Value::as_str);
                let label = label.map_or_else(|| index.to_string(), str::to_owned);
                flatten(flat, &format!("{key}[{label}]"), value);
            }
        }
        other => {
            flat.insert(key.to_owned(), other.to_string());
        }
    }
}

fn relevant_environment(role: Role, all: &[(String, String)]) -> Vec<(String, String)> {
    let foreign = |name: &str| {
        name.strip_prefix(crate::agent::SETTINGS_PREFIX)
            .is_some_and(|key| is_foreign(role, &key.to_lowercase().replace("__", ".")))
    };
    let mut kept: Vec<_> = all
        .iter()
        .filter(|(name, _)| !foreign(name))
        .cloned()
        .collect();
    kept.sort();
    kept
}

/// One line per key that differs between two releases of a role, secrets not shown.
pub(crate) fn changes(from: &Release, to: &Release) -> Result<Vec<String>> {
    let read = |release: &Release| -> Result<BTreeMap<String, String>> {
        let text = fs::read_to_string(release.config())
            .with_context(|| format!("cannot read {}", release.config().display()))?;
        let mut flat = relevant_config(release.role, &text)?;
        flat.extend(release.environment.iter().cloned());
        Ok(flat)
    };
    let mut lines = describe(&read(from)?, &read(to)?);
    if from.binary_digest != to.binary_digest {
        lines.push(format!(
            "~ {} {} → {}",
            program_name(to.role),
            short(&from.binary_digest),
            short(&to.binary_digest)
        ));
    }
    if lines.is_empty() {
        lines.push(format!("~ files of {}", to.source));
    }
    Ok(lines)
}

fn describe(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let shown = |key: &str, value: &str| {
        if is_secret(key) {
            "(not shown)".to_owned()
        } else {
            value.to_owned()
        }
    };
    keys.into_iter()
        .filter_map(|key| match (from.get(key), to.get(key)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => Some(format!("~ {key} {} → {}", shown(key, a), shown(key, b))),
            (None, Some(b)) => Some(format!("+ {key} {}", shown(key, b))),
            (Some(a), None) => Some(format!("- {key} {}", shown(key, a))),
            (None, None) => None,
        })
        .collect()
}

/// Whether a key's value may be a secret: what it is called, and everything that goes into a plugin's
/// environment or command line.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let words = [
        "secret",
        "token",
        "password",
        "passwd",
        "credential",
        "api_key",
        "apikey",
    ];
    key.contains(".env.")
        || key.ends_with(".args")
        || key.ends_with(".headers")
        || words.iter().any(|w| key.contains(w))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        home: tempfile::TempDir,
        state: StateDir,
    }

    impl Bench {
        fn new(config: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            let state = StateDir::locate(Some(&home.path().join("state")), |_| None).unwrap();
            state.create().unwrap();
            fs::write(home.path().join("sweetmcp.toml"), config).unwrap();
            Self { home, state }
        }

        fn source(&self, role: Role) -> Source {
            Source {
                role,
                program: "/bin/true".into(),
                config: self.home.path().join("sweetmcp.toml"),
                folder: None,
                environment: Vec::new(),
            }
        }

        fn ids(&self) -> (String, String) {
            let id = |role| prepare(&self.state, &self.source(role)).unwrap().id;
            (id(Role::Edge), id(Role::App))
        }

        fn edit(&self, config: &str) {
            fs::write(self.home.path().join("sweetmcp.toml"), config).unwrap();
        }
    }

    #[test]
    fn an_edit_makes_a_new_release_of_the_role_that_reads_it() {
        let bench = Bench::new("[edge]\nworkers = 1\n[app]\nlisten = \"127.0.0.1:0\"\n");
        let (edge, app) = bench.ids();
        let same = |config: &str| {
            bench.edit(config);
            let (e, a) = bench.ids();
            (e == edge, a == app)
        };
        let rest = "[app]\nlisten = \"127.0.0.1:0\"\n";
        assert_eq!(
            same(&format!("# a remark\n{rest}[edge]\nworkers=1")),
            (true, true)
        );
        assert_eq!(same(&format!("{rest}[edge]\nworkers = 2")), (false, true));
        assert_eq!(
            same("[edge]\nworkers = 1\n[app]\nbuiltins = false"),
            (true, false)
        );
        assert_eq!(
            same(&format!("{rest}[edge]\nworkers = 1\n[fleet]\napps = 9")),
            (true, true)
        );
        assert_eq!(
            same(&format!(
                "{rest}[edge]\nworkers = 1\n[telemetry]\nlog_filter = \"debug\""
            )),
            (false, false)
        );
        for read_by_both in ["[edge.session]\nttl = \"1h\"", "[fleet]\nzone = \"z\""] {
            let config = format!("{rest}[edge]\nworkers = 1\n{read_by_both}");
            assert_eq!(same(&config), (false, false), "{read_by_both}");
        }
    }

    #[test]
    fn the_environment_counts_for_the_role_that_reads_it() {
        let bench = Bench::new("");
        let mut source = bench.source(Role::App);
        let plain = prepare(&bench.state, &source).unwrap();
        source.environment = vec![("SWEETMCP__EDGE__WORKERS".into(), "2".into())];
        assert_eq!(prepare(&bench.state, &source).unwrap().id, plain.id);
        source.environment = vec![("SWEETMCP__EDGE__SESSION__TTL".into(), "1h".into())];
        assert_ne!(prepare(&bench.state, &source).unwrap().id, plain.id);
        source.environment = vec![("SWEETMCP__APP__BUILTINS".into(), "false".into())];
        let other = prepare(&bench.state, &source).unwrap();
        assert_ne!(other.id, plain.id);
        assert_eq!(
            changes(&plain, &other).unwrap(),
            ["+ SWEETMCP__APP__BUILTINS false"]
        );
    }

    #[test]
    fn a_release_is_a_copy_with_its_files() {
        let bench = Bench::new("[[plugin]]\nname = \"x\"\nkind = \"stdio\"\ncommand = \"./run\"\n");
        let folder = bench.home.path().join("plugin");
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::create_dir_all(folder.join(".git")).unwrap();
        fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("lib/a"), "1").unwrap();
        symlink("lib/a", folder.join("link")).unwrap();
        let source = Source {
            folder: Some(folder.clone()),
            ..bench.source(Role::App)
        };
        let first = prepare(&bench.state, &source).unwrap();
        assert_eq!(Release::load(&bench.state, &first.id).unwrap(), first);
        assert_eq!(first.working_dir, first.path.join("files"));
        assert_eq!(
            fs::read_link(first.working_dir.join("link")).unwrap(),
            Path::new("lib/a")
        );
        assert!(!first.working_dir.join(".git").exists());
        assert_eq!(prepare(&bench.state, &source).unwrap(), first);

        fs::write(folder.join("lib/a"), "2").unwrap();
        let second = prepare(&bench.state, &source).unwrap();
        assert_ne!(second.id, first.id);
        assert_eq!(
            fs::read_to_string(first.working_dir.join("lib/a")).unwrap(),
            "1"
        );
        let left: Vec<_> = fs::read_dir(bench.state.releases()).unwrap().collect();
        assert_eq!(left.len(), 2, "no drafts left");
    }

    #[test]
    fn changes_name_the_keys_and_hide_secrets() {
        let flat = |text: &str| relevant_config(Role::App, text).unwrap();
        let from = flat("[app]\na = 1\nb = 2\n[[plugin]]\nname = \"p\"\nenv = { K = \"old\" }");
        let to =
            flat("[app]\na = 1\nb = 3\nc = 4\n[[plugin]]\nname = \"p\"\nenv = { K = \"new\" }");
        assert_eq!(
            describe(&from, &to),
            [
                "~ app.b 2 → 3",
                "+ app.c 4",
                "~ plugin[p].env.K (not shown) → (not shown)"
            ]
        );
    }
}

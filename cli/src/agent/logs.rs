//! Keeps the logs from filling the disk.
//!
//! A child holds its log open, so a full one is copied and then cut to nothing (the child appends, and goes
//! on at the start). Lines written between copy and cut are lost: the price of a child that needs nobody.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

/// A log is rotated at this size.
pub(crate) const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Files per log, the one being written included.
pub(crate) const LOG_FILES_MAX: u32 = 5;
/// Logs of instances that are gone; older ones are removed.
pub(crate) const ENDED_LOGS_MAX: usize = 40;

/// Rotates every log of the folder that has grown past `bytes_max`, and removes the oldest logs of
/// instances that `is_live` does not know.
pub(crate) fn tidy(folder: &Path, bytes_max: u64, is_live: impl Fn(&str) -> bool) -> Result<()> {
    let mut ended: Vec<(SystemTime, PathBuf)> = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        let (Some("log"), Ok(meta)) = (
            path.extension().and_then(|e| e.to_str()),
            fs::metadata(&path),
        ) else {
            continue;
        };
        if meta.len() > bytes_max {
            rotate(&path).with_context(|| format!("cannot rotate {}", path.display()))?;
        }
        let instance = path.file_stem().unwrap_or_default().to_string_lossy();
        if !is_live(&instance) {
            ended.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    ended.sort();
    let surplus = ended.len().saturating_sub(ENDED_LOGS_MAX);
    for (_, path) in ended.into_iter().take(surplus) {
        for file in std::iter::once(path.clone()).chain((1..LOG_FILES_MAX).map(|n| older(&path, n)))
        {
            crate::state::gone(fs::remove_file(&file))
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(())
}

fn older(path: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}.{number}", path.display()))
}

fn rotate(path: &Path) -> io::Result<()> {
    for number in (1..LOG_FILES_MAX - 1).rev() {
        let (from, to) = (older(path, number), older(path, number + 1));
        crate::state::gone(fs::rename(from, to))?;
    }
    let first = older(path, 1);
    fs::copy(path, &first)?;
    File::open(&first)?.sync_all()?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_full_log_moves_on_while_its_writer_keeps_it_open() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("edge-1.log");
        let mut writer = crate::agent::launch::open_log(&log).unwrap();
        for round in 0..7 {
            writer
                .write_all(format!("round {round} {}\n", "x".repeat(32)).as_bytes())
                .unwrap();
            tidy(home.path(), 16, |_| true).unwrap();
        }
        writer.write_all(b"now\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "now\n");
        let first_words = |n| fs::read_to_string(older(&log, n)).unwrap()[..7].to_owned();
        assert_eq!(
            (1..5).map(first_words).collect::<Vec<_>>(),
            ["round 6", "round 5", "round 4", "round 3"]
        );
        assert!(!older(&log, 5).exists());
    }

    #[test]
    fn logs_of_the_gone_are_kept_up_to_a_number() {
        let home = tempfile::tempdir().unwrap();
        for n in 0..ENDED_LOGS_MAX + 3 {
            fs::write(home.path().join(format!("app-{n}.log")), "").unwrap();
        }
        fs::write(home.path().join("edge-1.log"), "").unwrap();
        tidy(home.path(), LOG_BYTES_MAX, |name| name == "edge-1").unwrap();
        assert_eq!(
            fs::read_dir(home.path()).unwrap().count(),
            ENDED_LOGS_MAX + 1
        );
        assert!(home.path().join("edge-1.log").exists());
    }
}

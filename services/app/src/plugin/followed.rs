//! Files that are in service: read at the start and again whenever one is another, until the plugin stops.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Context, SHA256};
use tokio_util::sync::CancellationToken;

use super::builtin::hex;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a file was changed and how long it is; `None` if there is none.
type Look = Option<(SystemTime, u64)>;

/// Files, and how they were when they were last looked at.
#[derive(Debug)]
pub(crate) struct Followed {
    paths: Vec<PathBuf>,
    known: Option<Vec<Look>>,
}

impl Followed {
    /// Follows files, which need not be there.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            paths: paths.into_iter().collect(),
            known: None,
        }
    }

    /// Returns `true` at once the first time, then after each change of a file; `false` after `stop`.
    pub(crate) async fn changed(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let mut now = Vec::with_capacity(self.paths.len());
            for path in &self.paths {
                let meta = tokio::fs::metadata(path).await.ok();
                now.push(meta.and_then(|meta| Some((meta.modified().ok()?, meta.len()))));
            }
            let now = Some(now);
            if self.known != now {
                self.known = now;
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return false,
            }
        }
    }
}

/// Reads a file of at most `limit` bytes; blocks.
pub(crate) fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > limit {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(path)
}

/// Returns the SHA-256 of a file of any size, in hexadecimal; blocks.
pub(crate) fn sha256_of(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (std::fs::File::open(path)?, Context::new(&SHA256));
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(hash.finish().as_ref())),
            count => hash.update(&chunk[..count]),
        }
    }
}

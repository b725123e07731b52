//! A file that is in service: read at the start and again whenever it is another, until the plugin stops.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file, and how it was when it was last looked at.
#[derive(Debug)]
pub(crate) struct Followed {
    path: PathBuf,
    known: Option<Option<(SystemTime, u64)>>,
}

impl Followed {
    /// Follows the file at `path`, which need not be there.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }

    /// Returns `true` at once the first time, then after each change of the file; `false` after `stop`.
    pub(crate) async fn changed(&mut self, stop: &CancellationToken) -> bool {
        loop {
            let now = tokio::fs::metadata(&self.path).await.ok();
            let now = Some(now.and_then(|meta| Some((meta.modified().ok()?, meta.len()))));
            if std::mem::replace(&mut self.known, now) != now {
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

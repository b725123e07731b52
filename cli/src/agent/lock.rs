//! One agent per state folder: an advisory lock that ends with its holder, however the holder ends.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// A held lock; dropped, the file goes and then the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock, or says that somebody holds it (`None`). Never waits.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
            }
            // The last holder removed the file between our opening and locking it: then this lock
            // guards a name that nobody else will find.
            let ours = file
                .metadata()
                .with_context(|| format!("cannot inspect {}", path.display()))?
                .ino();
            if fs::metadata(path).is_ok_and(|found| found.ino() == ours) {
                return Ok(Some(Self {
                    path: path.to_owned(),
                    file,
                }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let ours = self.file.metadata().map(|meta| meta.ino());
        let found = fs::metadata(&self.path).map(|meta| meta.ino());
        // While the lock is still held; a file left behind does no harm. Another file of that name is another's lock.
        if let (Ok(ours), Ok(found)) = (ours, found)
            && ours == found
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_nothing_left_behind() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        let held = Lock::try_take(&path).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        let other = Lock::try_take(&path).unwrap().unwrap();
        drop(held);
        assert!(path.exists(), "it is the other's by now");
        drop(other);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }
}

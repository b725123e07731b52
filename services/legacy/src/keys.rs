//! The keys that seal sessions, as files of the fleet's state: 64 hexadecimal digits each, newest first.
//!
//! A file may be made by whoever starts first. Two that start at once agree, since a file that is there is
//! never replaced.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mcp::session::{KEY_BYTES, KeyRing};
use rand::RngExt;

use crate::random_name;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read.
    #[error("cannot read the session key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be made.
    #[error("cannot make the session key {path}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} must hold {} hexadecimal digits", KEY_BYTES * 2)]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// There are none, or too many.
    #[error("there must be 1 to 16 session keys, newest first")]
    Number,
}

/// Reads a ring of keys, newest first.
///
/// # Errors
/// See [`KeysError`].
pub fn read(paths: &[PathBuf]) -> Result<KeyRing, KeysError> {
    let keys: Vec<[u8; KEY_BYTES]> = paths
        .iter()
        .map(|path| one(path))
        .collect::<Result<_, _>>()?;
    KeyRing::new(&keys).ok_or(KeysError::Number)
}

fn one(path: &Path) -> Result<[u8; KEY_BYTES], KeysError> {
    let text = fs::read_to_string(path).map_err(|source| KeysError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(text.trim()).ok_or_else(|| KeysError::Form {
        path: path.to_owned(),
    })
}

fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    let plain = text.len() == KEY_BYTES * 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key
        .iter_mut()
        .zip(plain.then_some(text)?.as_bytes().chunks(2))
    {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// Makes a key file that its owner alone can read, unless it is there.
///
/// # Errors
/// [`KeysError::Make`].
pub fn ensure(path: &Path) -> Result<(), KeysError> {
    if path.exists() {
        return Ok(());
    }
    make(path).map_err(|source| KeysError::Make {
        path: path.to_owned(),
        source,
    })
}

fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(".{}.draft", random_name()));
    let key: [u8; KEY_BYTES] = rand::rng().random();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let made = file
        .write_all(digits.as_bytes())
        .and_then(|()| file.sync_all())
        // Appears whole or not at all, and never in place of another's.
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    fs::remove_file(&draft).and(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::slice;

    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert_eq!(parse(&"0f".repeat(32)), Some([15; KEY_BYTES]));
        for text in [
            "",
            "0f",
            "+f",
            &"0g".repeat(32),
            &"+f".repeat(32),
            &"0f".repeat(33),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("keys/session.key");
        assert!(matches!(
            read(slice::from_ref(&path)),
            Err(KeysError::Read { .. })
        ));
        ensure(&path).unwrap();
        let first = fs::read(&path).unwrap();
        ensure(&path).unwrap();
        // As one that starts at the same moment and has seen no file.
        make(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(state.path().join("keys")).unwrap().count(), 1);
        assert!(read(slice::from_ref(&path)).is_ok());
        assert!(matches!(read(&[]), Err(KeysError::Number)));
        fs::write(&path, "short").unwrap();
        assert!(matches!(read(&[path]), Err(KeysError::Form { .. })));
    }
}

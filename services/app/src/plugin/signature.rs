//! Signatures of plugins' files: who built them vouches for them with a key (minisign, Ed25519 over BLAKE2b), and a file without
//! its word is neither loaded nor started.

use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature};

use super::followed;

/// The largest signature file, in bytes.
const SIGNATURE_BYTES_MAX: u64 = 8 << 10;
/// The largest file whose signature is checked, in bytes: it is read whole.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Whose signature files must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The public key as minisign prints it.
    pub key: String,
    /// Which files; those that the kind of plugin is made of if it is empty.
    pub files: Vec<PathBuf>,
}

/// A file without the signature that it must have.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// The configured key is none.
    #[error("signed_by is no minisign public key")]
    Key(#[source] Error),
    /// The file, or its signature, cannot be read.
    #[error("{} cannot be read, and must be signed", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// The signature is none, or that of another file or key.
    #[error("{} does not have the signature that signed_by asks for", .0.display())]
    Signature(PathBuf, #[source] Error),
}

impl SignedBy {
    /// Checks the signature of a file's content, which lies beside it as `FILE.minisig`. Blocks.
    ///
    /// # Errors
    /// [`NotSigned`] when it is not there or not the key's.
    pub fn check(&self, path: &Path, content: &[u8]) -> Result<(), NotSigned> {
        let key = PublicKey::from_base64(&self.key).map_err(NotSigned::Key)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".minisig");
        let beside = PathBuf::from(beside);
        let text = followed::read(&beside, SIGNATURE_BYTES_MAX)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .map_err(|source| NotSigned::File(beside, source))?;
        let checked = Signature::decode(&text).and_then(|signature| {
            // Signatures of the time before 2015 are over the whole file and cannot be told from such of a hash.
            key.verify(content, &signature, false)
        });
        checked.map_err(|source| NotSigned::Signature(path.to_owned(), source))
    }

    /// Checks the signatures of the files that are named, or of `own` if none is. Blocks.
    ///
    /// # Errors
    /// [`NotSigned`] for the first that has none.
    pub fn check_files(&self, own: Option<PathBuf>) -> Result<(), NotSigned> {
        let named = self.files.iter().cloned();
        let own = own.filter(|_| self.files.is_empty());
        for path in named.chain(own) {
            let content = followed::read(&path, FILE_BYTES_MAX)
                .map_err(|source| NotSigned::File(path.clone(), source))?;
            self.check(&path, &content)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two public keys, and the signature of the first over `good`, as minisign writes them.
    const KEY: &str = "RWQHBwcHBwcHB+pKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";
    const OTHER_KEY: &str = "RWQJCQkJCQkJCf0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY";
    const SIGNATURE: &str = "untrusted comment: a test
RUQHBwcHBwcHByae/HXCen7haxIKp4kLwCVx5axIspP3W9Yfd+NjrXgTnhpiLVEAoiEavi4eZJdevIQM99n9G5I2q062QDhWkwg=
trusted comment: a test
U4RZMJbx+QcC3wl5VysPVvU/02fuJ6+TEof30wljoHfQVYEZZJoFm4zSH3riP9WVo0mfLm5qkjBc8uNiAqVLBw==
";

    fn by(key: &str, files: Vec<PathBuf>) -> SignedBy {
        let key = key.to_owned();
        SignedBy { key, files }
    }

    #[test]
    fn a_signed_file_is_let_in_and_every_other_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, beside) = (
            folder.path().join("plugin"),
            folder.path().join("plugin.minisig"),
        );
        let refused = |by: &SignedBy, words: &str| {
            let refused = by.check_files(Some(file.clone())).unwrap_err();
            let text = telemetry::error_chain(&refused);
            assert!(text.contains(words), "{text}");
        };
        let good = by(KEY, Vec::new());
        std::fs::write(&file, b"good").unwrap();
        refused(&good, "must be signed");
        std::fs::write(&beside, SIGNATURE).unwrap();
        good.check_files(Some(file.clone())).unwrap();
        by(KEY, vec![file.clone()]).check_files(None).unwrap();
        refused(&by(OTHER_KEY, Vec::new()), "signed_by asks for");
        refused(&by("RWQ", Vec::new()), "no minisign public key");
        refused(&by(KEY, vec![folder.path().join("none")]), "must be signed");
        std::fs::write(&file, b"evil").unwrap();
        refused(&good, "signed_by asks for");
        std::fs::write(&file, b"good").unwrap();
        std::fs::write(&beside, "untrusted comment: no\nRW").unwrap();
        refused(&good, "signed_by asks for");
        std::fs::write(&beside, vec![b'x'; 1 << 20]).unwrap();
        refused(&good, "must be signed");
    }
}

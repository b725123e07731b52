//! Users' tokens from a file: `{"TENANT": {"USER": "TOKEN"}}`, read again when it is another.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::User;
use crate::plugin::followed;

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why the file cannot be used. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// It cannot be read.
    #[error("the file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not of its form.
    #[error("line {line} of {path} is not of the form {{\"TENANT\": {{\"USER\": \"TOKEN\"}}}}")]
    Form {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

/// Tokens by tenant and user.
type Tokens = HashMap<String, HashMap<String, String>>;

/// When a file was changed, how long it is, and which it is.
type Look = (SystemTime, u64, u64);

/// The file, as it was when it was last looked at.
pub(super) struct Grants {
    path: PathBuf,
    known: Mutex<Option<(Look, Arc<Tokens>)>>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Grants").field(&self.path).finish()
    }
}

impl Grants {
    pub(super) fn new(path: PathBuf) -> Self {
        let known = Mutex::default();
        Self { path, known }
    }

    /// Returns a user's token, if it has one.
    ///
    /// # Errors
    /// [`GrantsError`] when the file cannot be used.
    pub(super) fn token(&self, user: &User) -> Result<Option<String>, GrantsError> {
        let tokens = self.tokens()?;
        let of_tenant = tokens.get(&user.tenant);
        Ok(of_tenant.and_then(|users| users.get(&user.principal).cloned()))
    }

    fn tokens(&self) -> Result<Arc<Tokens>, GrantsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let look = look(&self.path).map_err(|source| self.unreadable(source))?;
        if let Some((then, tokens)) = &*known
            && *then == look
        {
            return Ok(Arc::clone(tokens));
        }
        let bytes =
            followed::read(&self.path, FILE_BYTES_MAX).map_err(|source| self.unreadable(source))?;
        let read = serde_json::from_slice(&bytes).map_err(|error| GrantsError::Form {
            path: self.path.clone(),
            line: error.line(),
        })?;
        let tokens = Arc::new(read);
        *known = Some((look, Arc::clone(&tokens)));
        Ok(tokens)
    }

    fn unreadable(&self, source: std::io::Error) -> GrantsError {
        let path = self.path.clone();
        GrantsError::File { path, source }
    }
}

fn look(path: &Path) -> std::io::Result<Look> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.modified()?, meta.len(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_token_and_the_file_may_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.json");
        let grants = Grants::new(path.clone());
        let token = |tenant: &str, principal: &str| {
            let user = User {
                tenant: tenant.to_owned(),
                principal: principal.to_owned(),
            };
            grants
                .token(&user)
                .map_err(|error| telemetry::error_chain(&error))
        };
        assert!(token("a", "ana").unwrap_err().contains("cannot be read"));
        let write = |text: &str| {
            let draft = folder.path().join("draft");
            std::fs::write(&draft, text).unwrap();
            std::fs::rename(&draft, &path).unwrap();
        };
        write(r#"{"a": {"ana": "one"}, "b": {"ana": "two"}}"#);
        assert_eq!(token("a", "ana"), Ok(Some("one".into())));
        assert_eq!(token("b", "ana"), Ok(Some("two".into())));
        assert_eq!(token("a", "ben"), Ok(None));
        assert_eq!(token("", "ana"), Ok(None));
        write(r#"{"a": {"ana": "new"}, "b": {"ana": "two"}}"#);
        assert_eq!(token("a", "ana"), Ok(Some("new".into())));
        write("{\n\"a\": \"secret\"}");
        let refused = token("a", "ana").unwrap_err();
        assert!(
            refused.contains("line 2") && !refused.contains("secret"),
            "{refused}"
        );
    }
}

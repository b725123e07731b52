//! Where binaries and other people's programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The repository's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_owned)
}

/// A binary of this workspace, built beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where is this test?")?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("a test stands in target/PROFILE/deps")?;
    let path = folder.join(name);
    if !path.exists() {
        bail!(
            "{} is missing: run cargo build --workspace --bins",
            path.display()
        );
    }
    Ok(path)
}

/// The folder that `tests/install` fills.
#[must_use]
pub fn test_tools() -> PathBuf {
    std::env::var_os("SWEETMCP_TEST_TOOLS")
        .map_or_else(|| workspace().join("target/test-tools"), PathBuf::from)
}

/// A program of the Python environment.
///
/// # Errors
/// When it has not been installed.
pub fn python(name: &str) -> Result<PathBuf> {
    installed(test_tools().join("venv/bin").join(name))
}

/// A file of an npm package.
///
/// # Errors
/// When it has not been installed.
pub fn node(path: &str) -> Result<PathBuf> {
    installed(test_tools().join("node_modules").join(path))
}

fn installed(path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{} is missing: run tests/install", path.display());
    }
    Ok(path)
}

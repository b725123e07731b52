//! Programs that the tests talk to; the tests do not run without them.

use std::path::PathBuf;

/// Where `tests/install` puts programs.
pub(crate) fn folder() -> PathBuf {
    match std::env::var_os("SWEETMCP_TEST_TOOLS") {
        Some(folder) => folder.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-tools").into(),
    }
}

/// A program that the Python environment of the test tools holds.
pub(crate) fn python_tool(name: &str, package: &str) -> PathBuf {
    let venv = folder().join("venv");
    let program = venv.join("bin").join(name);
    let shown = venv.display();
    assert!(
        program.exists(),
        "{name} is missing; run tests/install, or: python3 -m venv {shown} && {shown}/bin/pip install {package}"
    );
    program
}

/// A program of a Debian package, on `PATH` or among the test tools.
pub(crate) fn debian_tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([folder().join("bin")]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|program| program.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; run tests/install, or: apt-get install --no-install-recommends {package}"))
}

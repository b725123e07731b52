//! Finds the programs that `sweetops` starts: they lie beside it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use registry::Role;

use crate::failure::Failure;

/// Names the folder of the programs when it is not that of `sweetops`.
const FOLDER_VARIABLE: &str = "SWEETMCP_BIN_DIR";

/// The file name of a role's program.
pub(crate) fn program_name(role: Role) -> &'static str {
    match role {
        Role::Edge => "sweetmcp-edge",
        Role::App => "sweetmcp-app",
    }
}

/// Finds a program by its file name.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os(FOLDER_VARIABLE).filter(|v| !v.is_empty());
    let folder = match &given {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()
            .context("cannot tell where sweetops lies")?
            .parent()
            .map(PathBuf::from)
            .context("sweetops has no folder")?,
    };
    let path = folder.join(name);
    if path.is_file() {
        return std::path::absolute(&path)
            .with_context(|| format!("cannot resolve {}", path.display()));
    }
    Err(Failure::new(format!("{name} is not in {}", folder.display()))
        .hint(format!(
            "build it with ./deployment/local/up, or name the folder that has it in {FOLDER_VARIABLE}"
        ))
        .into())
}

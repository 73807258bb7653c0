//! Programs of the system that this crate starts.

use std::{
    env,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, thiserror::Error)]
#[error("the program \"{program}\" is missing; install the package \"{package}\"")]
pub(crate) struct ToolError {
    pub program: &'static str,
    pub package: &'static str,
}

/// Where a program is. Directories of system programs count too: an ordinary user's path lacks them.
pub(crate) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, ToolError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
        .ok_or(ToolError { program, package })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

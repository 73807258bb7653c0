//! Where a node keeps its state when nobody says.

use std::{env, path::PathBuf};

use crate::failure::{Failure, Result};

/// The directory of `--home` or `NESTLING_HOME`, or the usual one of root or of a user.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf> {
    let home = match given.filter(|h| !h.as_os_str().is_empty()) {
        Some(home) => home,
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/nestling"),
        None => of_user(env::var_os("XDG_STATE_HOME").map(PathBuf::from), env::home_dir())
            .ok_or_else(|| Failure::usage("no home: neither NESTLING_HOME nor HOME is set"))?,
    };
    std::path::absolute(&home).map_err(|e| Failure::file("find the home", &home, &e))
}

fn of_user(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let state = state.filter(|s| s.is_absolute());
    Some(state.or_else(|| Some(home?.join(".local/state")))?.join("nestling"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_home_follows_xdg() {
        let home = || Some(PathBuf::from("/home/ada"));
        assert_eq!(of_user(Some("/state".into()), home()), Some("/state/nestling".into()));
        for ignored in [None, Some(PathBuf::new()), Some("state".into())] {
            assert_eq!(of_user(ignored, home()), Some("/home/ada/.local/state/nestling".into()));
        }
        assert_eq!(of_user(None, None), None);
    }
}

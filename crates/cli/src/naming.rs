//! The name that a file gets when it is whole.

use std::os::fd::AsFd;

use rustix::{
    fs::{AtFlags, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat},
    io::Errno,
    path::Arg,
};

/// Names a file of a folder; `EXIST` when the name is taken.
pub fn name_new(folder: impl AsFd, hidden: &str, name: impl Arg + Copy) -> Result<(), Errno> {
    match renameat_with(&folder, hidden, &folder, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => name_by_link(&folder, hidden, name),
        named => named,
    }
}

/// Where the file system cannot rename without replacing, as NFS; a link does not replace either.
fn name_by_link(folder: impl AsFd, hidden: &str, name: impl Arg + Copy) -> Result<(), Errno> {
    match linkat(&folder, hidden, &folder, name, AtFlags::empty()) {
        Ok(()) => unlinkat(&folder, hidden, AtFlags::empty()),
        Err(Errno::EXIST) => Err(Errno::EXIST),
        Err(_) if statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => Err(Errno::EXIST),
        // It has no links.
        Err(_) => renameat(&folder, hidden, &folder, name),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    type Way = fn(&File, &str) -> Result<(), Errno>;

    #[test]
    fn a_name_is_given_once_however_it_is_given() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = File::open(directory.path()).expect("it is there");
        let ways: [Way; 2] = [
            |folder, name| name_new(folder, "hidden", name),
            |folder, name| name_by_link(folder, "hidden", name),
        ];
        for (way, name) in ways.into_iter().zip(["a", "b"]) {
            let hidden = directory.path().join("hidden");
            fs::write(&hidden, name).expect("written");
            way(&folder, name).expect("a name");
            assert!(!hidden.exists());
            fs::write(&hidden, "other").expect("written");
            assert_eq!(way(&folder, name), Err(Errno::EXIST));
            assert_eq!(fs::read_to_string(directory.path().join(name)).expect("read"), name);
        }
    }
}

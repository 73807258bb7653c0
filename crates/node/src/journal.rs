//! Files that are made or removed together with a document.
//!
//! A document is written in one step; files are not. So that a node that dies in between leaves the old or the new, and
//! never something else, what is to be done with files is written down first:
//!
//! - creating a machine: 1. the note, naming temporary files and what they will be called; 2. the temporary files;
//!   3. the machine's document; 4. the final names; 5. the note is deleted. A note found at start means: with a document,
//!   do the rest; without, remove the temporary files. No file that has its final name is ever removed.
//! - removing a machine: 1. the document is deleted and the note, naming the disks to remove, is written, both at once;
//!   2. the files; 3. the note is deleted. A note found at start means: do the rest.
//!
//! A machine without files to be made needs no note: its document is the only step.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use nestling_model::VmId;
use nestling_store::{Document, Store};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::{NodeError, error::Result, home::remove_file};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub vm: VmId,
    /// Temporary and final name of each file that is made.
    pub made: Vec<(PathBuf, PathBuf)>,
    /// Files to remove.
    pub removed: Vec<PathBuf>,
}

impl Document for Note {
    const KIND: &'static str = "note";
    fn id(&self) -> String {
        self.vm.0.to_string()
    }
}

impl Note {
    pub fn new(vm: VmId) -> Self {
        Self { vm, made: Vec::new(), removed: Vec::new() }
    }

    /// Notes that a file will be made, and says under which name.
    pub fn make(&mut self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{}-{name}", self.vm.0.simple()));
        self.made.push((temporary.clone(), path.to_owned()));
        temporary
    }

    pub fn is_empty(&self) -> bool {
        self.made.is_empty() && self.removed.is_empty()
    }

    /// The machine is there: gives the files their names. Can be done again.
    pub fn finish(&self) -> Result<()> {
        for (temporary, path) in &self.made {
            match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::NOENT) if path.exists() => {}
                Err(e) => return Err(NodeError::io("name", path)(e.into())),
                Ok(()) => {}
            }
        }
        self.sync()
    }

    /// The machine is not there: removes what was made for it, and what was to be removed with it.
    pub fn undo(&self) -> Result<()> {
        for path in self.made.iter().map(|(temporary, _)| temporary).chain(&self.removed) {
            remove_file(path)?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let files = self.made.iter().map(|(_, path)| path).chain(&self.removed);
        let dirs: BTreeSet<&Path> = files.filter_map(|file| file.parent()).collect();
        for dir in dirs.into_iter().filter(|dir| dir.is_dir()) {
            File::open(dir).and_then(|d| d.sync_all()).map_err(NodeError::io("sync", dir))?;
        }
        Ok(())
    }
}

/// Does what a node that died has left to do. `exists` tells which machines are there.
pub fn recover(store: &mut Store, exists: impl Fn(VmId) -> bool) -> Result<()> {
    for note in store.list::<Note>()? {
        match if exists(note.vm) { note.finish() } else { note.undo() } {
            Ok(()) => store.delete::<Note>(note.id())?,
            // The note stays, and with it the next chance. Other machines must not wait for this one.
            Err(error) => tracing::warn!(vm = %note.vm.0, error = error.message(), "files are left over"),
        }
    }
    Ok(())
}

/// Removes the own files of machines that are no more.
pub fn sweep(
    vms: &Path,
    exists: impl Fn(VmId) -> bool,
    files: impl Fn(VmId) -> crate::home::VmFiles,
) -> Result<()> {
    for entry in fs::read_dir(vms).map_err(NodeError::io("list", vms))? {
        let name = entry.map_err(NodeError::io("list", vms))?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).map(VmId);
        if let Some(id) = id.filter(|id| !exists(*id)) {
            files(id).remove()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const VM: VmId = VmId(Uuid::from_u128(1));

    /// Whatever was done when the node died: afterwards all files are there under their names, or none is.
    #[test]
    fn a_creation_that_died_at_any_step_is_whole_or_gone() {
        for steps_done in 0..4 {
            for committed in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let mut store = Store::in_memory();
                let mut note = Note::new(VM);
                let paths = [dir.path().join("a"), dir.path().join("b")];
                let temporary: Vec<PathBuf> = paths.iter().map(|p| note.make(p)).collect();
                store.put(&note).unwrap();
                let made = if committed { 2 } else { steps_done.min(2) };
                for path in &temporary[..made] {
                    fs::write(path, "x").unwrap();
                }
                if committed && steps_done > 0 {
                    fs::rename(&temporary[0], &paths[0]).unwrap();
                }
                for _ in 0..2 {
                    recover(&mut store, |_| committed).unwrap();
                }
                let count = fs::read_dir(dir.path()).unwrap().count();
                assert_eq!(count, if committed { 2 } else { 0 }, "{steps_done} {committed}");
                assert!(paths.iter().all(|p| p.exists() == committed));
                assert!(store.list::<Note>().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_file_of_that_name_that_came_meanwhile_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut note = Note::new(VM);
        fs::write(note.make(&path), "ours").unwrap();
        fs::write(&path, "theirs").unwrap();
        note.finish().unwrap_err();
        note.undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn files_of_a_removed_machine_go_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, "x").unwrap();
        let mut store = Store::in_memory();
        store.put(&Note { removed: vec![disk.clone()], ..Note::new(VM) }).unwrap();
        recover(&mut store, |_| false).unwrap();
        assert!(!disk.exists());
    }
}

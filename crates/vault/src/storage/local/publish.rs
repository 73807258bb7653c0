//! How a file appears under its name: whole, durable, and never in place of another.

use std::{
    collections::hash_map::RandomState,
    fs::{File, Permissions},
    hash::BuildHasher,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::directory::Directory;
use crate::storage::FileKind;

/// What stands between a file's name and what makes a temporary name unique; restic's own temporary files have it too.
const MARK: &str = "-tmp-";

/// How a file came to be under its name.
pub(super) enum Published {
    New,
    /// Another one has the name; nothing was changed.
    WasThere,
}

/// Writes a file and gives it its name.
pub(super) fn publish(directory: &Directory, name: &str, bytes: &[u8]) -> io::Result<Published> {
    let (temporary, mut file) = create(directory, name)?;
    let published = write(&mut file, bytes).and_then(|()| Ok(give_name(directory, &temporary, name)?));
    drop(file);
    if matches!(published, Ok(Published::New)) {
        directory.sync()?;
    } else {
        // The first error is the one to tell; what cannot be removed now is swept later.
        let _ = directory.unlink(&temporary);
    }
    published
}

/// A new file under a name that no other writer takes. Removed or renamed by the caller.
fn create(directory: &Directory, name: &str) -> io::Result<(String, File)> {
    static CREATED: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = CREATED.fetch_add(1, Ordering::Relaxed);
        // The underscore keeps it apart from every name that an extra file may have.
        let unique = RandomState::new().hash_one((std::process::id(), count));
        let temporary = format!("{name}{MARK}_{unique:016x}");
        // Made read-only when it is whole: some network file systems let nobody write to a read-only file.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        match directory.open(&temporary, flags, Mode::RUSR | Mode::WUSR) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (temporary, file)),
        }
    }
}

fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    let size = file.metadata()?.size();
    if size != bytes.len() as u64 {
        return Err(io::Error::other(format!("{size} of {} bytes arrived in the file system", bytes.len())));
    }
    // A file system without permissions is no reason to fail.
    let _ = file.set_permissions(Permissions::from_mode(0o400));
    file.sync_all()
}

fn give_name(directory: &Directory, temporary: &str, name: &str) -> Result<Published, Errno> {
    match directory.rename_to_new(temporary, name) {
        Ok(()) => Ok(Published::New),
        Err(Errno::EXIST) => Ok(Published::WasThere),
        // NFS and old FUSE file systems know no rename that spares what is there, but they know links.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => give_name_by_link(directory, temporary, name),
        Err(other) => Err(other),
    }
}

fn give_name_by_link(directory: &Directory, temporary: &str, name: &str) -> Result<Published, Errno> {
    match directory.link_to_new(temporary, name) {
        Ok(()) => {
            // The file has its name; the other one is swept later if it cannot be removed now.
            let _ = directory.unlink(temporary);
            Ok(Published::New)
        }
        Err(Errno::EXIST) => Ok(Published::WasThere),
        Err(other) => Err(other),
    }
}

/// Whether a writer of ours, or a restic, left this in a directory of the kind before it was whole.
pub(super) fn is_temporary(kind: FileKind, name: &str) -> bool {
    let Some((of, unique)) = name.rsplit_once(MARK) else { return false };
    let ours =
        unique.strip_prefix('_').is_some_and(|u| u.len() == 16 && u.bytes().all(|b| b.is_ascii_hexdigit()));
    let restics = !unique.is_empty() && unique.bytes().all(|b| b.is_ascii_digit());
    match kind {
        FileKind::Config => of == "config" && (ours || restics),
        FileKind::Extra => kind.accepts(of) && ours,
        _ => kind.accepts(of) && (ours || restics),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_writer_left_is_temporary() {
        let id = "ab".repeat(32);
        let temporary = |kind, name: String| is_temporary(kind, &name);
        assert!(temporary(FileKind::Pack, format!("{id}-tmp-_0123456789abcdef")));
        assert!(temporary(FileKind::Pack, format!("{id}-tmp-1234567")));
        assert!(temporary(FileKind::Config, "config-tmp-_0123456789abcdef".to_owned()));
        assert!(temporary(FileKind::Extra, "hints-tmp-_0123456789abcdef".to_owned()));
        for name in [&id, "x-tmp-1", &format!("{id}-tmp-"), &format!("{id}-tmp-x"), &format!("{id}-tmp-_12")]
        {
            assert!(!temporary(FileKind::Pack, name.to_owned()), "{name}");
        }
        // This can be the name of a whole file.
        assert!(!temporary(FileKind::Extra, "hints-tmp-12".to_owned()));
        assert!(!temporary(FileKind::Config, "notes-tmp-12".to_owned()));
    }
}

//! Files of a guest, made on this host.
//!
//! Every name comes from a hostile disk. It is used in one directory that is held open and never as part of a path, so that
//! neither `..` nor a link that an earlier entry was made as leads anywhere else. A file gets its name when it is whole. What
//! could act on this host is never made: devices, set-user-id bits, capabilities.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use nestling_api::v1::RecoveryFile;
use nestling_explore::FileName;
use nestling_vault::rename_new;
use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, fchmod, fchown,
        fsetxattr, fsync, ftruncate, futimens, mkdirat, openat, renameat, symlinkat, unlinkat,
    },
    io::{Errno, pwrite},
};

/// What is all zeroes in pieces of this length becomes a hole.
const HOLE_BYTES: usize = 64 << 10;
/// Files of this name are not whole.
const PART: &str = ".nestling-part-";

/// Why something was not made. Others can still be.
#[derive(Debug)]
pub struct Refused(pub String);

type Result<T = ()> = std::result::Result<T, Refused>;

fn refused(doing: &'static str) -> impl Fn(Errno) -> Refused {
    move |error| {
        Refused(match error {
            Errno::EXIST => "something of this name is there already; --force replaces files".to_owned(),
            error => format!("it cannot be {doing}: {}", io::Error::from(error)),
        })
    }
}

/// A directory of this host, held open.
pub struct Folder(OwnedFd);

/// A file that is not whole yet. Without [`Part::finish`] nothing is left of it.
pub struct Part {
    folder: Folder,
    file: OwnedFd,
    hidden: String,
    name: OsString,
    force: bool,
}

impl Folder {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    fn same(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|error| Refused(error.to_string()))
    }

    /// A directory in this one, which may be there already.
    pub fn directory(&self, file: &RecoveryFile) -> Result<Self> {
        let name = usable(file)?;
        match mkdirat(&self.0, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(refused("made")(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.0, &*name, flags, Mode::empty()).map(Self).map_err(refused("gone into"))
    }

    /// Gives it what the guest's had.
    pub fn finish(&self, file: &RecoveryFile) -> Result {
        dress(&self.0, file)
    }

    pub fn link(&self, file: &RecoveryFile, force: bool) -> Result {
        let name = usable(file)?;
        let target = link_target(file)?;
        let made = symlinkat(&target, &self.0, &*name);
        if force && made == Err(Errno::EXIST) {
            unlinkat(&self.0, &*name, AtFlags::empty()).map_err(refused("replaced"))?;
            return symlinkat(&target, &self.0, &*name).map_err(refused("made"));
        }
        made.map_err(refused("made"))
    }

    /// A file to be written.
    pub fn part(&self, file: &RecoveryFile, force: bool) -> Result<Part> {
        let (name, folder) = (usable(file)?, self.same()?);
        let hidden = format!("{PART}{}", std::process::id());
        // One of our number that is left is of a process that is no more: this one makes one file at a time.
        let _ = unlinkat(&self.0, &*hidden, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.0, &*hidden, flags, Mode::RUSR | Mode::WUSR).map_err(refused("made"))?;
        let part = Part { folder, file: made, hidden, name, force };
        ftruncate(&part.file, file.size_bytes).map_err(refused("made so large"))?;
        Ok(part)
    }
}

impl Part {
    /// Zeroes are left out: the file is all zeroes already.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result {
        let mut at = offset;
        for piece in bytes.chunks(HOLE_BYTES) {
            if piece.iter().any(|byte| *byte != 0) {
                self.put(at, piece).map_err(refused("written"))?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn put(&self, mut at: u64, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, at) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(count) => {
                    at += count as u64;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file is whole, and gets its name.
    pub fn finish(self, file: &RecoveryFile) -> Result {
        dress(&self.file, file)?;
        fsync(&self.file).map_err(refused("written"))?;
        let folder = &self.folder.0;
        let named = if self.force {
            renameat(folder, &*self.hidden, folder, &*self.name)
        } else {
            rename_new(folder, &*self.hidden, &*self.name)
        };
        named.map_err(refused("given its name"))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already, if it has its name.
        let _ = unlinkat(&self.folder.0, &*self.hidden, AtFlags::empty());
    }
}

/// Owner, permissions, attributes and times, in an order in which none takes another away.
fn dress(file: impl AsFd, about: &RecoveryFile) -> Result {
    let mut wrong = Vec::new();
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (about.uid, about.gid)
        && uid != u32::MAX
        && gid != u32::MAX
        && let Err(error) = fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    {
        wrong.push(format!("its owner: {error}"));
    }
    if let Some(mode) = about.mode
        && let Err(error) = fchmod(&file, Mode::from_raw_mode(u32::from(mode & 0o777)))
    {
        wrong.push(format!("its permissions: {error}"));
    }
    for attribute in &about.attributes {
        let name = attribute.name.parse::<FileName>().ok().map(|name| OsString::from_vec(name.into_bytes()));
        let Some(name) = name.filter(|name| is_harmless(name)) else { continue };
        let set = bytes_of(&attribute.value)
            .ok_or(Errno::INVAL)
            .and_then(|value| fsetxattr(&file, &*name, &value, XattrFlags::empty()));
        if let Err(error) = set {
            wrong.push(format!("its attribute {}: {error}", attribute.name));
        }
    }
    if let Some(time) = about.modified {
        let modified =
            Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds.min(999_999_999)) };
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        if let Err(error) = futimens(&file, &Timestamps { last_access: omitted, last_modification: modified })
        {
            wrong.push(format!("its time: {error}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Refused(format!("it could not be given {}", wrong.join(", "))))
    }
}

/// Those of a user, and who may use the file.
fn is_harmless(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

/// Its name, if a file of this host may have it.
fn usable(file: &RecoveryFile) -> Result<OsString> {
    let name: FileName = file.name.parse().map_err(|_| Refused("its name cannot be read".to_owned()))?;
    if !name.is_usable() || name.as_bytes().starts_with(PART.as_bytes()) {
        return Err(Refused("no file of this host may have this name".to_owned()));
    }
    Ok(OsString::from_vec(name.into_bytes()))
}

pub fn link_target(file: &RecoveryFile) -> Result<OsString> {
    let bad = || Refused("where the link leads cannot be read".to_owned());
    let mut target = Vec::new();
    for (at, part) in file.link_target.as_deref().ok_or_else(bad)?.split('/').enumerate() {
        if at > 0 {
            target.push(b'/');
        }
        target.extend(part.parse::<FileName>().map_err(|_| bad())?.into_bytes());
    }
    if target.is_empty() || target.contains(&0) {
        return Err(bad());
    }
    Ok(OsString::from_vec(target))
}

pub fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use nestling_api::v1::{RecoveryFileAttribute, RecoveryFileKind, RecoveryFileTime};

    use super::*;

    fn file(name: &str, size_bytes: u64) -> RecoveryFile {
        RecoveryFile {
            place: format!("scsi:0/1:/{name}"),
            name: name.to_owned(),
            kind: RecoveryFileKind::File,
            size_bytes,
            mode: Some(0o4640),
            uid: None,
            gid: None,
            modified: Some(RecoveryFileTime { seconds: 1_000_000_000, nanoseconds: 5 }),
            link_target: None,
            attributes: vec![RecoveryFileAttribute {
                name: "security.capability".into(),
                value: "00".into(),
            }],
        }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = Folder::open(dir.path()).expect("opened");
        let about = file("a", 1 << 20);
        let part = folder.part(&about, false).expect("made");
        part.write(1 << 19, b"bytes").expect("written");
        assert!(!dir.path().join("a").exists());
        part.finish(&about).expect("named");
        let made = fs::metadata(dir.path().join("a")).expect("there");
        assert_eq!((made.len(), made.mode() & 0o7777, made.mtime()), (1 << 20, 0o640, 1_000_000_000));
        assert!(made.blocks() * 512 < 1 << 19, "it has holes");
        // Another of the name is not in its way, unless it is wanted.
        assert!(folder.part(&about, false).expect("made").finish(&about).is_err());
        folder.part(&about, true).expect("made").finish(&about).expect("replaced");
        drop(folder.part(&file("b", 9), false).expect("made"));
        assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 1, "nothing is left");
    }

    #[test]
    fn no_name_leads_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = Folder::open(dir.path()).expect("opened");
        for name in ["", ".", "..", "\\x2e\\x2e", "a\\x2fb", "a\\x00b", "\\x", ".nestling-part-1"] {
            assert!(folder.part(&file(name, 0), true).is_err(), "{name}");
            assert!(folder.directory(&file(name, 0)).is_err(), "{name}");
        }
        // A link and then a directory of the same name: nothing is put where the link leads.
        let link = RecoveryFile { link_target: Some("/tmp".to_owned()), ..file("x", 0) };
        folder.link(&link, false).expect("made");
        assert!(folder.directory(&file("x", 0)).is_err());
        let raw = file("\\xff", 0);
        folder.part(&raw, false).expect("made").finish(&raw).expect("named");
        assert!(dir.path().join(OsStr::from_bytes(b"\xff")).exists());
    }
}

//! The files below a differencing disk.
//!
//! Read from the images' heads and not by qemu-img: whether a disk is free is asked of all disks of a host at once. Heads
//! may be anything; what is followed is bounded, and only files of this host are.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nestling_model::DiskFormat;
use rustix::fs::OFlags;

use super::{DiskError, io_error};

/// More than anyone stacks on purpose: a longer chain leads back to itself.
const CHAIN_MAX: usize = 64;
const MAGIC: &[u8; 4] = b"QFI\xfb";
/// As the format's specification has them.
const NAME_BYTES_MAX: usize = 1023;
const EXTENSIONS_MAX: usize = 64;
const EXTENSION_PARENT_FORMAT: u32 = 0xe279_2aca;
const INCOMPATIBLE_DATA_ELSEWHERE: u64 = 1 << 2;
const HEAD_BYTES: usize = 104;

/// The parents of a disk, nearest first. All are there.
pub fn parents(path: &Path, format: DiskFormat) -> Result<Vec<PathBuf>, DiskError> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut next = Some((path.to_owned(), Some(format)));
    while let Some((child, format)) = next {
        next = parent(&child, format)?;
        if let Some((parent, _)) = &next {
            plain(parent)?;
            found.push(parent.clone());
        }
        if found.len() > CHAIN_MAX {
            return Err(corrupt(path, "its parents are too many, or lead back to themselves"));
        }
    }
    Ok(found)
}

/// Refuses a parent that is no plain file: to read from anything else may wait for ever, or do something.
fn plain(parent: &Path) -> Result<(), DiskError> {
    let missing = || DiskError::ParentMissing(parent.to_owned());
    let real = parent.canonicalize().map_err(|_| missing())?;
    if ["/proc", "/sys"].iter().any(|kernel| real.starts_with(kernel)) {
        return Err(corrupt(parent, "a disk's parent cannot be the kernel's own file"));
    }
    if real.is_file() { Ok(()) } else { Err(missing()) }
}

/// Opens without waiting for a pipe's other end.
fn open(path: &Path) -> io::Result<File> {
    let no_wait = OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options().read(true).custom_flags(no_wait.bits().cast_signed()).open(path)
}

/// The parent that an image's head names, and the format that it gives it.
fn parent(
    path: &Path,
    format: Option<DiskFormat>,
) -> Result<Option<(PathBuf, Option<DiskFormat>)>, DiskError> {
    if format == Some(DiskFormat::Raw) {
        return Ok(None);
    }
    let file = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => DiskError::Forbidden(path.to_owned()),
        _ => io_error("opened", path)(error),
    })?;
    // What was opened is judged, not what the path led to before.
    let kind = file.metadata().map_err(io_error("read", path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(corrupt(path, "it is no file"));
    }
    let head = match at::<HEAD_BYTES>(&file, 0) {
        Ok(head) if head.starts_with(MAGIC) => head,
        // A parent whose format nobody wrote down is what it looks like.
        _ if format.is_none() => return Ok(None),
        Ok(_) => return Err(corrupt(path, "it does not begin as one")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(corrupt(path, "it ends within its head"));
        }
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let torn = |_| corrupt(path, "its head names places that it does not have");
    let version = be32(&head[4..]);
    if version >= 3 && be64(&head[72..]) & INCOMPATIBLE_DATA_ELSEWHERE != 0 {
        return Err(corrupt(path, "it keeps its data in another file, which is not supported"));
    }
    let (name_at, name_bytes) = (be64(&head[8..]), be32(&head[16..]) as usize);
    if name_at == 0 || name_bytes == 0 {
        return Ok(None);
    }
    if name_bytes > NAME_BYTES_MAX {
        return Err(corrupt(path, "its parent's name is too long"));
    }
    let mut name = vec![0; name_bytes];
    file.read_exact_at(&mut name, name_at).map_err(torn)?;
    let extensions_at = if version >= 3 { u64::from(be32(&head[100..])) } else { 72 };
    let format = parent_format(&file, extensions_at, name_at).map_err(torn)?;
    Ok(Some((beside(path, &name)?, format)))
}

fn parent_format(file: &File, mut place: u64, end: u64) -> io::Result<Option<DiskFormat>> {
    for _ in 0..EXTENSIONS_MAX {
        if place >= end {
            break;
        }
        let extension: [u8; 8] = at(file, place)?;
        let (kind, length) = (be32(&extension), be32(&extension[4..]));
        match kind {
            0 => break,
            EXTENSION_PARENT_FORMAT if length <= 16 => {
                let mut name = vec![0; length as usize];
                file.read_exact_at(&mut name, place + 8)?;
                return Ok(match name.as_slice() {
                    b"raw" => Some(DiskFormat::Raw),
                    b"qcow2" => Some(DiskFormat::Qcow2),
                    _ => None,
                });
            }
            _ => place += 8 + u64::from(length).next_multiple_of(8),
        }
    }
    Ok(None)
}

/// A parent's path: relative ones start at their child, and nothing but a file of this host is meant.
fn beside(child: &Path, name: &[u8]) -> Result<PathBuf, DiskError> {
    let foreign = || corrupt(child, "its parent is no file of this host");
    let name = std::str::from_utf8(name).map_err(|_| foreign())?;
    let name = match name.strip_prefix("file:") {
        // QEMU would look for it where QEMU runs.
        Some(relative) if !relative.starts_with('/') => return Err(foreign()),
        Some(absolute) => absolute,
        None => name,
    };
    let first = name.split('/').next().unwrap_or_default();
    // QEMU takes what stands before such a colon for the name of a protocol.
    if first.contains(':') || name.contains('\0') {
        return Err(foreign());
    }
    Ok(child.parent().unwrap_or(Path::new("/")).join(name))
}

fn at<const N: usize>(file: &File, place: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, place)?;
    Ok(bytes)
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

fn corrupt(path: &Path, why: &str) -> DiskError {
    DiskError::Corrupt { path: path.to_owned(), format: "qcow2", why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Qemu,
        disk::{DiskKind, NewDisk, create},
    };

    async fn on(qemu: &Qemu, path: &Path, parent: Option<(&Path, DiskFormat)>) {
        let kind = match parent {
            Some((parent, parent_format)) => {
                DiskKind::Differencing { parent: parent.to_owned(), parent_format }
            }
            None => DiskKind::Dynamic,
        };
        let new = NewDisk { format: DiskFormat::Qcow2, bytes: Some(1 << 20), kind };
        create(qemu, path, &new).await.unwrap();
    }

    #[tokio::test]
    async fn every_parent_that_qemu_img_wrote_is_found() {
        let Ok(qemu) = Qemu::find(None, None).await else { return };
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("base.img"), vec![0; 1 << 20]).unwrap();
        on(&qemu, &path("a.qcow2"), Some((&path("base.img"), DiskFormat::Raw))).await;
        on(&qemu, &path("b.qcow2"), Some((&path("a.qcow2"), DiskFormat::Qcow2))).await;
        let found = parents(&path("b.qcow2"), DiskFormat::Qcow2).unwrap();
        assert_eq!(found, [path("a.qcow2"), path("base.img")]);
        assert_eq!(parents(&path("b.qcow2"), DiskFormat::Raw).unwrap(), [] as [PathBuf; 0]);
        // What a guest wrote into a raw disk leads nowhere.
        fs::copy(path("b.qcow2"), path("base.img")).unwrap();
        assert_eq!(parents(&path("b.qcow2"), DiskFormat::Qcow2).unwrap(), found);
        fs::remove_file(path("base.img")).unwrap();
        let missing = parents(&path("b.qcow2"), DiskFormat::Qcow2);
        assert!(matches!(missing, Err(DiskError::ParentMissing(p)) if p == path("base.img")));
    }

    /// A head of version 3 without extensions that names a parent.
    fn head(name: &str) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES + 8];
        head[..4].copy_from_slice(MAGIC);
        head[7] = 3;
        head[15] = head.len() as u8;
        head[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        head[103] = HEAD_BYTES as u8;
        head.extend(name.as_bytes());
        head
    }

    #[test]
    fn a_chain_that_never_ends_and_one_that_leaves_the_host_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let refused = |name: &str| {
            fs::write(&path, head(name)).unwrap();
            parents(&path, DiskFormat::Qcow2).unwrap_err().to_string()
        };
        assert!(refused("a.qcow2").contains("lead back to themselves"));
        for foreign in ["nbd:unix:/s:exportname=x", "file:b.qcow2", "json:{}", "https://h/x", "a\0b"] {
            assert!(refused(foreign).contains("no file of this host"), "{foreign}");
        }
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for odd in ["pipe", "/dev/zero", "/proc/self/mem", "/sys/kernel/notes", "/"] {
            let refused = refused(odd);
            assert!(
                refused.contains("kernel's own") || refused.contains("does not exist"),
                "{odd}: {refused}"
            );
        }
        let mut elsewhere = head("");
        elsewhere[79] = 4;
        fs::write(&path, elsewhere).unwrap();
        assert!(parents(&path, DiskFormat::Qcow2).unwrap_err().to_string().contains("in another file"));
    }

    proptest! {
        #[test]
        fn no_head_makes_it_panic_or_run_away(mut rubbish in proptest::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            for begins in [false, true] {
                if begins && rubbish.len() > 8 {
                    rubbish[..4].copy_from_slice(MAGIC);
                    rubbish[4..8].copy_from_slice(&[0, 0, 0, 3]);
                }
                fs::write(&path, &rubbish).unwrap();
                let _ = parents(&path, DiskFormat::Qcow2);
            }
        }
    }
}

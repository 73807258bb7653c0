//! A tar archive, written as it comes.
//!
//! Its form is GNU's, whose long names are any bytes and are known to every tar, busybox's too. What that has no room for
//! (extended attributes, parts of seconds) stands in PAX records, which a tar that does not know them passes over.

use std::{io::Write, os::unix::ffi::OsStrExt};

use nestling_api::{
    FileContent,
    v1::{RecoveryFile, RecoveryFileKind},
};
use nestling_explore::FileName;
use tar::{EntryType, Header};

use super::{Miss, Taken, kind, way::Way};
use crate::commands::recover_write::{bytes_of, link_target};

const BLOCK: usize = 512;
/// In the header itself; one more would be taken for the end of the text by some.
const NAME_BYTES_MAX: usize = 99;
/// What tars call an entry that belongs to the next one.
const LONG: &[u8] = b"././@LongLink";
/// Attributes that Linux has, or had.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

pub struct TarWriter<W> {
    pub out: W,
    way: Way,
    /// Of the file that is being written.
    size_bytes: u64,
    left: u64,
}

impl<W: Write> TarWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, way: Way::default(), size_bytes: 0, left: 0 }
    }

    pub fn enter(&mut self, folder: &RecoveryFile) -> Taken {
        let path = self.way.to(folder)?;
        self.way.enter(path.clone());
        self.head(&[&path[..], b"/"].concat(), folder, EntryType::Directory)
    }

    /// Returns the path of the folder, with a `/` at its end.
    pub fn leave(&mut self) -> Vec<u8> {
        self.way.leave()
    }

    /// A folder once more, for tars that give it its time at once and not when all is in it.
    pub fn dress(&mut self, path: &[u8], folder: &RecoveryFile) -> Taken {
        self.head(path, folder, EntryType::Directory)
    }

    pub fn special(&mut self, file: &RecoveryFile) -> Taken {
        let as_type = match file.kind {
            RecoveryFileKind::Link => EntryType::Symlink,
            RecoveryFileKind::Fifo => EntryType::Fifo,
            other => return Err(Miss::One(format!("a {} is left out", kind(other)))),
        };
        let path = self.way.to(file)?;
        self.head(&path, file, as_type)
    }

    /// Returns the path.
    pub fn begin(&mut self, file: &RecoveryFile) -> Taken<Vec<u8>> {
        let path = self.way.to(file)?;
        (self.size_bytes, self.left) = (file.size_bytes, file.size_bytes);
        self.head(&path, file, EntryType::Regular)?;
        Ok(path)
    }

    pub fn write(&mut self, piece: &FileContent) -> Taken {
        match piece {
            FileContent::Bytes(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                self.put(bytes)
            }
            FileContent::Zeroes(bytes) => self.zeroes(*bytes),
        }
    }

    pub fn zeroes(&mut self, bytes: u64) -> Taken {
        self.left = self.left.saturating_sub(bytes);
        let mut rest = bytes;
        while rest > 0 {
            let now = rest.min(ZEROES.len() as u64);
            self.put(&ZEROES[..usize::try_from(now).unwrap_or(ZEROES.len())])?;
            rest -= now;
        }
        Ok(())
    }

    /// Bytes that the file lacks.
    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn end(&mut self) -> Taken {
        self.pad(self.size_bytes)
    }

    /// The end of the archive.
    pub fn close(&mut self) -> Taken {
        self.put(&ZEROES[..2 * BLOCK])
    }

    fn put(&mut self, bytes: &[u8]) -> Taken {
        self.out.write_all(bytes).map_err(|error| Miss::unwritten(&error))
    }

    fn pad(&mut self, size_bytes: u64) -> Taken {
        let over = usize::try_from(size_bytes % BLOCK as u64).unwrap_or_default();
        if over == 0 { Ok(()) } else { self.put(&ZEROES[..BLOCK - over]) }
    }

    fn head(&mut self, path: &[u8], file: &RecoveryFile, entry_type: EntryType) -> Taken {
        let target = match entry_type {
            EntryType::Symlink => link_target(file)?,
            _ => Default::default(),
        };
        let records = records(file);
        if !records.is_empty() {
            self.extra(EntryType::XHeader, b"PaxHeaders/0", &records)?;
        }
        if target.len() > NAME_BYTES_MAX {
            self.extra(EntryType::GNULongLink, LONG, &[target.as_bytes(), b"\0"].concat())?;
        }
        if path.len() > NAME_BYTES_MAX {
            self.extra(EntryType::GNULongName, LONG, &[path, b"\0"].concat())?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(entry_type);
        let size_bytes = if entry_type == EntryType::Regular { file.size_bytes } else { 0 };
        header.set_size(size_bytes);
        header.set_mode(mode(file));
        // Whose owner is not known is root's; the highest number means nobody in particular to a system.
        let id = |id: Option<u32>| u64::from(id.filter(|id| *id != u32::MAX).unwrap_or_default());
        header.set_uid(id(file.uid));
        header.set_gid(id(file.gid));
        header.set_mtime(file.modified.map_or(0, |time| u64::try_from(time.seconds).unwrap_or(0)));
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, path);
            fill(&mut gnu.linkname, target.as_bytes());
        }
        self.finish_head(header)
    }

    /// An entry that belongs to the next one.
    fn extra(&mut self, entry_type: EntryType, name: &[u8], content: &[u8]) -> Taken {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry_type);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, name);
        }
        self.finish_head(header)?;
        self.put(content)?;
        self.pad(content.len() as u64)
    }

    fn finish_head(&mut self, mut header: Header) -> Taken {
        header.set_cksum();
        self.put(header.as_bytes())
    }
}

/// As much as there is room for, with a zero behind it.
fn fill(field: &mut [u8; 100], text: &[u8]) {
    let length = text.len().min(NAME_BYTES_MAX);
    field[..length].copy_from_slice(&text[..length]);
}

/// All bits: an archive acts on nothing by itself.
pub fn mode(file: &RecoveryFile) -> u32 {
    let unknown = match file.kind {
        RecoveryFileKind::Directory => 0o755,
        RecoveryFileKind::Link => 0o777,
        _ => 0o644,
    };
    file.mode.map_or(unknown, |mode| u32::from(mode & 0o7777))
}

/// PAX records for what the header cannot say.
fn records(file: &RecoveryFile) -> Vec<u8> {
    let mut records = Vec::new();
    if let Some(time) = file.modified
        && (time.nanoseconds != 0 || time.seconds < 0)
    {
        let nanoseconds =
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds.min(999_999_999));
        let (sign, size) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
        let text = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
        record(&mut records, b"mtime", text.as_bytes());
    }
    for attribute in &file.attributes {
        let name = attribute.name.parse::<FileName>().ok().map(FileName::into_bytes);
        let Some(name) = name.filter(|name| is_known(name)) else { continue };
        let Some(value) = bytes_of(&attribute.value) else { continue };
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                // What ends a key in a record is written as GNU's tar does.
                b'%' => key.extend(b"%25"),
                b'=' => key.extend(b"%3D"),
                byte => key.push(byte),
            }
        }
        record(&mut records, &key, &value);
    }
    records
}

fn is_known(name: &[u8]) -> bool {
    NAMESPACES.iter().any(|space| name.starts_with(space) && name.len() > space.len()) && !name.contains(&0)
}

/// `LENGTH KEY=VALUE`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").as_bytes());
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

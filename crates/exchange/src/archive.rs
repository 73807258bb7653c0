//! An OVA: an OVF description with its disks, in one tar archive.
//!
//! Headers are read, and never a member's bytes: those are slices of the archive, and are read when somebody wants them.
//! POSIX's format, with GNU's long names and numbers, and the names and sizes of POSIX's extended headers.

use std::{io, path::Path, sync::Arc};

use nestling_block::{BlockError, BlockSource, ImageFile, ImageFiles, Slice};

use crate::{DESCRIPTION_BYTES_MAX, ExchangeError, error::Result};

const BLOCK: u64 = 512;
const MEMBERS_MAX: usize = 1024;
/// Headers in all, those of long names included.
const HEADERS_MAX: usize = 4096;
const EXTENDED_BYTES_MAX: u64 = 64 << 10;

/// A file in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    offset: u64,
    pub size_bytes: u64,
}

pub struct Archive {
    source: Arc<dyn BlockSource>,
    members: Vec<Member>,
}

/// What a header before the next member says of it.
#[derive(Default)]
struct Ahead {
    name: Option<String>,
    size_bytes: Option<u64>,
}

impl Archive {
    pub fn read(source: Arc<dyn BlockSource>) -> Result<Self> {
        let (mut members, mut ahead, mut at) = (Vec::new(), Ahead::default(), 0);
        for _ in 0..HEADERS_MAX {
            let Some(header) = block(&*source, at)? else { return Ok(Self { source, members }) };
            let (kind, size) =
                (header[156], number(&header[124..136]).ok_or_else(|| bad("a size is no number"))?);
            check(&header)?;
            let content = at + BLOCK;
            let size = match kind {
                b'x' | b'g' | b'L' | b'K' => size,
                _ => ahead.size_bytes.unwrap_or(size),
            };
            let end = content.checked_add(size).filter(|end| *end <= source.size_bytes());
            let end = end.ok_or_else(|| bad("a member reaches behind its end"))?;
            match kind {
                b'x' => extended(&small(&*source, content, size)?, &mut ahead),
                b'L' => ahead.name = Some(text(&small(&*source, content, size)?)),
                b'g' | b'K' => {}
                b'0' | 0 | b'7' => {
                    let name = ahead.name.take().unwrap_or_else(|| name(&header));
                    if members.len() >= MEMBERS_MAX {
                        return Err(ExchangeError::TooMuch { what: "files", max: MEMBERS_MAX });
                    }
                    members.push(Member { name, offset: content, size_bytes: size });
                    ahead = Ahead::default();
                }
                // Folders, links and devices are nothing that a description names.
                _ => ahead = Ahead::default(),
            }
            at = end.next_multiple_of(BLOCK);
        }
        Err(ExchangeError::TooMuch { what: "headers", max: HEADERS_MAX })
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The description: the only file whose name ends so.
    pub fn description(&self) -> Result<Vec<u8>> {
        let is_one = |m: &&Member| m.name.to_ascii_lowercase().ends_with(".ovf");
        let mut found = self.members.iter().filter(is_one);
        match (found.next(), found.next()) {
            (Some(member), None) => {
                small_up_to(&*self.source, member.offset, member.size_bytes, DESCRIPTION_BYTES_MAX as u64)
            }
            (None, _) => Err(ExchangeError::NotThat { what: "OVA: it holds no .ovf" }),
            _ => Err(ExchangeError::unsupported("it holds several descriptions")),
        }
    }
}

/// Files in the archive, for images and what they name. A name leads nowhere else.
impl ImageFiles for Archive {
    fn open(&self, path: &Path) -> std::result::Result<ImageFile, BlockError> {
        let wanted = path.to_str().map(|path| path.trim_start_matches("./"));
        let is_it = |m: &Member| Some(m.name.trim_start_matches("./")) == wanted;
        let missing = || {
            let name = format!("{} in {}", path.display(), self.source.name());
            BlockError::io(&name, "open", 0, io::Error::from(io::ErrorKind::NotFound))
        };
        let (number, member) = self.members.iter().enumerate().find(|(_, m)| is_it(m)).ok_or_else(missing)?;
        let range = member.offset..member.offset.saturating_add(member.size_bytes);
        let name = format!("{} in {}", crate::text::shown(&member.name), self.source.name());
        let source = Arc::new(Slice::new(name, Arc::clone(&self.source), range)?);
        Ok(ImageFile { source, id: (0, number as u64) })
    }
}

fn bad(why: &str) -> ExchangeError {
    ExchangeError::damaged(format!("as an archive: {why}"))
}

/// A header; none at the archive's end.
fn block(source: &dyn BlockSource, at: u64) -> Result<Option<[u8; 512]>> {
    let mut header = [0; 512];
    if at.checked_add(BLOCK).is_none_or(|end| end > source.size_bytes()) {
        return Ok(None);
    }
    source.read_at(&mut header, at)?;
    Ok(if header == [0; 512] { None } else { Some(header) })
}

/// The sum of all bytes, its own field as blanks.
fn check(header: &[u8; 512]) -> Result<()> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    if number(&header[148..156]) == Some(sum) {
        Ok(())
    } else {
        Err(ExchangeError::NotThat { what: "archive (tar), or it is damaged" })
    }
}

/// In octal digits, or in binary where the first bit says so.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => rest.iter().try_fold(0_u64, |n, byte| Some(n.checked_mul(256)? + u64::from(*byte))),
        _ => {
            let text = text(field);
            let digits = text.trim();
            if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
        }
    }
}

/// Up to its first zero.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn name(header: &[u8; 512]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    let is_posix = &header[257..262] == b"ustar" && header[262] == 0;
    if is_posix && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

fn small(source: &dyn BlockSource, at: u64, size: u64) -> Result<Vec<u8>> {
    small_up_to(source, at, size, EXTENDED_BYTES_MAX)
}

fn small_up_to(source: &dyn BlockSource, at: u64, size: u64, max: u64) -> Result<Vec<u8>> {
    if size > max {
        return Err(ExchangeError::TooMuch { what: "bytes", max: max as usize });
    }
    let mut bytes = vec![0; size as usize];
    source.read_at(&mut bytes, at)?;
    Ok(bytes)
}

/// `LENGTH KEY=VALUE` and an end of line, again and again.
fn extended(records: &[u8], ahead: &mut Ahead) {
    let mut rest = records;
    while let Some(blank) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..blank]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let Some(record) = length.filter(|n| *n > blank + 1).and_then(|n| rest.get(blank + 1..n)) else {
            return;
        };
        let record = String::from_utf8_lossy(record.strip_suffix(b"\n").unwrap_or(record));
        match record.split_once('=') {
            Some(("path", path)) => ahead.name = Some(path.to_owned()),
            Some(("size", size)) => ahead.size_bytes = size.parse().ok(),
            _ => {}
        }
        rest = rest.get(length.unwrap_or(rest.len())..).unwrap_or_default();
    }
}

/// An archive of small files, for tests.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sample(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nestling_block::MemoryDisk;
    use proptest::prelude::*;

    use super::*;

    fn archive(bytes: &[u8]) -> Result<Archive> {
        Archive::read(Arc::new(MemoryDisk::from_bytes("a.ova", bytes)))
    }

    fn content(archive: &Archive, name: &str) -> Vec<u8> {
        let file = archive.open(Path::new(name)).expect("a member").source;
        let mut bytes = vec![0; file.size_bytes() as usize];
        file.read_at(&mut bytes, 0).expect("its bytes");
        bytes
    }

    #[test]
    fn members_are_found_and_nothing_else() {
        let bytes = sample(&[("m.ovf", b"<x/>"), ("d-disk1.vmdk", &[7; 700]), ("m.mf", b"")]);
        let found = archive(&bytes).expect("an archive");
        assert_eq!(found.description().expect("one"), b"<x/>");
        assert_eq!(content(&found, "d-disk1.vmdk"), [7; 700]);
        for absent in ["../d-disk1.vmdk", "/etc/passwd", "x"] {
            assert!(found.open(Path::new(absent)).is_err(), "{absent}");
        }
        assert!(archive(&bytes[..1600]).is_err(), "cut off");
        assert!(archive(&[1; 2048]).is_err(), "no archive");
        assert!(archive(&sample(&[("a", b"")])).expect("an archive").description().is_err());
    }

    /// GNU's own, with a name that is too long for a header, in both of its formats.
    #[test]
    fn what_tar_writes_is_read() {
        let dir = std::env::temp_dir().join(format!("nestling-tar-{}", std::process::id()));
        let long = "n".repeat(150) + ".ovf";
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join(&long), "long").expect("a file");
        for format in ["gnu", "pax", "ustar"] {
            let name = if format == "ustar" { "s.ovf" } else { &long };
            std::fs::write(dir.join("s.ovf"), "long").expect("a file");
            let ran = Command::new("tar")
                .current_dir(&dir)
                .args(["-c", "-f", "a.tar", "-H", format, name])
                .output();
            assert!(ran.expect("tar").status.success());
            let found = archive(&std::fs::read(dir.join("a.tar")).expect("an archive")).expect("an archive");
            assert_eq!(found.members()[0].name, name, "{format}");
            assert_eq!(found.description().expect("one"), b"long");
        }
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    proptest! {
        #[test]
        fn no_change_makes_it_panic_or_run_away(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = sample(&[("m.ovf", b"<x/>"), ("d", &[7; 700])]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = archive(&bytes);
        }
    }
}

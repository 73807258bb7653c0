//! A file: its record, those it goes on in, and the streams that they describe.

use std::sync::Arc;

use crate::{
    FileName, Result,
    bytes::{le16, le32, le64, part, u8_at},
    fs::{Attributes, ExtendedAttribute, FileKind, Node, ReparsePoint, Stat, StreamInfo, Times, Timestamp},
    name::to_utf16,
};

use super::{
    Ntfs,
    record::{Attribute, RECORD_MASK, Record, kind},
    stream::{Piece, Stream, runs_in},
};

/// As NTFS itself has it.
const LIST_BYTES_MAX: u64 = 256 << 10;
const LIST_ENTRY_BYTES: usize = 0x1a;
const REPARSE_BYTES_MAX: u64 = 16 << 10;
const EA_BYTES_MAX: u64 = 64 << 10;
/// Names in the old form of 8.3 beside the real one.
const NAMESPACE_DOS: u8 = 2;
/// From 1601 to 1970, in units of 100 ns.
const EPOCH: i128 = 116_444_736_000_000_000;

pub(super) mod tag {
    pub(crate) const LINK: u32 = 0xa000_000c;
    pub(crate) const MOUNT_POINT: u32 = 0xa000_0003;
    pub(crate) const LINK_OF_LINUX: u32 = 0xa000_001d;
    pub(crate) const WOF: u32 = 0x8000_0017;
    pub(crate) const DEDUPLICATED: u32 = 0x8000_0013;
    /// Files in a cloud, with any lower digit of the third byte.
    pub(crate) const CLOUD: u32 = 0x9000_001a;

    pub(crate) fn is_link(tag: u32) -> bool {
        matches!(tag, LINK | MOUNT_POINT | LINK_OF_LINUX)
    }
}

/// A file's record with a list of all its attributes.
#[derive(Debug)]
pub(super) struct File {
    pub(super) record: Record,
    places: Vec<Place>,
}

/// An attribute or a piece of one.
#[derive(Debug)]
struct Place {
    kind: u32,
    /// UTF-16.
    name: Vec<u8>,
    piece: Piece,
}

impl File {
    pub(super) fn open(ntfs: &Ntfs, record: Record) -> Result<Self> {
        let own = |a: Attribute<'_>| Place {
            kind: a.kind(),
            name: a.name().to_vec(),
            piece: Piece { first: a.first_cluster(), record: record.number, id: a.id() },
        };
        let list = record.attributes().find(|a| a.kind() == kind::ATTRIBUTE_LIST);
        let mut places: Vec<Place> = match list {
            None => record.attributes().map(own).collect(),
            Some(list) => {
                let bytes = list_bytes(ntfs, &record, list)?;
                parse_list(&bytes).ok_or_else(|| {
                    ntfs.volume.damaged(format!("record {}: its list of attributes", record.number))
                })?
            }
        };
        // By number of cluster, where it is the same attribute.
        places.sort_by(|a, b| (a.kind, &a.name, a.piece.first).cmp(&(b.kind, &b.name, b.piece.first)));
        Ok(Self { record, places })
    }

    /// Those of one kind and name.
    fn named(&self, kind: u32, name: &[u8]) -> &[Place] {
        let begin = self.places.partition_point(|p| (p.kind, &p.name[..]) < (kind, name));
        let end = self.places.partition_point(|p| (p.kind, &p.name[..]) <= (kind, name));
        &self.places[begin..end]
    }

    /// Of the attribute without a name.
    pub(super) fn pieces(&self, kind: u32) -> Vec<Piece> {
        self.named(kind, b"").iter().map(|p| p.piece).collect()
    }

    pub(super) fn stream(&self, ntfs: &Ntfs, kind: u32, name: &[u8]) -> Result<Option<Arc<Stream>>> {
        let pieces = self.named(kind, name);
        let Some(first) = pieces.first() else { return Ok(None) };
        let pieces = pieces.iter().map(|p| p.piece).collect();
        let stream = self.with(ntfs, first, |attribute| Stream::new(ntfs, attribute, pieces))?;
        Ok(Some(Arc::new(stream)))
    }

    /// Does something with an attribute where it lies.
    fn with<T>(&self, ntfs: &Ntfs, place: &Place, act: impl FnOnce(Attribute<'_>) -> Result<T>) -> Result<T> {
        let number = place.piece.record;
        let other =
            if number == self.record.number { None } else { Some(ntfs.extension(&self.record, number)?) };
        let record = other.as_ref().unwrap_or(&self.record);
        let mut attributes = record.attributes();
        let found =
            attributes.find(|a| a.kind() == place.kind && a.id() == place.piece.id && a.name() == place.name);
        let lost =
            || ntfs.volume.damaged(format!("record {number} lacks an attribute that it is said to have"));
        act(found.ok_or_else(lost)?)
    }

    /// What lies in a record itself, of the first attribute of this kind.
    pub(super) fn value(&self, ntfs: &Ntfs, kind: u32) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.named(kind, b"").first() else { return Ok(None) };
        self.with(ntfs, place, |attribute| Ok(attribute.value().map(<[u8]>::to_vec)))
    }

    pub(super) fn reparse(&self, ntfs: &Ntfs) -> Result<Option<ReparsePoint>> {
        let Some(stream) = self.stream(ntfs, kind::REPARSE_POINT, b"")? else { return Ok(None) };
        let bytes = stream.all(ntfs, REPARSE_BYTES_MAX, "a reparse point")?;
        let data =
            part(&bytes, 8, le16(&bytes, 4).into()).unwrap_or_else(|| bytes.get(8..).unwrap_or_default());
        Ok(Some(ReparsePoint { tag: le32(&bytes, 0), data: data.to_vec() }))
    }

    fn is_dos_name(attribute: Attribute<'_>) -> bool {
        attribute.value().is_some_and(|value| u8_at(value, 0x41) == NAMESPACE_DOS)
    }

    pub(super) fn stat(&self, ntfs: &Ntfs) -> Result<Stat> {
        let information = self.value(ntfs, kind::STANDARD_INFORMATION)?.unwrap_or_default();
        let mut flags = le32(&information, 0x20);
        let data = if self.record.is_directory() { None } else { self.stream(ntfs, kind::DATA, b"")? };
        let mut links = 0;
        for place in self.named(kind::FILE_NAME, b"") {
            let is_dos = self.with(ntfs, place, |attribute| Ok(Self::is_dos_name(attribute)))?;
            links += u32::from(!is_dos);
        }
        let mut kind = if self.record.is_directory() { FileKind::Directory } else { FileKind::File };
        if flags & Attributes::DOS_REPARSE_POINT != 0
            && self.reparse(ntfs)?.is_some_and(|reparse| tag::is_link(reparse.tag))
        {
            kind = FileKind::Link;
        }
        if self.record.is_directory() {
            flags |= Attributes::DOS_DIRECTORY;
        }
        let time = |at| Some(time(le64(&information, at))).filter(|_| !information.is_empty());
        Ok(Stat {
            node: Node(self.record.reference()),
            kind,
            size_bytes: data.as_ref().map_or(0, |stream| stream.size_bytes),
            allocated_bytes: data.as_ref().map_or(0, |stream| stream.allocated_bytes),
            mode: None,
            uid: None,
            gid: None,
            times: Times { modified: time(8), accessed: time(0x18), changed: time(0x10), created: time(0) },
            links,
            attributes: Attributes::Dos(flags),
            device: None,
        })
    }

    /// The number of its security descriptor, and the descriptor itself where the file has one of its own.
    pub(super) fn security(&self, ntfs: &Ntfs) -> Result<(Option<u32>, Option<Arc<Stream>>)> {
        let information = self.value(ntfs, kind::STANDARD_INFORMATION)?.unwrap_or_default();
        let number = Some(le32(&information, 0x34)).filter(|number| *number != 0);
        Ok((number, self.stream(ntfs, kind::SECURITY_DESCRIPTOR, b"")?))
    }

    /// The stream of a name as users write it.
    pub(super) fn data(&self, ntfs: &Ntfs, name: &[u8]) -> Result<Option<Arc<Stream>>> {
        let Some(units) = to_utf16(name) else { return Ok(None) };
        let exact: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        if let Some(found) = self.stream(ntfs, kind::DATA, &exact)? {
            return Ok(Some(found));
        }
        let same = |other: &&Place| {
            other.kind == kind::DATA
                && other.name.len() == exact.len()
                && ntfs.upcase().same(&other.name, &exact)
        };
        match self.places.iter().find(same) {
            Some(place) => self.stream(ntfs, kind::DATA, &place.name),
            None => Ok(None),
        }
    }

    pub(super) fn streams(&self, ntfs: &Ntfs) -> Result<Vec<StreamInfo>> {
        let mut found = Vec::new();
        let mut names: Vec<&Place> =
            self.places.iter().filter(|p| p.kind == kind::DATA && !p.name.is_empty()).collect();
        names.dedup_by(|a, b| a.name == b.name);
        for place in names {
            let Some(stream) = self.stream(ntfs, kind::DATA, &place.name)? else { continue };
            found.push(StreamInfo {
                name: FileName::from_utf16_bytes(&place.name),
                size_bytes: stream.size_bytes,
                allocated_bytes: stream.allocated_bytes,
            });
        }
        Ok(found)
    }

    pub(super) fn extended_attributes(&self, ntfs: &Ntfs) -> Result<Vec<ExtendedAttribute>> {
        let Some(stream) = self.stream(ntfs, kind::EA, b"")? else { return Ok(Vec::new()) };
        let bytes = stream.all(ntfs, EA_BYTES_MAX, "extended attributes")?;
        let mut found = Vec::new();
        let mut at = 0;
        while at + 8 <= bytes.len() {
            let (name_length, value_length) =
                (usize::from(u8_at(&bytes, at + 5)), usize::from(le16(&bytes, at + 6)));
            let name = part(&bytes, at + 8, name_length);
            let value = part(&bytes, at + 8 + name_length + 1, value_length);
            let Some((name, value)) = name.zip(value) else {
                return Err(ntfs
                    .volume
                    .damaged(format!("record {}: its extended attributes", self.record.number)));
            };
            found.push(ExtendedAttribute { name: FileName::from(name), value: value.to_vec() });
            match le32(&bytes, at) as usize {
                0 => break,
                step => at += step,
            }
        }
        Ok(found)
    }
}

/// The list may itself lie elsewhere, but where is said in the base record alone.
fn list_bytes(ntfs: &Ntfs, record: &Record, list: Attribute<'_>) -> Result<Vec<u8>> {
    if let Some(value) = list.value() {
        return Ok(value.to_vec());
    }
    let damaged = || ntfs.volume.damaged(format!("record {}: its list of attributes", record.number));
    if list.size_bytes() > LIST_BYTES_MAX {
        return Err(ntfs.volume.limit("a list of attributes, in bytes", LIST_BYTES_MAX));
    }
    let piece = Piece { first: 0, record: record.number, id: list.id() };
    let runs = runs_in(record, &piece).ok_or_else(damaged)?;
    let mut bytes = vec![0; list.size_bytes() as usize];
    ntfs.read_runs(&runs, 0, &mut bytes)?;
    Ok(bytes)
}

fn parse_list(bytes: &[u8]) -> Option<Vec<Place>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + LIST_ENTRY_BYTES <= bytes.len() {
        let entry =
            part(bytes, at, le16(bytes, at + 4).into()).filter(|entry| entry.len() >= LIST_ENTRY_BYTES)?;
        let piece =
            Piece { first: le64(entry, 8), record: le64(entry, 0x10) & RECORD_MASK, id: le16(entry, 0x18) };
        let name = part(entry, u8_at(entry, 7).into(), 2 * usize::from(u8_at(entry, 6)))?.to_vec();
        found.push(Place { kind: le32(entry, 0), name, piece });
        at += entry.len();
    }
    Some(found)
}

pub(super) fn time(units: u64) -> Timestamp {
    let since = i128::from(units) - EPOCH;
    Timestamp {
        seconds: since.div_euclid(10_000_000) as i64,
        nanoseconds: since.rem_euclid(10_000_000) as u32 * 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601() {
        assert_eq!(time(116_444_736_000_000_001), Timestamp { seconds: 0, nanoseconds: 100 });
        assert_eq!(time(0), Timestamp { seconds: -11_644_473_600, nanoseconds: 0 });
        assert_eq!(time(u64::MAX).seconds, 1_833_029_933_770);
    }
}

//! The container that Hyper-V keeps a machine's configuration in: a tree of keys, in tables.
//!
//! ```text
//! 0x0000, 0x1000  two heads; of the whole ones the one with the higher number counts
//! 0x2000          the object table: which parts the file has, and where
//!                 key tables: entries, each with its name, its value, and which entry of which table it is below
//!                 file objects: values that are too long for an entry
//! ```
//!
//! All numbers are little-endian. The sum of a head is CRC-32, with its own field as zero. What a log of changes holds is not
//! applied: an exported file was closed, and one that was not is refused.

use std::collections::HashMap;

use crate::{ExchangeError, error::Result};

const WHAT: &str = "Hyper-V configuration";
const HEADS: [usize; 2] = [0, 0x1000];
const HEAD_BYTES: usize = 0x2e;
const HEAD_MAGIC: u32 = 0x0128_2014;
/// That of all hosts since Windows Server 2016.
const VERSION: u32 = 0x400;
const LOG_MAGIC: u32 = 0x0111_0003;
const OBJECTS_AT: u64 = 0x2000;
const OBJECTS_MAGIC: u32 = 0x0111_0001;
const OBJECT_BYTES: u64 = 0x12;
const OBJECTS_MAX: u32 = 65_536;
const OBJECT_TABLES_MAX: usize = 64;
const TABLE_MAGIC: u16 = 2;
const TABLE_HEAD_BYTES: usize = 10;
const ENTRY_HEAD_BYTES: usize = 0x15;
const ENTRIES_MAX: usize = 200_000;
/// Keys inside each other.
const DEPTH_MAX: usize = 32;

/// What an object is.
const OBJECT_TABLE: u8 = 1;
const KEY_TABLE: u8 = 2;
const FILE: u8 = 3;

/// Types of values.
const FREE: u8 = 1;
const INT: u8 = 3;
const UINT: u8 = 4;
const STRING: u8 = 6;
const BOOL: u8 = 8;
/// The value lies in a file object.
const ELSEWHERE: u8 = 1;

#[derive(Debug)]
pub enum Value {
    Number(u64),
    Text(String),
    Bool(bool),
    /// A node, or what nobody here asks for.
    Other,
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub value: Value,
    /// The numbers of those below it.
    pub children: Vec<usize>,
}

/// All keys of a file.
#[derive(Debug)]
pub struct Tree {
    entries: Vec<Entry>,
    roots: Vec<usize>,
}

/// Numbers of a file; behind its end there are none.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.part(at, N)?.try_into().ok()
    }

    fn part(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    /// The same, at a place that the file states.
    fn far(self, at: u64, length: u64) -> Option<Bytes<'a>> {
        self.part(usize::try_from(at).ok()?, usize::try_from(length).ok()?).map(Bytes)
    }

    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// Where an entry is: the number of its table, and how far from that table's beginning.
type Place = (u16, u32);

struct Found {
    place: Place,
    /// None: it is below nothing.
    parent: Option<Place>,
    entry: Entry,
}

pub fn read(bytes: &[u8]) -> Result<Tree> {
    let file = Bytes(bytes);
    check_head(file)?;
    let (tables, files) = objects(file)?;
    let mut found = Vec::new();
    let mut tables: Vec<_> = tables.into_values().collect();
    tables.sort_by_key(|table| table.number);
    for table in &tables {
        table.entries(file, &files, &mut found)?;
    }
    Ok(link(found))
}

fn check_head(file: Bytes<'_>) -> Result<()> {
    let whole =
        HEADS.iter().filter_map(|at| file.part(*at, HEAD_BYTES)).filter(|head| is_whole(head)).map(Bytes);
    let head = whole.max_by_key(|head| head.u16(8)).ok_or(ExchangeError::NotThat { what: WHAT })?;
    let version = head.u32(10).unwrap_or_default();
    if version != VERSION {
        return Err(ExchangeError::unsupported(format!(
            "its format has version {:x}.{:x}, and only 4.0 is read, which Windows Server 2016 and later write",
            version >> 8,
            version & 0xff
        )));
    }
    let log_at = head.u64(26).unwrap_or_default();
    let log = file.far(log_at, 12).filter(|log| log.u32(0) == Some(LOG_MAGIC));
    let log = log.ok_or_else(|| ExchangeError::damaged("its log is not where its head says"))?;
    if log.u32(8) != Some(0) {
        return Err(ExchangeError::unsupported(
            "it was not closed: its log holds changes that were not made yet; export the machine while it is off",
        ));
    }
    Ok(())
}

fn is_whole(head: &[u8]) -> bool {
    let bytes = Bytes(head);
    let (before, after) = (head.get(..4).unwrap_or_default(), head.get(8..).unwrap_or_default());
    let mut sum = flate2::Crc::new();
    [before, &[0; 4], after].iter().for_each(|part| sum.update(part));
    bytes.u32(0) == Some(HEAD_MAGIC) && bytes.u32(4) == Some(sum.sum())
}

struct Table<'a> {
    number: u16,
    sequence: u16,
    bytes: Bytes<'a>,
}

/// The key tables by their numbers, and where file objects are.
type Objects<'a> = (HashMap<u16, Table<'a>>, HashMap<u64, u64>);

fn objects(file: Bytes<'_>) -> Result<Objects<'_>> {
    let (mut tables, mut files) = (HashMap::new(), HashMap::new());
    let mut places = vec![OBJECTS_AT];
    let mut next = 0;
    let mut seen: u32 = 0;
    while let Some(at) = places.get(next).copied() {
        next += 1;
        let lost = || ExchangeError::damaged("its object table is not where it should be");
        let head = file.far(at, 8).filter(|head| head.u32(0) == Some(OBJECTS_MAGIC)).ok_or_else(lost)?;
        let count = head.u32(4).unwrap_or_default();
        seen = seen.saturating_add(count);
        if seen > OBJECTS_MAX {
            return Err(ExchangeError::TooMuch { what: "objects", max: OBJECTS_MAX as usize });
        }
        let list = file.far(at.saturating_add(8), u64::from(count) * OBJECT_BYTES).ok_or_else(lost)?;
        for object in list.0.chunks_exact(OBJECT_BYTES as usize).map(Bytes) {
            let (offset, size) = (object.u64(5).unwrap_or_default(), object.u32(13).unwrap_or_default());
            if object.u8(17) == Some(0) {
                continue;
            }
            match object.u8(0) {
                Some(OBJECT_TABLE) if !places.contains(&offset) => {
                    if places.len() >= OBJECT_TABLES_MAX {
                        return Err(ExchangeError::TooMuch { what: "object tables", max: OBJECT_TABLES_MAX });
                    }
                    places.push(offset);
                }
                Some(KEY_TABLE) => keep_newest(&mut tables, table(file, offset, size)?),
                Some(FILE) => {
                    files.insert(offset, u64::from(size));
                }
                _ => {}
            }
        }
    }
    Ok((tables, files))
}

fn table(file: Bytes<'_>, offset: u64, size: u32) -> Result<Table<'_>> {
    let bytes = file.far(offset, u64::from(size)).filter(|table| table.u16(0) == Some(TABLE_MAGIC));
    let bytes = bytes.ok_or_else(|| ExchangeError::damaged("a key table is not where it should be"))?;
    let (number, sequence) = (bytes.u16(2).unwrap_or_default(), bytes.u16(4).unwrap_or_default());
    Ok(Table { number, sequence, bytes })
}

/// Of two tables of one number the newer one counts.
fn keep_newest<'a>(tables: &mut HashMap<u16, Table<'a>>, table: Table<'a>) {
    let is_newer = tables.get(&table.number).is_none_or(|known| known.sequence < table.sequence);
    if is_newer {
        tables.insert(table.number, table);
    }
}

impl Table<'_> {
    fn entries(&self, file: Bytes<'_>, files: &HashMap<u64, u64>, found: &mut Vec<Found>) -> Result<()> {
        let mut at = TABLE_HEAD_BYTES;
        while let Some(head) = self.bytes.part(at, ENTRY_HEAD_BYTES).map(Bytes) {
            let size = head.u32(2).unwrap_or_default() as usize;
            if size == 0 {
                break;
            }
            let entry = self.bytes.part(at, size).filter(|entry| entry.len() >= ENTRY_HEAD_BYTES);
            let entry = entry.ok_or_else(|| ExchangeError::damaged("an entry reaches behind its table"))?;
            if head.u8(0) != Some(FREE) {
                if found.len() >= ENTRIES_MAX {
                    return Err(ExchangeError::TooMuch { what: "entries", max: ENTRIES_MAX });
                }
                let place = (self.number, u32::try_from(at).unwrap_or(u32::MAX));
                let parent = (head.u16(6).unwrap_or_default(), head.u32(8).unwrap_or_default());
                let (key, value) = key_and_value(file, files, Bytes(entry))?;
                let entry = Entry { key, value, children: Vec::new() };
                found.push(Found { place, parent: (parent.0 != 0).then_some(parent), entry });
            }
            at += size;
        }
        Ok(())
    }
}

fn key_and_value(file: Bytes<'_>, files: &HashMap<u64, u64>, entry: Bytes<'_>) -> Result<(String, Value)> {
    let short = || ExchangeError::damaged("an entry is too short for its value");
    let key_bytes = usize::from(entry.u8(0x14).unwrap_or_default());
    let key = entry.part(ENTRY_HEAD_BYTES, key_bytes).ok_or_else(short)?;
    let key = String::from_utf8_lossy(key.strip_suffix(&[0]).unwrap_or(key)).into_owned();
    let data = Bytes(entry.0.get(ENTRY_HEAD_BYTES + key_bytes..).ok_or_else(short)?);
    let is_elsewhere = entry.u8(1).unwrap_or_default() & ELSEWHERE != 0;
    let value = match entry.u8(0) {
        // No number that is asked for is negative.
        Some(INT | UINT) => match data.u64(0).ok_or_else(short)? {
            number if number > i64::MAX as u64 => Value::Other,
            number => Value::Number(number),
        },
        Some(BOOL) => Value::Bool(data.u32(0).ok_or_else(short)? != 0),
        Some(STRING) => {
            let length = data.u32(0).ok_or_else(short)?;
            let bytes = if is_elsewhere {
                let at = data.u64(4).ok_or_else(short)?;
                let room = files.get(&at).copied().unwrap_or_default();
                if u64::from(length) > room {
                    return Err(ExchangeError::damaged("a value is longer than the object that holds it"));
                }
                file.far(at, u64::from(length)).ok_or_else(short)?.0
            } else {
                data.part(4, length as usize).ok_or_else(short)?
            };
            Value::Text(utf16(bytes))
        }
        _ => Value::Other,
    };
    Ok((key, value))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> =
        bytes.chunks_exact(2).filter_map(|pair| pair.try_into().ok()).map(u16::from_le_bytes).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

/// Puts each entry below its parent. What is below nothing that is there is left out, as is what is below itself: nobody
/// comes to it from a root.
fn link(found: Vec<Found>) -> Tree {
    let numbers: HashMap<Place, usize> =
        found.iter().enumerate().map(|(n, found)| (found.place, n)).collect();
    let parents: Vec<Option<Place>> = found.iter().map(|found| found.parent).collect();
    let mut tree = Tree { entries: found.into_iter().map(|found| found.entry).collect(), roots: Vec::new() };
    for (number, parent) in parents.into_iter().enumerate() {
        match parent {
            None => tree.roots.push(number),
            Some(place) => {
                if let Some(parent) = numbers.get(&place).and_then(|parent| tree.entries.get_mut(*parent)) {
                    parent.children.push(number);
                }
            }
        }
    }
    tree
}

impl Tree {
    /// The entry at a path from a root.
    pub fn find(&self, path: &str) -> Option<&Entry> {
        self.walk(&self.roots, path)
    }

    /// The same from an entry on.
    pub fn below(&self, entry: &Entry, path: &str) -> Option<&Entry> {
        self.walk(&entry.children, path)
    }

    fn walk(&self, from: &[usize], path: &str) -> Option<&Entry> {
        let mut keys = path.split('/').take(DEPTH_MAX);
        let first = self.named(from, keys.next()?)?;
        keys.try_fold(first, |entry, key| self.named(&entry.children, key))
    }

    pub fn children<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        entry.children.iter().filter_map(|number| self.entries.get(*number))
    }

    fn named(&self, numbers: &[usize], key: &str) -> Option<&Entry> {
        numbers
            .iter()
            .filter_map(|number| self.entries.get(*number))
            .find(|entry| entry.key.eq_ignore_ascii_case(key))
    }

    /// A text that is not empty.
    pub fn text(&self, entry: &Entry, path: &str) -> Option<&str> {
        match &self.below(entry, path)?.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub fn number(&self, entry: &Entry, path: &str) -> Option<u64> {
        match self.below(entry, path)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// A switch that is on; what is not there is off.
    pub fn is_on(&self, entry: &Entry, path: &str) -> bool {
        matches!(self.below(entry, path).map(|entry| &entry.value), Some(Value::Bool(true)))
    }
}

//! NTFS.
//!
//! Written here because no crate reads what is compressed, and none is made for volumes that lie. Files of the file system
//! itself (`$MFT` and its like) are not listed, but can be looked up. Names in the old form of 8.3 are not listed either, and can be
//! looked up, too. The volume's own journal is not replayed: it is about structures that are rewritten when Windows
//! mounts the volume, so a volume that was in use may lack the last changes, and says so (`Summary::notes`).
//!
//! Refused, with the reason: what is encrypted (EFS), what Windows packed as a whole (WOF: it lies in another form in another
//! stream), what is elsewhere (deduplicated, in a cloud).

mod boot;
mod file;
mod index;
mod lznt1;
mod record;
mod runs;
mod stream;
mod upcase;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use nestling_block::{BlockSource, Extent};

use crate::{
    FileName, Result,
    bytes::le16,
    detect::Kind,
    fs::{Cursor, ExtendedAttribute, FileSystem, Node, Page, ReparsePoint, Stat, StreamInfo, Summary},
    kept::{Kept, kept},
    name::to_utf16,
    volume::Volume,
};

use self::{
    boot::Boot,
    file::{File, tag},
    record::{RECORD_MASK, Record, kind},
    runs::Run,
    stream::{Piece, Stream, runs_in},
    upcase::Upcase,
};

pub(crate) use boot::{MAGIC, MAGIC_OFFSET};

const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const SECURE: u64 = 9;
const UPCASE: u64 = 10;
const SECURITY_HEAD_BYTES: u32 = 20;
const SECURITY_BYTES_MAX: u32 = 256 << 10;
/// Pieces of the master file table itself, which are all kept.
const TABLE_RUNS_MAX: usize = 1 << 18;
/// Streams that were used last, so that reading on does not begin with the record each time.
const STREAMS_KEPT: usize = 16;
const NOT_CLEAN: &str = "it was in use: its own journal is not replayed, and the last changes may be missing";

pub(crate) struct Ntfs {
    volume: Volume,
    boot: Boot,
    /// Where the master file table lies, and how long it is.
    table: Vec<Run>,
    table_bytes: u64,
    root: Node,
    upcase: OnceLock<Upcase>,
    streams: Kept<(u64, Vec<u8>), Arc<Stream>>,
    summary: Summary,
}

impl Ntfs {
    pub(crate) fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let volume = Volume::new(source);
        let boot = Boot::read(&volume)?;
        let summary = Summary {
            kind: Kind::Ntfs,
            label: String::new(),
            uuid: Some(format!("{:016X}", boot.serial)),
            size_bytes: boot.size_bytes,
            free_bytes: None,
            block_bytes: boot.cluster_bytes as u32,
            notes: Vec::new(),
        };
        let mut ntfs = Self {
            volume,
            boot,
            table: Vec::new(),
            table_bytes: 0,
            root: Node(ROOT),
            upcase: OnceLock::new(),
            streams: kept(STREAMS_KEPT),
            summary,
        };
        ntfs.open_table()?;
        let root = ntfs.file(Node(ROOT))?;
        if !root.record.is_directory() {
            return Err(ntfs.volume.damaged("its root is no directory"));
        }
        ntfs.root = Node(root.record.reference());
        ntfs.describe();
        Ok(ntfs)
    }

    /// The master file table says itself where it lies, piece by piece: each piece is in records that lie in those before.
    fn open_table(&mut self) -> Result<()> {
        let offset = self.boot.table_cluster.saturating_mul(self.boot.cluster_bytes);
        let bytes = self.volume.bytes(offset, self.boot.record_bytes as usize)?;
        let record = Record::parse(&self.volume, 0, bytes)?;
        let damaged = |volume: &Volume| volume.damaged("the master file table does not say where it lies");
        let first =
            record.attributes().find(|a| a.kind() == kind::DATA && a.name().is_empty() && !a.is_resident());
        let first = first.ok_or_else(|| damaged(&self.volume))?;
        let piece = Piece { first: 0, record: 0, id: first.id() };
        self.table = runs_in(&record, &piece).ok_or_else(|| damaged(&self.volume))?;
        self.table_bytes = first.size_bytes();
        let file = File::open(self, record)?;
        for piece in file.pieces(kind::DATA).into_iter().filter(|piece| piece.first != 0) {
            if self.table.last().is_none_or(|run| run.end() != piece.first) {
                return Err(damaged(&self.volume));
            }
            let record = self.extension(&file.record, piece.record)?;
            self.table.extend(runs_in(&record, &piece).ok_or_else(|| damaged(&self.volume))?);
            if self.table.len() > TABLE_RUNS_MAX {
                return Err(self.volume.limit("pieces of the master file table", TABLE_RUNS_MAX as u64));
            }
        }
        Ok(())
    }

    /// Label and notes. A volume without them can be read as well.
    fn describe(&mut self) {
        let Ok(file) = self.file(Node(VOLUME)) else { return };
        if let Ok(Some(name)) = file.value(self, kind::VOLUME_NAME) {
            self.summary.label =
                String::from_utf8_lossy(FileName::from_utf16_bytes(&name).as_bytes()).into_owned();
        }
        let flags = file.value(self, kind::VOLUME_INFORMATION).ok().flatten().map_or(0, |v| le16(&v, 10));
        if flags & 1 != 0 {
            self.summary.notes.push("it is marked as damaged (dirty)".to_owned());
        }
        if !self.log_is_clean().unwrap_or(true) {
            self.summary.notes.push(NOT_CLEAN.to_owned());
        }
    }

    /// Whether the journal was closed. An empty one is.
    fn log_is_clean(&self) -> Result<bool> {
        let Some(log) = self.file(Node(LOG_FILE))?.stream(self, kind::DATA, b"")? else { return Ok(true) };
        let mut page = vec![0; 4096];
        log.read(self, 0, &mut page)?;
        if !page.starts_with(b"RSTR") {
            return Ok(true);
        }
        let area = usize::from(le16(&page, 0x18));
        const CLEAN: u16 = 2;
        Ok(le16(&page, area + 0xc) == u16::MAX || le16(&page, area + 0xe) & CLEAN != 0)
    }

    /// Any record of the table.
    fn record(&self, number: u64) -> Result<Record> {
        let offset = number.saturating_mul(self.boot.record_bytes);
        if offset.saturating_add(self.boot.record_bytes) > self.table_bytes {
            return Err(self.volume.damaged(format!("record {number} is named, and the table is shorter")));
        }
        let mut bytes = vec![0; self.boot.record_bytes as usize];
        self.read_runs(&self.table, offset, &mut bytes)?;
        Record::parse(&self.volume, number, bytes)
    }

    /// A record that another one goes on in.
    fn extension(&self, base: &Record, number: u64) -> Result<Record> {
        let record = self.record(number)?;
        if record.is_in_use() && record.base() == base.number {
            return Ok(record);
        }
        Err(self.volume.damaged(format!(
            "record {} is said to go on in record {number}, which is not its own",
            base.number
        )))
    }

    fn file(&self, node: Node) -> Result<File> {
        let (number, sequence) = (node.0 & RECORD_MASK, (node.0 >> 48) as u16);
        let record = self.record(number)?;
        let same = sequence == 0 || sequence == record.sequence();
        if !record.is_in_use() || record.base() != 0 || !same {
            return Err(self.volume.not_found(format!("file in record {number} any more")));
        }
        File::open(self, record)
    }

    fn directory(&self, node: Node) -> Result<File> {
        let file = self.file(node)?;
        if file.record.is_directory() {
            return Ok(file);
        }
        Err(self.volume.wrong_kind(format!("the file in record {}", file.record.number), "a directory"))
    }

    fn read_runs(&self, runs: &[Run], offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let cluster_bytes = self.boot.cluster_bytes;
        let mut at = offset;
        while !buf.is_empty() {
            let run = runs::find(runs, at / cluster_bytes);
            let found = run.and_then(|run| Some((run, run.place?)));
            let (run, place) = found.ok_or_else(|| self.volume.damaged("a structure lies in a hole"))?;
            let inside = at - run.first * cluster_bytes;
            let there = run.clusters.saturating_mul(cluster_bytes) - inside;
            let (piece, rest) = buf.split_at_mut(there.min(buf.len() as u64) as usize);
            self.volume.read(piece, place.saturating_mul(cluster_bytes).saturating_add(inside))?;
            at += piece.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn upcase(&self) -> &Upcase {
        self.upcase.get_or_init(|| {
            let table = self.file(Node(UPCASE)).and_then(|file| {
                let stream = file.stream(self, kind::DATA, b"")?;
                stream.map(|stream| stream.all(self, Upcase::BYTES, "the table of cases")).transpose()
            });
            table.ok().flatten().map_or_else(Upcase::ascii, |bytes| Upcase::parse(&bytes))
        })
    }

    /// A stream whose bytes are those of the file.
    fn data(&self, node: Node, name: &[u8]) -> Result<Arc<Stream>> {
        let key = (node.0, name.to_vec());
        if let Some(stream) = self.streams.get(&key) {
            return Ok(stream);
        }
        let file = self.file(node)?;
        if name.is_empty() {
            self.refuse_elsewhere(&file)?;
        }
        let what = || format!("the file in record {}", file.record.number);
        let stream = file.data(self, name)?.ok_or_else(|| {
            if name.is_empty() {
                self.volume.wrong_kind(what(), "a file with bytes")
            } else {
                self.volume.not_found(format!("stream {} of {}", FileName::from(name), what()))
            }
        })?;
        self.streams.insert(key, Arc::clone(&stream));
        Ok(stream)
    }

    /// Some files have only zeroes where they lie: their bytes are elsewhere, and the zeroes are not theirs.
    fn refuse_elsewhere(&self, file: &File) -> Result<()> {
        let Some(reparse) = file.reparse(self)? else { return Ok(()) };
        let why = match reparse.tag {
            tag::WOF => "is packed as a whole by Windows (compact /exe)",
            tag::DEDUPLICATED => "is deduplicated: its bytes are in the volume's chunk store",
            tag if tag & 0xffff_0fff == tag::CLOUD => "is kept in a cloud",
            _ => return Ok(()),
        };
        Err(self.volume.unsupported(format!(
            "the file in record {} {why}; a helper machine can read it",
            file.record.number
        )))
    }
}

impl FileSystem for Ntfs {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        self.root
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.directory(directory)?;
        let Some(units) = to_utf16(name).filter(|_| name != b".") else { return Ok(None) };
        let name: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        self.search_name(&directory, &name)
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        self.page(&self.directory(directory)?, from, limit)
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        self.file(node)?.stat(self)
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.data(node, stream)?.read(self, offset, buf)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        self.data(node, stream)?.extents(self, range)
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        let file = self.file(node)?;
        let reparse = file.reparse(self)?.filter(|reparse| tag::is_link(reparse.tag));
        reparse.and_then(|reparse| target(&reparse)).ok_or_else(|| {
            self.volume.wrong_kind(format!("the file in record {}", file.record.number), "a symbolic link")
        })
    }

    fn extended_attributes(&self, node: Node) -> Result<Vec<ExtendedAttribute>> {
        self.file(node)?.extended_attributes(self)
    }

    fn streams(&self, node: Node) -> Result<Vec<StreamInfo>> {
        self.file(node)?.streams(self)
    }

    fn security_descriptor(&self, node: Node) -> Result<Option<Vec<u8>>> {
        let (number, own) = self.file(node)?.security(self)?;
        if let Some(own) = own {
            return own.all(self, SECURITY_BYTES_MAX.into(), "a security descriptor").map(Some);
        }
        let Some(number) = number else { return Ok(None) };
        let secure = self.file(Node(SECURE))?;
        let Some((offset, length)) = self.search_security(&secure, number)? else { return Ok(None) };
        let name: Vec<u8> = "$SDS".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let all = secure.stream(self, kind::DATA, &name)?;
        let all = all.ok_or_else(|| self.volume.damaged("the table of security descriptors is not there"))?;
        let length = length.checked_sub(SECURITY_HEAD_BYTES).filter(|length| *length <= SECURITY_BYTES_MAX);
        let length =
            length.ok_or_else(|| self.volume.damaged(format!("the security descriptor {number}")))?;
        let mut bytes = vec![0; length as usize];
        let count = all.read(self, offset.saturating_add(SECURITY_HEAD_BYTES.into()), &mut bytes)?;
        bytes.truncate(count);
        Ok(Some(bytes))
    }

    fn reparse_point(&self, node: Node) -> Result<Option<ReparsePoint>> {
        self.file(node)?.reparse(self)
    }
}

/// Where a link leads, as Windows shows it.
fn target(reparse: &ReparsePoint) -> Option<Vec<u8>> {
    let data = &reparse.data[..];
    if reparse.tag == tag::LINK_OF_LINUX {
        return data.get(4..).map(<[u8]>::to_vec);
    }
    let paths = if reparse.tag == tag::LINK { 12 } else { 8 };
    let name = |at: usize| {
        let (start, length) = (usize::from(le16(data, at)), usize::from(le16(data, at + 2)));
        data.get(paths + start..paths + start + length)
    };
    // The name for people, or the one for the kernel where there is none.
    let shown = name(4).filter(|shown| !shown.is_empty()).or_else(|| name(0))?;
    Some(FileName::from_utf16_bytes(shown).into_bytes())
}

/// Label and serial number, for who only wants to know what a volume is.
pub(crate) fn describe(source: &Arc<dyn BlockSource>) -> Option<(String, Option<String>)> {
    let ntfs = Ntfs::open(Arc::clone(source)).ok()?;
    Some((ntfs.summary.label, ntfs.summary.uuid))
}

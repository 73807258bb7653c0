//! Streams: attributes with bytes, wherever these lie.
//!
//! A stream that lies in many places is described piece by piece in many records. Which record says what is kept; the list of
//! clusters is decoded one record at a time, so that a file of a million pieces takes no more memory than another.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use nestling_block::{EXTENTS_MAX, Extent, ExtentKind, ExtentList};

use crate::Result;

use super::{
    Ntfs, lznt1,
    record::{Attribute, Record, flag},
    runs::{self, Run},
};

/// What is compressed together, at most.
const UNIT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) size_bytes: u64,
    pub(super) allocated_bytes: u64,
    /// What is behind it was never written and reads as zero.
    initialized_bytes: u64,
    flags: u16,
    /// Clusters that are compressed together; none when nothing is.
    unit_clusters: Option<u64>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Resident(Vec<u8>),
    Mapped { pieces: Vec<Piece>, last: Mutex<Option<(usize, Arc<Vec<Run>>)>> },
}

/// The record that says where the clusters from `first` on lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) first: u64,
    pub(super) record: u64,
    pub(super) id: u16,
}

impl Stream {
    /// `first` is the attribute, or its first piece; `pieces` are all of them, in order.
    pub(super) fn new(ntfs: &Ntfs, first: Attribute<'_>, pieces: Vec<Piece>) -> Result<Self> {
        let packed = !first.is_resident() && first.flags() & flag::COMPRESSED != 0;
        let compressed = packed && first.unit_shift() != 0;
        let unit_clusters =
            compressed.then(|| 1_u64.checked_shl(first.unit_shift().into()).unwrap_or(u64::MAX));
        if unit_clusters.is_some_and(|unit| unit.saturating_mul(ntfs.boot.cluster_bytes) > UNIT_BYTES_MAX) {
            return Err(ntfs.volume.damaged("a compressed stream has units of a size that cannot be"));
        }
        let flags = first.flags();
        if first.is_resident() {
            let value =
                first.value().ok_or_else(|| ntfs.volume.damaged("an attribute is longer than its record"))?;
            let size_bytes = value.len() as u64;
            return Ok(Self {
                size_bytes,
                allocated_bytes: size_bytes,
                initialized_bytes: size_bytes,
                flags,
                unit_clusters: None,
                body: Body::Resident(value.to_vec()),
            });
        }
        Ok(Self {
            size_bytes: first.size_bytes().min(i64::MAX.cast_unsigned()),
            allocated_bytes: first.allocated_bytes(),
            initialized_bytes: first.initialized_bytes(),
            flags,
            unit_clusters,
            body: Body::Mapped { pieces, last: Mutex::new(None) },
        })
    }

    /// All of it, if that is not too much.
    pub(super) fn all(&self, ntfs: &Ntfs, limit: u64, what: &str) -> Result<Vec<u8>> {
        if self.size_bytes > limit {
            return Err(ntfs.volume.limit(format!("{what}, in bytes"), limit));
        }
        let mut bytes = vec![0; self.size_bytes as usize];
        self.read(ntfs, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// As much as there is.
    pub(super) fn read(&self, ntfs: &Ntfs, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let count = self.size_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        if self.flags & flag::ENCRYPTED != 0 {
            return Err(ntfs
                .volume
                .unsupported("the stream is encrypted (EFS): only its owner's key can open it"));
        }
        if let Body::Resident(value) = &self.body {
            buf.copy_from_slice(&value[offset.min(value.len() as u64) as usize..][..count]);
            return Ok(count);
        }
        let written = self.initialized_bytes.saturating_sub(offset).min(count as u64) as usize;
        let (buf, never_written) = buf.split_at_mut(written);
        never_written.fill(0);
        match self.unit_clusters {
            None => self.read_clusters(ntfs, offset, buf)?,
            Some(unit) => self.read_units(ntfs, unit, offset, buf)?,
        }
        Ok(count)
    }

    fn read_clusters(&self, ntfs: &Ntfs, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let cluster_bytes = ntfs.boot.cluster_bytes;
        let mut at = offset;
        while !buf.is_empty() {
            let run = self.run(ntfs, at / cluster_bytes)?;
            let inside = at - run.first * cluster_bytes;
            let there = run.clusters.saturating_mul(cluster_bytes) - inside;
            let (piece, rest) = buf.split_at_mut(there.min(buf.len() as u64) as usize);
            match run.place {
                None => piece.fill(0),
                Some(place) => {
                    ntfs.volume.read(piece, place.saturating_mul(cluster_bytes).saturating_add(inside))?;
                }
            }
            at += piece.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn read_units(&self, ntfs: &Ntfs, unit: u64, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let unit_bytes = unit * ntfs.boot.cluster_bytes;
        let mut at = offset;
        let mut whole = vec![0; unit_bytes as usize];
        while !buf.is_empty() {
            let inside = (at % unit_bytes) as usize;
            let (piece, rest) = buf.split_at_mut((whole.len() - inside).min(buf.len()));
            self.unit(ntfs, at / unit_bytes * unit, &mut whole)?;
            piece.copy_from_slice(&whole[inside..inside + piece.len()]);
            at += piece.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    /// The bytes of the unit that begins at a cluster: a hole, or as they are when none of its clusters is missing, or packed
    /// into those at its front.
    fn unit(&self, ntfs: &Ntfs, first: u64, out: &mut [u8]) -> Result<()> {
        let unit = out.len() as u64 / ntfs.boot.cluster_bytes;
        let mut packed = Vec::new();
        let mut cluster = first;
        while cluster < first + unit {
            let Some(run) = self.find(ntfs, cluster)? else { break };
            let Some(place) = run.place else { break };
            let skipped = cluster - run.first;
            let clusters = (run.clusters - skipped).min(first + unit - cluster);
            let start = packed.len();
            packed.resize(start + (clusters * ntfs.boot.cluster_bytes) as usize, 0);
            let offset = (place + skipped).saturating_mul(ntfs.boot.cluster_bytes);
            ntfs.volume.read(&mut packed[start..], offset)?;
            cluster += clusters;
        }
        if packed.len() == out.len() {
            out.copy_from_slice(&packed);
        } else if !lznt1::unpack(&packed, out) {
            return Err(ntfs.volume.damaged(format!("what is compressed at cluster {first} of a stream")));
        }
        Ok(())
    }

    /// What lies in a range, as far as it is told at once.
    pub(super) fn extents(&self, ntfs: &Ntfs, range: Range<u64>) -> Result<Vec<Extent>> {
        let range = range.start.min(self.size_bytes)..range.end.min(self.size_bytes);
        let mut list = ExtentList::new(range);
        let unit = match &self.body {
            Body::Resident(_) => {
                list.push(u64::MAX, ExtentKind::Data);
                return Ok(list.finish());
            }
            Body::Mapped { .. } => self.unit_clusters.unwrap_or(1),
        };
        let cluster_bytes = ntfs.boot.cluster_bytes;
        let unit_bytes = unit * cluster_bytes;
        for _ in 0..EXTENTS_MAX {
            let at = list.position();
            if list.is_done() {
                break;
            }
            if at >= self.initialized_bytes {
                list.push(u64::MAX, ExtentKind::Zero);
                break;
            }
            let first = at / unit_bytes * unit;
            let run = self.run(ntfs, first)?;
            let there = run.end() - first;
            // A unit with any cluster at its front holds data.
            let (units, kind) = match run.place {
                None => ((there / unit).max(1), ExtentKind::Zero),
                Some(_) => ((there / unit).max(1), ExtentKind::Data),
            };
            let end = (first + units * unit).saturating_mul(cluster_bytes);
            // No further than to what was never written, which is not read from there.
            list.push(end.min(self.initialized_bytes.max(at + 1)) - at, kind);
        }
        Ok(list.finish())
    }

    fn run(&self, ntfs: &Ntfs, cluster: u64) -> Result<Run> {
        let found = self.find(ntfs, cluster)?;
        found.ok_or_else(|| {
            ntfs.volume.damaged(format!("nobody says where cluster {cluster} of a stream lies"))
        })
    }

    fn find(&self, ntfs: &Ntfs, cluster: u64) -> Result<Option<Run>> {
        let Body::Mapped { pieces, last } = &self.body else { return Ok(None) };
        let Some(index) = pieces.partition_point(|piece| piece.first <= cluster).checked_sub(1) else {
            return Ok(None);
        };
        let held = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let decoded = match held {
            Some((held, runs)) if held == index => runs,
            _ => {
                let runs = Arc::new(ntfs.runs_of(&pieces[index])?);
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, Arc::clone(&runs)));
                runs
            }
        };
        Ok(runs::find(&decoded, cluster))
    }
}

impl Ntfs {
    fn runs_of(&self, piece: &Piece) -> Result<Vec<Run>> {
        let record = self.record(piece.record)?;
        runs_in(&record, piece)
            .ok_or_else(|| self.volume.damaged(format!("record {}: where its clusters lie", piece.record)))
    }
}

pub(super) fn runs_in(record: &Record, piece: &Piece) -> Option<Vec<Run>> {
    let mut attributes = record.attributes();
    let attribute =
        attributes.find(|a| a.id() == piece.id && !a.is_resident() && a.first_cluster() == piece.first)?;
    runs::decode(attribute.mapping(), piece.first)
}

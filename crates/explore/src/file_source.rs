//! A file of a file system as a disk: so that a disk image inside a disk is read like any other.

use std::{io, ops::Range, sync::Arc};

use nestling_block::{BlockError, BlockSource, Extent, check_range};

use crate::{
    ExploreError, Result,
    fs::{FileSystem, Node},
};

/// Its size is that at the time of opening: nothing here changes.
pub struct FileSource {
    fs: Arc<dyn FileSystem>,
    node: Node,
    stream: Vec<u8>,
    size_bytes: u64,
    name: String,
}

impl FileSource {
    /// `name` is for messages: the path to the file, with all that is around it.
    pub fn open(fs: Arc<dyn FileSystem>, node: Node, name: &str) -> Result<Self> {
        let size_bytes = fs.stat(node)?.size_bytes;
        // Refuses what has no bytes or none that can be read, before anybody builds on it.
        fs.read(node, b"", 0, &mut [0])?;
        Ok(Self { fs, node, stream: Vec::new(), size_bytes, name: name.to_owned() })
    }

    /// An alternate data stream of a file.
    pub fn open_stream(fs: Arc<dyn FileSystem>, node: Node, stream: &[u8], name: &str) -> Result<Self> {
        let found = fs.streams(node)?.into_iter().find(|info| info.name.as_bytes() == stream);
        let info = found.ok_or_else(|| ExploreError::NotFound {
            volume: fs.summary().label_or_kind(),
            what: format!("stream {} of {name}", crate::FileName::from(stream)),
        })?;
        Ok(Self { fs, node, stream: stream.to_owned(), size_bytes: info.size_bytes, name: name.to_owned() })
    }

    fn error(&self, action: &'static str, offset: u64, error: ExploreError) -> BlockError {
        match error {
            ExploreError::Disk { source, .. } => source,
            other => BlockError::io(&self.name, action, offset, io::Error::other(other)),
        }
    }
}

impl BlockSource for FileSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match self.fs.read(self.node, &self.stream, at, &mut buf[done..]) {
                Ok(0) => return Err(BlockError::damaged(&self.name, at, "the file is shorter than it said")),
                Ok(count) => done += count,
                Err(error) => return Err(self.error("read", at, error)),
            }
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        check_range(&self.name, self.size_bytes, range.start, range.end.saturating_sub(range.start))?;
        let found = self.fs.extents(self.node, &self.stream, range.clone());
        let found = found.map_err(|error| self.error("say what is a hole", range.start, error))?;
        // What a reader in another process says is checked like everything else from there.
        let mut at = range.start;
        for extent in &found {
            if extent.offset != at || extent.length == 0 || extent.end() > range.end {
                return Err(BlockError::damaged(&self.name, at, "its map has a gap"));
            }
            at = extent.end();
        }
        if found.is_empty() && !range.is_empty() {
            return Err(BlockError::damaged(&self.name, at, "its map ends too early"));
        }
        Ok(found)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

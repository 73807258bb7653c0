//! Writes initramfs archives ("newc" cpio): sorted, owned by root, one fixed time, no device numbers.
//!
//! Written here because the cpio program records inode numbers and owners of the machine that builds, which
//! would make every build differ. Nothing is compressed: under emulation unpacking costs more than reading.

use crate::command::EPOCH_SECS;
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File { mode: u32, data: Vec<u8> },
    Symlink(String),
}

/// An archive in memory. Parent directories come into being by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Directory);
    }

    pub fn file(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { mode, data: data.into() });
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Symlink(target.to_owned()));
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory);
        }
    }

    /// The kernel wants a directory before what is in it: a sorted map gives exactly that.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1_u32..).zip(&self.entries) {
            let (mode, data, links) = match entry {
                Entry::Directory => (0o040_755, &[][..], 2),
                Entry::File { mode, data } => (0o100_000 | mode, &data[..], 1),
                Entry::Symlink(target) => (0o120_777, target.as_bytes(), 1),
            };
            write_entry(out, path, inode, mode, links, data)?;
        }
        write_entry(out, "TRAILER!!!", 0, 0, 1, &[])
    }
}

fn write_entry(
    out: &mut impl Write,
    path: &str,
    inode: u32,
    mode: u32,
    links: u32,
    data: &[u8],
) -> io::Result<()> {
    let size =
        u32::try_from(data.len()).map_err(|_| io::Error::other("a file of 4 GiB or more in an initramfs"))?;
    let time = if mode == 0 { 0 } else { EPOCH_SECS };
    let name_size = path.len() + 1;
    write!(out, "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{time:08x}{size:08x}", 0, 0)?;
    write!(out, "{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}{path}\0", 0, 0, 0, 0, 0)?;
    out.write_all(&[0; 3][..(4 - (110 + name_size) % 4) % 4])?;
    out.write_all(data)?;
    out.write_all(&[0; 3][..(4 - data.len() % 4) % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpio_program_reads_what_we_write() {
        let mut archive = Archive::default();
        archive.file("usr/bin/tool", 0o755, "abc");
        archive.symlink("bin", "usr/bin");
        archive.directory("proc");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.cpio"), &bytes).unwrap();
        let listing = std::process::Command::new("sh")
            .args(["-c", "cpio --quiet -itvF a.cpio"])
            .current_dir(dir.path())
            .output();
        let Ok(listing) = listing else { return };
        if !listing.status.success() && String::from_utf8_lossy(&listing.stderr).contains("not found") {
            return; // This machine has no cpio program; the layout below is still checked by the kernel.
        }
        let text = String::from_utf8(listing.stdout).unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(8)).collect();
        assert_eq!(names, ["bin", "proc", "usr", "usr/bin", "usr/bin/tool"], "{text}");
        assert!(text.contains("-rwxr-xr-x   1 root     root            3"), "{text}");
    }

    #[test]
    fn every_entry_starts_on_four_bytes() {
        for name in ["a", "ab", "abc", "abcd"] {
            let mut archive = Archive::default();
            archive.file(name, 0o644, name);
            let mut bytes = Vec::new();
            archive.write(&mut bytes).unwrap();
            assert_eq!(bytes.len() % 4, 0);
            let trailer = bytes.windows(6).rposition(|window| window == b"070701").unwrap();
            assert_eq!(trailer % 4, 0);
        }
    }
}

//! Numbers for paths in a mounted volume.
//!
//! Inode numbers would not do: btrfs has the same ones in each subvolume, and no path leads back from them. The client asks
//! about what it was told a moment ago, so that the oldest may be forgotten: then it looks the path up again.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::Node;

pub(super) const ROOT: Node = Node(0);
/// Of all paths together.
const BYTES_MAX: usize = 32 << 20;
/// Besides its path, roughly.
const ENTRY_BYTES: usize = 160;

pub(super) struct Nodes {
    paths: BTreeMap<u64, Arc<Path>>,
    numbers: HashMap<Arc<Path>, u64>,
    next: u64,
    bytes: usize,
}

impl Nodes {
    pub fn new() -> Self {
        Self { paths: BTreeMap::new(), numbers: HashMap::new(), next: 1, bytes: 0 }
    }

    /// Relative to the volume's root; `.` is the root itself.
    pub fn path(&self, node: Node) -> Option<Arc<Path>> {
        if node == ROOT { Some(Path::new(".").into()) } else { self.paths.get(&node.0).cloned() }
    }

    /// The number of what is called so in a directory.
    pub fn node(&mut self, directory: &Path, name: &[u8]) -> Node {
        let mut path = if directory == Path::new(".") {
            Vec::new()
        } else {
            let mut path = directory.as_os_str().as_bytes().to_owned();
            path.push(b'/');
            path
        };
        path.extend(name);
        let path: Arc<Path> = PathBuf::from(std::ffi::OsString::from_vec(path)).into();
        if let Some(known) = self.numbers.get(&path) {
            return Node(*known);
        }
        let number = self.next;
        self.next += 1;
        self.bytes += path.as_os_str().len() + ENTRY_BYTES;
        self.paths.insert(number, Arc::clone(&path));
        self.numbers.insert(path, number);
        while self.bytes > BYTES_MAX
            && let Some((_, oldest)) = self.paths.pop_first()
        {
            self.bytes -= oldest.as_os_str().len() + ENTRY_BYTES;
            self.numbers.remove(&oldest);
        }
        Node(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_number_and_old_ones_are_forgotten() {
        let mut nodes = Nodes::new();
        let root = nodes.path(ROOT).expect("the root");
        let etc = nodes.node(&root, b"etc");
        let path = nodes.path(etc).expect("known");
        assert_eq!(&*path, Path::new("etc"));
        let hosts = nodes.node(&path, b"hosts");
        assert_eq!(nodes.path(hosts).as_deref(), Some(Path::new("etc/hosts")));
        assert_eq!(nodes.node(&root, b"etc"), etc);
        let name = [b'x'; 200];
        for number in 0..120_000_u32 {
            nodes.node(&path, &[&name[..], number.to_string().as_bytes()].concat());
        }
        assert!(nodes.bytes <= BYTES_MAX && nodes.paths.len() == nodes.numbers.len());
        assert_eq!(nodes.path(etc), None, "forgotten");
        assert_ne!(nodes.node(&root, b"etc"), etc, "and another number the next time");
    }
}

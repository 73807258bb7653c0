//! The files that images are made of, and the names of others that images state.
//!
//! Names in images come from whoever made them, and a guest that owns a raw disk can make it look like an image. So
//! names are followed only if the caller said so, and never out of an image whose format was guessed. Where a name leads
//! is the caller's as well: into the directories of this host ([`LocalFiles`]), or into a file system inside a backup.
//! Whatever images state, a chain is bounded and no circle.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{BlockError, BlockSource, RawDisk};

/// Images above each other, the first included.
pub const CHAIN_MAX: usize = 200;
/// Files that all images of a chain are cut into.
const PARTS_MAX: usize = 1024;

/// Whether names that an image states are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// An image with a backing file or a data file of its own is refused: for what comes from outside.
    Refuse,
    /// They are opened, by any path: for images that this host made, and where no path leads out of what belongs to
    /// the image's owner anyway.
    Follow,
}

/// Where images and the files that they name are.
pub trait ImageFiles {
    /// Opens a file for reading. That there is none is an error of the kind `NotFound`.
    fn open(&self, path: &Path) -> Result<ImageFile, BlockError>;

    /// Where a file is that an image names by a path of Windows, such as `C:\VMs\a.vhdx`. None where no such paths
    /// mean anything; then only its name is looked for, beside the image.
    fn windows_path(&self, _path: &str) -> Option<PathBuf> {
        None
    }
}

/// A file that was opened.
pub struct ImageFile {
    pub source: Arc<dyn BlockSource>,
    /// The same for two names of one file, and for no two files: device and inode.
    pub id: (u64, u64),
}

/// The files of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalFiles {
    /// See [`RawDisk::drop_behind`].
    pub drop_behind: bool,
}

impl ImageFiles for LocalFiles {
    fn open(&self, path: &Path) -> Result<ImageFile, BlockError> {
        let file = RawDisk::open(path)?;
        let about = file.file().metadata().map_err(|e| BlockError::io(file.name(), "look", 0, e))?;
        let file = if self.drop_behind { file.drop_behind() } else { file };
        Ok(ImageFile { source: Arc::new(file), id: (about.dev(), about.ino()) })
    }
}

/// All that one image is made of, while it is opened.
pub(crate) struct Family<'a> {
    files: &'a dyn ImageFiles,
    links: Links,
    seen: Vec<(u64, u64)>,
    parts: usize,
}

impl<'a> Family<'a> {
    pub(crate) fn new(files: &'a dyn ImageFiles, links: Links) -> Self {
        Self { files, links, seen: Vec::new(), parts: 0 }
    }

    /// The next image of the chain.
    pub(crate) fn open(&mut self, path: &Path) -> Result<Arc<dyn BlockSource>, BlockError> {
        let ImageFile { source, id } = self.files.open(path)?;
        if self.seen.contains(&id) {
            let what = "is below itself: the files that images name form a circle";
            return Err(BlockError::unsupported(source.name(), what));
        }
        if self.seen.len() >= CHAIN_MAX {
            return Err(BlockError::unsupported(
                source.name(),
                format!("has more than {CHAIN_MAX} images above it"),
            ));
        }
        self.seen.push(id);
        Ok(source)
    }

    /// One of several files that hold the bytes of `image`, at the first of `places` where there is one.
    pub(crate) fn open_part(
        &mut self,
        image: &str,
        places: &[PathBuf],
    ) -> Result<Arc<dyn BlockSource>, BlockError> {
        if self.parts >= PARTS_MAX {
            return Err(BlockError::unsupported(image, format!("is made of more than {PARTS_MAX} files")));
        }
        self.parts += 1;
        first_of(image, "a part", places, |path| self.files.open(path)).map(|(_, file)| file.source)
    }

    /// The parent of `image`, at the first of `places` where there is a file.
    pub(crate) fn open_parent(
        &mut self,
        image: &str,
        places: &[PathBuf],
    ) -> Result<(PathBuf, Arc<dyn BlockSource>), BlockError> {
        first_of(image, "the parent", places, |path| self.open(path))
    }

    /// Refuses where names may not be followed.
    pub(crate) fn may_follow(&self, image: &str) -> Result<(), BlockError> {
        match self.links {
            Links::Follow => Ok(()),
            Links::Refuse => {
                Err(BlockError::unsupported(image, "names other files, which may not be followed here"))
            }
        }
    }

    /// Where a parent may be that is named in the way of Windows: by the path from the image, by whole paths, and at
    /// last by its name alone, beside the image, where chains lie that were moved.
    pub(crate) fn windows_places(&self, image: &Path, relative: &[String], whole: &[String]) -> Vec<PathBuf> {
        let folder = image.parent().unwrap_or(Path::new(""));
        let mut places: Vec<PathBuf> = relative
            .iter()
            .map(|name| name.replace('\\', "/"))
            .filter(|name| !name.starts_with('/') && !name.contains(':'))
            .map(|name| folder.join(name.trim_start_matches("./")))
            .collect();
        places.extend(whole.iter().filter_map(|path| self.files.windows_path(path)));
        let names = relative.iter().chain(whole).filter_map(|path| path.rsplit(['\\', '/']).next());
        places.extend(names.filter(|name| !["", ".", ".."].contains(name)).map(|name| folder.join(name)));
        distinct(places)
    }

    /// Where a file may be whose name says in which way it is meant: by the path itself, and at last by its name alone,
    /// beside the image.
    pub(crate) fn places(&self, image: &Path, name: &str) -> Vec<PathBuf> {
        let name = name.to_owned();
        if name.get(1..2) == Some(":") || name.starts_with('\\') {
            return self.windows_places(image, &[], &[name]);
        }
        if name.contains('\\') {
            return self.windows_places(image, &[name], &[]);
        }
        let folder = image.parent().unwrap_or(Path::new(""));
        let last = name.rsplit('/').next().unwrap_or_default();
        distinct(match last {
            "" | "." | ".." => Vec::new(),
            last => vec![folder.join(&name), folder.join(last)],
        })
    }
}

/// Each place once, in their order, without those that no file can have.
fn distinct(places: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for place in places {
        if !found.contains(&place) && !place.as_os_str().as_encoded_bytes().contains(&0) {
            found.push(place);
        }
    }
    found
}

/// Opens the first that there is. That there is none of them is told of the first.
fn first_of<T>(
    image: &str,
    role: &str,
    places: &[PathBuf],
    mut open: impl FnMut(&Path) -> Result<T, BlockError>,
) -> Result<(PathBuf, T), BlockError> {
    let mut missing = None;
    for place in places {
        match open(place) {
            Ok(found) => return Ok((place.clone(), found)),
            Err(BlockError::Io { source, offset, action, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let name = format!("{}, {role} of {image}", place.display());
                missing.get_or_insert(BlockError::Io { name, action, offset, source });
            }
            Err(error) => return Err(error),
        }
    }
    Err(missing
        .unwrap_or_else(|| BlockError::unsupported(image, format!("does not say where {role} of it is"))))
}

/// Files by name, all in one folder, for tests.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) struct MemoryFiles(pub(crate) Vec<(String, Arc<dyn BlockSource>)>);

#[cfg(any(test, feature = "fuzzing"))]
impl ImageFiles for MemoryFiles {
    fn open(&self, path: &Path) -> Result<ImageFile, BlockError> {
        match self.0.iter().position(|(name, _)| Path::new(name) == path) {
            Some(number) => Ok(ImageFile { source: Arc::clone(&self.0[number].1), id: (0, number as u64) }),
            None => {
                let name = path.display().to_string();
                Err(BlockError::io(&name, "open", 0, std::io::Error::from(std::io::ErrorKind::NotFound)))
            }
        }
    }

    fn windows_path(&self, path: &str) -> Option<PathBuf> {
        path.strip_prefix("C:").map(|rest| PathBuf::from(rest.replace('\\', "/")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_names_are_meant_from_the_image() {
        let host = LocalFiles::default();
        let family = Family::new(&host, Links::Follow);
        let text = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let places = |relative: &[&str], whole: &[&str]| {
            family.windows_places(Path::new("/vms/sub/child.avhdx"), &text(relative), &text(whole))
        };
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(places(&[".\\a b.vhdx"], &["C:\\VMs\\a b.vhdx"]), paths(&["/vms/sub/a b.vhdx"]));
        assert_eq!(
            places(&["..\\base\\a.vhdx"], &["\\\\?\\Volume{1}\\old.vhdx"]),
            paths(&["/vms/sub/../base/a.vhdx", "/vms/sub/a.vhdx", "/vms/sub/old.vhdx"])
        );
        assert_eq!(
            places(&["C:\\x\\y.vhd", "\\z", ".."], &[]),
            paths(&["/vms/sub/..", "/vms/sub/y.vhd", "/vms/sub/z"])
        );
        let place = |name| family.places(Path::new("/vms/disk.vmdk"), name);
        assert_eq!(place("d-flat.vmdk"), paths(&["/vms/d-flat.vmdk"]));
        assert_eq!(place("../d.vmdk"), paths(&["/vms/../d.vmdk", "/vms/d.vmdk"]));
        assert_eq!(place("/vmfs/v/d.vmdk"), paths(&["/vmfs/v/d.vmdk", "/vms/d.vmdk"]));
        assert_eq!(place("D:\\v\\d.vmdk"), paths(&["/vms/d.vmdk"]));
        assert_eq!(place("v\\d.vmdk"), paths(&["/vms/v/d.vmdk", "/vms/d.vmdk"]));
        assert!(place("..").is_empty() && place("").is_empty() && place("a\0b").is_empty());
        let inside = MemoryFiles(Vec::new());
        let family = Family::new(&inside, Links::Follow);
        let found = family.windows_places(Path::new("/a/child"), &[], &text(&["C:\\VMs\\p.vhdx"]));
        assert_eq!(found, paths(&["/VMs/p.vhdx", "/a/p.vhdx"]));
    }
}

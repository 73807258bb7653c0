//! Files that descriptions and images may name: those in the folders that an administrator gave, and no others.
//!
//! A path of another host means nothing here. What it names is looked for there first and then by its last part, and is
//! taken only if it really lies in one of the folders, links followed, and is a plain file.

use std::{
    io,
    path::{Path, PathBuf},
};

use nestling_block::{BlockError, ImageFile, ImageFiles, LocalFiles};

#[derive(Debug, Clone, Default)]
pub struct Folders(Vec<PathBuf>);

impl Folders {
    /// Those of them that are there. Blocks.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut kept: Vec<PathBuf> = Vec::new();
        for folder in folders.into_iter().filter_map(|folder| folder.canonicalize().ok()) {
            if folder.is_dir() && !kept.contains(&folder) {
                kept.push(folder);
            }
        }
        Self(kept)
    }

    pub fn all(&self) -> &[PathBuf] {
        &self.0
    }

    /// Where a file is. Blocks.
    pub fn find(&self, path: &Path) -> Option<PathBuf> {
        let places = self.0.iter().flat_map(|folder| {
            let by_name = path.file_name().map(|name| folder.join(name));
            std::iter::once(folder.join(path)).chain(by_name)
        });
        places.into_iter().find_map(|place| {
            let real = place.canonicalize().ok()?;
            let is_inside = self.0.iter().any(|folder| real.starts_with(folder));
            (is_inside && real.is_file()).then_some(real)
        })
    }
}

impl ImageFiles for Folders {
    fn open(&self, path: &Path) -> Result<ImageFile, BlockError> {
        match self.find(path) {
            Some(real) => LocalFiles { drop_behind: true }.open(&real),
            None => {
                let name = path.display().to_string();
                Err(BlockError::io(&name, "open", 0, io::Error::from(io::ErrorKind::NotFound)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_outside_the_folders_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["in", "in/sub", "more", "out"] {
            fs::create_dir(path(folder)).unwrap();
        }
        for file in ["in/a", "in/sub/b", "more/c", "out/secret"] {
            fs::write(path(file), "x").unwrap();
        }
        symlink(path("out/secret"), path("in/link")).unwrap();
        symlink(path("in/a"), path("more/back")).unwrap();
        let folders = Folders::new([path("in"), path("more"), path("none")]);
        let found = |name: &str| folders.find(Path::new(name));
        let real = |name: &str| path(name).canonicalize().ok();
        assert_eq!(found("/elsewhere/a"), real("in/a"), "by its name");
        assert_eq!(folders.find(&path("in/sub/b")), real("in/sub/b"), "below");
        assert_eq!(found("x/c"), real("more/c"));
        assert_eq!(found("back"), real("in/a"), "a link inside");
        for outside in ["link", "../out/secret", "/etc/passwd", "sub", "..", "", "b"] {
            assert_eq!(found(outside), None, "{outside}");
        }
        assert_eq!(folders.find(&path("in/../out/secret")), None);
        assert!(folders.open(Path::new("link")).is_err());
    }
}

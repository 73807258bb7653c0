//! Files that are whole or absent, also after a power cut.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Where a file is written before it gets its name.
pub(crate) fn part(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".part");
    PathBuf::from(name)
}

/// Gives a finished [`part`] its name, replacing what had it.
pub(crate) fn finish(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(part(path), path)?;
    sync_dir_of(path)
}

pub(crate) fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes a file whole, replacing what has its name. Blocks.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = part(path);
    let written = (|| {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        finish(&file, path)
    })();
    if written.is_err() {
        fs::remove_file(&part).ok();
    }
    written
}

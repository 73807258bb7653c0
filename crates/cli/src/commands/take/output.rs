//! Where an archive goes: a new file, which has its name when it is whole, or standard output; packed or not.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use nestling_api::v1::ErrorCode;
use nestling_vault::rename_new;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fsync, openat, renameat, statat, unlinkat},
    io::Errno,
};

use crate::{
    failure::{Failure, Result},
    printer::Printer,
};

/// Headers are small.
const BUFFER_BYTES: usize = 256 << 10;
const PART: &str = ".nestling-part-";

/// A file that has no name yet. Without [`NewFile::finish`] nothing is left of it.
pub struct NewFile {
    path: PathBuf,
    folder: OwnedFd,
    hidden: String,
    name: OsString,
    force: bool,
}

impl NewFile {
    /// It can be read by its owner alone: what a guest keeps secret is in it.
    pub fn create(path: &Path, force: bool) -> Result<(Self, File)> {
        let failed = |error: Errno| Failure::file("create", path, &error.into());
        let Some(name) = path.file_name().map(OsString::from) else {
            return Err(Failure::usage(format!("{} is no name of a file", path.display())));
        };
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, parent, flags, Mode::empty()).map_err(failed)?;
        // Told now, and not after hours; what comes meanwhile is not replaced either.
        match statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(it) if FileType::from_raw_mode(it.st_mode).is_dir() => {
                let said = format!("{} is a directory", path.display());
                return Err(Failure::new(ErrorCode::Exists, said).hint("name a file in it"));
            }
            Ok(_) if !force => return Err(there(path)),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        let hidden = format!("{PART}{}", std::process::id());
        // One of our number that is left is of a process that is no more: this one makes one file at a time.
        let _ = unlinkat(&folder, &*hidden, AtFlags::empty());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, &*hidden, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        Ok((Self { path: path.to_owned(), folder, hidden, name, force }, File::from(file)))
    }

    /// The file is whole, and gets its name.
    pub fn finish(self, file: &File) -> Result {
        let failed = |error: &io::Error| Failure::file("write", &self.path, error);
        file.sync_all().map_err(|error| failed(&error))?;
        let (folder, hidden, name) = (&self.folder, &*self.hidden, &*self.name);
        let named = if self.force {
            renameat(folder, hidden, folder, name)
        } else {
            rename_new(folder, hidden, name)
        };
        match named {
            Ok(()) => fsync(folder).map_err(|error| failed(&error.into())),
            Err(Errno::EXIST) => Err(there(&self.path)),
            Err(error) => Err(failed(&error.into())),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Gone already, if it has its name.
        let _ = unlinkat(&self.folder, &*self.hidden, AtFlags::empty());
    }
}

fn there(path: &Path) -> Failure {
    let said = format!("{} is there already", path.display());
    Failure::new(ErrorCode::Exists, said).hint("--force replaces it")
}

/// Standard output, through the printer.
pub struct Standard(pub Printer);

impl Write for Standard {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.0.bytes(buf) {
            Ok(()) => Ok(buf.len()),
            Err(Failure::BrokenPipe) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(Failure::Error(error)) => Err(io::Error::other(error.message)),
            Err(_) => Err(io::Error::other("can't write the output")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub enum Raw {
    File(BufWriter<File>),
    Standard(BufWriter<Standard>),
}

impl Raw {
    pub fn file(file: File) -> Self {
        Self::File(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    pub fn standard(printer: Printer) -> Self {
        Self::Standard(BufWriter::with_capacity(BUFFER_BYTES, Standard(printer)))
    }
}

impl Write for Raw {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(out) => out.write(buf),
            Self::Standard(out) => out.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(out) => out.flush(),
            Self::Standard(out) => out.flush(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

enum Packer {
    None(Raw),
    Gzip(GzEncoder<Raw>),
    Zstd(zstd::Encoder<'static, Raw>),
}

impl Packer {
    fn new(packing: Packing, raw: Raw) -> io::Result<Self> {
        Ok(match packing {
            Packing::None => Self::None(raw),
            Packing::Gzip => Self::Gzip(GzEncoder::new(raw, Compression::default())),
            Packing::Zstd => Self::Zstd(zstd::Encoder::new(raw, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        })
    }

    fn finish(self) -> io::Result<Raw> {
        let mut raw = match self {
            Self::None(raw) => raw,
            Self::Gzip(packer) => packer.finish()?,
            Self::Zstd(packer) => packer.finish()?,
        };
        raw.flush()?;
        Ok(raw)
    }
}

/// Bytes on their way, which can be taken back to a mark: what is packed is cut there in two, as every program takes it that
/// unpacks gzip or zstd.
pub struct Packed {
    packing: Packing,
    /// None only after an error.
    packer: Option<Packer>,
    mark: Option<u64>,
}

impl Packed {
    pub fn new(packing: Packing, raw: Raw) -> io::Result<Self> {
        Ok(Self { packing, packer: Some(Packer::new(packing, raw)?), mark: None })
    }

    fn take(&mut self) -> io::Result<Packer> {
        self.packer.take().ok_or_else(|| io::Error::other("it could not be written before"))
    }

    /// Whether what is written from now on can be taken back.
    pub fn mark(&mut self) -> io::Result<bool> {
        if matches!(self.raw(), Some(Raw::Standard(_))) {
            return Ok(false);
        }
        let mut raw = self.take()?.finish()?;
        if let Raw::File(file) = &mut raw {
            self.mark = Some(file.stream_position()?);
        }
        self.packer = Some(Packer::new(self.packing, raw)?);
        Ok(true)
    }

    /// Whether all since the mark is as if it had not been written.
    pub fn take_back(&mut self) -> io::Result<bool> {
        let Some(mark) = self.mark.take() else { return Ok(false) };
        let mut raw = self.take()?.finish()?;
        if let Raw::File(file) = &mut raw {
            file.seek(SeekFrom::Start(mark))?;
            file.get_ref().set_len(mark)?;
        }
        self.packer = Some(Packer::new(self.packing, raw)?);
        Ok(true)
    }

    fn raw(&self) -> Option<&Raw> {
        match self.packer.as_ref()? {
            Packer::None(raw) => Some(raw),
            Packer::Gzip(packer) => Some(packer.get_ref()),
            Packer::Zstd(packer) => Some(packer.get_ref()),
        }
    }

    /// All of it is written. None: there is no file.
    pub fn finish(mut self) -> io::Result<Option<File>> {
        match self.take()?.finish()? {
            Raw::File(file) => Ok(Some(file.into_inner().map_err(io::IntoInnerError::into_error)?)),
            Raw::Standard(_) => Ok(None),
        }
    }
}

impl Write for Packed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.packer.as_mut() {
            Some(Packer::None(raw)) => raw.write(buf),
            Some(Packer::Gzip(packer)) => packer.write(buf),
            Some(Packer::Zstd(packer)) => packer.write(buf),
            None => Err(io::Error::other("it could not be written before")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

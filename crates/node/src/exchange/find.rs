//! Which machine a path means: the description that lies there, and its disks, opened. All of it blocks.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_block::{BlockSource, ImageFiles, ImageFormat, OpenImage, RawDisk};
use nestling_exchange::{
    Archive, DESCRIPTION_BYTES_MAX, Disk, ExchangeError, Machine, is_domain, read_libvirt, read_ovf,
    read_vmcx,
};

use super::{error::ExchangeFailed, folders::Folders};
use crate::{NodeError, error::Result};

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;
/// Where an export of Hyper-V has its parts.
const HYPER_V_MACHINES: &str = "Virtual Machines";
const HYPER_V_DISKS: [&str; 2] = ["Virtual Hard Disks", "Snapshots"];

/// A machine with its disks, ready to be copied.
pub struct Found {
    pub machine: Machine,
    /// In the order of the machine's.
    pub disks: Vec<FoundDisk>,
}

pub struct FoundDisk {
    pub source: Arc<dyn BlockSource>,
    /// Its file, unless it lies inside another one.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The one that says most comes first: in a folder with several, it counts.
    Vmcx,
    Libvirt,
    Ovf,
    Ova,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        match path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase().as_str() {
            "vmcx" => Some(Self::Vmcx),
            "xml" => Some(Self::Libvirt),
            "ovf" => Some(Self::Ovf),
            "ova" => Some(Self::Ova),
            _ => None,
        }
    }
}

/// Reads the description, and opens all disks.
pub fn find(path: &Path, more: &[PathBuf]) -> Result<Found> {
    if !path.is_absolute() || more.iter().any(|folder| !folder.is_absolute()) {
        return Err(NodeError::invalid("paths must be absolute"));
    }
    let about = fs::metadata(path).map_err(NodeError::io("open", path))?;
    let (kind, path) = match about.is_dir() {
        true => in_folder(path)?,
        // To open anything else may wait for ever, or do something.
        false if !about.is_file() => {
            return Err(NodeError::Invalid(format!("{} is no file", path.display())));
        }
        false => (of_file(path)?, path.to_owned()),
    };
    let refused = |source| NodeError::from(ExchangeFailed::Description { path: path.clone(), source });
    if kind == Kind::Ova {
        let file = RawDisk::open(&path).map_err(|error| refused(error.into()))?;
        let archive = Archive::read(Arc::new(file)).map_err(refused)?;
        let machine = read_ovf(&archive.description().map_err(refused)?).map_err(refused)?;
        let opened = |disk: &Disk| {
            let source = open(&archive, Path::new(&plain(&disk.file)), disk)?;
            Ok(FoundDisk { source, path: None })
        };
        let disks = machine.disks.iter().map(opened).collect::<Result<_>>()?;
        return Ok(Found { machine, disks });
    }
    let bytes = read(&path)?;
    let machine = match kind {
        Kind::Vmcx => read_vmcx(&bytes),
        Kind::Libvirt => read_libvirt(&bytes),
        Kind::Ovf | Kind::Ova => read_ovf(&bytes),
    };
    let machine = machine.map_err(refused)?;
    let folders = Folders::new(beside(&path, kind).into_iter().chain(more.iter().cloned()));
    let disks = machine.disks.iter().map(|disk| in_folders(&folders, disk)).collect::<Result<_>>()?;
    Ok(Found { machine, disks })
}

fn of_file(path: &Path) -> Result<Kind> {
    Kind::of(path).ok_or_else(|| {
        NodeError::Invalid(format!(
            "{} is no description of a machine: those end with .vmcx, .ovf, .ova or .xml; or name a folder with one",
            path.display()
        ))
    })
}

/// The description in a folder: the one of the kind that says most, of which there must be one only.
fn in_folder(folder: &Path) -> Result<(Kind, PathBuf)> {
    let mut found: Vec<(Kind, PathBuf)> = Vec::new();
    for folder in [folder.to_owned(), folder.join(HYPER_V_MACHINES)].iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).map_err(NodeError::io("list", folder))?.take(ENTRIES_MAX) {
            let path = entry.map_err(NodeError::io("list", folder))?.path();
            let kind = Kind::of(&path).filter(|_| path.is_file());
            // Not everything in XML is a machine.
            let is_one =
                |kind: &Kind| *kind != Kind::Libvirt || read(&path).is_ok_and(|bytes| is_domain(&bytes));
            if let Some(kind) = kind.filter(is_one) {
                found.push((kind, path));
            }
        }
    }
    found.sort();
    let shown = folder.display();
    match found.as_slice() {
        [] => Err(NodeError::Invalid(format!(
            "{shown} holds no description of a machine (.vmcx, .xml, .ovf, .ova)"
        ))),
        [(first, _), (second, _), ..] if first == second => {
            let names: Vec<String> =
                found.iter().take(9).map(|(_, path)| path.display().to_string()).collect();
            Err(NodeError::Invalid(format!(
                "{shown} holds several machines; name one of {}",
                names.join(", ")
            )))
        }
        [first, ..] => Ok(first.clone()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(NodeError::io("open", path))?;
    let about = file.metadata().map_err(NodeError::io("read", path))?;
    if !about.is_file() || about.len() > DESCRIPTION_BYTES_MAX as u64 {
        let source = ExchangeError::NotThat { what: "file of a size that descriptions have" };
        return Err(ExchangeFailed::Description { path: path.to_owned(), source }.into());
    }
    let mut bytes = Vec::new();
    file.take(DESCRIPTION_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(NodeError::io("read", path))?;
    Ok(bytes)
}

/// The folders where disks of this description lie.
fn beside(path: &Path, kind: Kind) -> Vec<PathBuf> {
    let Some(own) = path.parent() else { return Vec::new() };
    let mut folders = vec![own.to_owned()];
    if kind == Kind::Vmcx {
        let is_export = own.file_name() == Some(OsStr::new(HYPER_V_MACHINES));
        let export = own.parent().filter(|_| is_export).unwrap_or(own);
        folders.push(export.to_owned());
        folders.extend(HYPER_V_DISKS.map(|name| export.join(name)));
    }
    folders
}

fn in_folders(folders: &Folders, disk: &Disk) -> Result<FoundDisk> {
    // Names in OVF are addresses, in which a blank may be written as %20.
    let names = [disk.file.replace('\\', "/"), plain(&disk.file)];
    match names.iter().find_map(|name| folders.find(Path::new(name))) {
        Some(path) => Ok(FoundDisk { source: open(folders, &path, disk)?, path: Some(path) }),
        None => Err(ExchangeFailed::DiskMissing {
            file: disk.file_name().chars().take(255).collect(),
            looked: folders.all().to_vec(),
        }
        .into()),
    }
}

/// What was stated counts, then the name that the file has on its host; else its first bytes, and then it may name no others.
fn open(files: &dyn ImageFiles, path: &Path, disk: &Disk) -> Result<Arc<dyn BlockSource>> {
    let format = disk.format.or_else(|| by_name(path));
    let opened = OpenImage::open_in(files, path, format);
    let file = || path.display().to_string();
    opened.map(|image| image.source).map_err(|source| ExchangeFailed::Disk { file: file(), source }.into())
}

fn by_name(path: &Path) -> Option<ImageFormat> {
    match path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase().as_str() {
        "qcow2" => Some(ImageFormat::Qcow2),
        "vhdx" | "avhdx" => Some(ImageFormat::Vhdx),
        "vhd" | "avhd" => Some(ImageFormat::Vhd),
        "vmdk" => Some(ImageFormat::Vmdk),
        _ => None,
    }
}

/// An address with its escapes undone; what is no escape stays.
fn plain(address: &str) -> String {
    let mut bytes = Vec::with_capacity(address.len());
    let mut rest = address.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits =
            more.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_undone_where_it_is_one() {
        for (address, name) in [("a%20b.vmdk", "a b.vmdk"), ("100%", "100%"), ("%zz", "%zz"), ("%2", "%2")] {
            assert_eq!(plain(address), name);
        }
    }

    #[test]
    fn of_several_descriptions_the_one_that_says_most_counts_and_two_of_it_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert!(in_folder(dir.path()).unwrap_err().message().contains("no description"));
        put("m.ovf", "");
        put("other.xml", "<network/>");
        assert_eq!(in_folder(dir.path()).unwrap().0, Kind::Ovf);
        put("m.xml", "<domain/>");
        assert_eq!(in_folder(dir.path()).unwrap(), (Kind::Libvirt, dir.path().join("m.xml")));
        fs::create_dir(dir.path().join(HYPER_V_MACHINES)).unwrap();
        put("Virtual Machines/1.vmcx", "");
        let (kind, path) = in_folder(dir.path()).unwrap();
        assert_eq!(kind, Kind::Vmcx);
        assert!(beside(&path, kind).contains(&dir.path().join("Virtual Hard Disks")));
        put("Virtual Machines/2.vmcx", "");
        assert!(in_folder(dir.path()).unwrap_err().message().contains("several machines"));
    }
}

//! What an image is: the description that lies beside its files as `image.json`.
//!
//! The description is read from a directory that a user can write to, so nothing in it is trusted: file names
//! must be plain names of files that exist in the image's own directory.

use crate::ImageError;
use crate::error::IoContext;
use serde::{Deserialize, Deserializer, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

pub const MANIFEST: &str = "image.json";
const FORMAT_VERSION: u32 = 1;
/// All that there are, the usual one first.
pub const GENERATIONS: [u8; 2] = [1, 2];
const MANIFEST_LIMIT_BYTES: u64 = 1 << 20;

/// How an image came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// The smallest innermost guest: kernel and busybox, all in memory.
    Pebble,
    /// A small Debian that is a Nestling host itself.
    Host,
    /// A usual Debian server with systemd, ssh and cloud-init.
    Debian,
    /// Reads disks of others for a node; no image for machines of users.
    Reader,
    /// Brought in by the user.
    Imported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

/// A finished image. All paths are absolute and stay valid when the image is rebuilt: a new build gets a new
/// directory, and the old one stays until [`crate::ImageStore::prune`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    pub kind: ImageKind,
    /// The image's own directory.
    pub dir: PathBuf,
    /// For direct kernel boot; `None` when the disk boots by itself.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    /// Kernel command line for direct kernel boot; `nestling.*` parameters are added by the caller.
    pub append: String,
    /// Never write to it: a VM gets an overlay whose backing file is this.
    pub disk: Option<PathBuf>,
    pub disk_format: DiskFormat,
    /// Size that the guest sees, 0 without a disk.
    pub disk_virtual_bytes: u64,
    /// What it was built from, as a hash: same key, same content.
    pub key: String,
    pub built_at_unix_secs: u64,
    /// Space that the files take.
    pub size_bytes: u64,
    pub default_memory_bytes: u64,
    /// The generations that it boots with, the usual one first: 1 is BIOS or direct kernel boot, 2 is UEFI.
    pub generations: Vec<u8>,
    /// Reads a NoCloud seed at its first boot.
    pub cloud_init: bool,
    /// `name=version` of every package it was built from.
    pub packages: Vec<String>,
}

impl Image {
    pub(crate) fn manifest(&self) -> Result<Manifest, ImageError> {
        Manifest::read(&self.name, &self.dir)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub kind: ImageKind,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub append: String,
    pub disk: Option<String>,
    pub disk_format: DiskFormat,
    pub disk_virtual_bytes: u64,
    pub key: String,
    pub built_at_unix_secs: u64,
    pub default_memory_bytes: u64,
    /// One number in descriptions from before an image could boot with both.
    #[serde(alias = "generation", deserialize_with = "one_or_more")]
    pub generations: Vec<u8>,
    pub cloud_init: bool,
    pub packages: Vec<String>,
}

impl Manifest {
    pub fn new(kind: ImageKind) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            kind,
            kernel: None,
            initrd: None,
            append: String::new(),
            disk: None,
            disk_format: DiskFormat::Qcow2,
            disk_virtual_bytes: 0,
            key: String::new(),
            built_at_unix_secs: 0,
            default_memory_bytes: 512 << 20,
            generations: vec![1],
            cloud_init: false,
            packages: Vec::new(),
        }
    }

    pub fn load(name: &str, dir: &Path) -> Result<Image, ImageError> {
        // Symbolic links are followed once, here: the paths must outlive a rebuild that moves the link.
        let dir = match fs::canonicalize(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::NotFound(name.to_owned()));
            }
            other => other.at("open", dir)?,
        };
        Self::read(name, &dir)?.into_image(name, dir)
    }

    fn read(name: &str, dir: &Path) -> Result<Self, ImageError> {
        let path = dir.join(MANIFEST);
        if fs::metadata(&path).at("read", &path)?.len() > MANIFEST_LIMIT_BYTES {
            return Err(damaged(name, "it is too long"));
        }
        let bytes = fs::read(&path).at("read", &path)?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(name, error))?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(damaged(name, format!("version {} is not known", manifest.format_version)));
        }
        Ok(manifest)
    }

    pub fn to_json(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        serde_json::to_vec_pretty(self).map_err(|error| damaged(name, error))
    }

    fn into_image(self, name: &str, dir: PathBuf) -> Result<Image, ImageError> {
        let mut size_bytes = 0;
        let mut resolve = |file: Option<String>| -> Result<Option<PathBuf>, ImageError> {
            let Some(file) = file else { return Ok(None) };
            if file.is_empty() || file.starts_with('.') || file.contains(['/', '\0']) {
                return Err(damaged(name, format!("'{}' is not a plain file name", file.escape_debug())));
            }
            let path = dir.join(&file);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    size_bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
                    Ok(Some(path))
                }
                _ => Err(damaged(name, format!("its file '{file}' is missing"))),
            }
        };
        let (kernel, initrd) = (resolve(self.kernel)?, resolve(self.initrd)?);
        let disk = resolve(self.disk)?;
        if kernel.is_none() && disk.is_none() {
            return Err(damaged(name, "it has neither a kernel nor a disk"));
        }
        let generations = match self.kind {
            // Its disk has always booted with both, but older descriptions name only the first.
            ImageKind::Debian => GENERATIONS.to_vec(),
            _ => self.generations,
        };
        if generations.is_empty() || generations.iter().any(|number| !GENERATIONS.contains(number)) {
            return Err(damaged(name, "it boots with no generation that is known"));
        }
        Ok(Image {
            name: name.to_owned(),
            kind: self.kind,
            kernel,
            initrd,
            append: self.append,
            disk,
            disk_format: self.disk_format,
            disk_virtual_bytes: self.disk_virtual_bytes,
            key: self.key,
            built_at_unix_secs: self.built_at_unix_secs,
            size_bytes,
            default_memory_bytes: self.default_memory_bytes,
            generations,
            cloud_init: self.cloud_init,
            packages: self.packages,
            dir,
        })
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<u8>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Numbers {
        One(u8),
        More(Vec<u8>),
    }
    Ok(match Numbers::deserialize(value)? {
        Numbers::One(number) => vec![number],
        Numbers::More(numbers) => numbers,
    })
}

fn damaged(name: &str, reason: impl std::fmt::Display) -> ImageError {
    ImageError::BadManifest { name: name.to_owned(), reason: reason.to_string() }
}

/// Names become directory names and parts of commands, so they are kept plain.
pub fn check_name(name: &str) -> Result<(), ImageError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good =
        name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain);
    if good { Ok(()) } else { Err(ImageError::BadName(name.escape_debug().to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(manifest: &Manifest) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), serde_json::to_vec(manifest).unwrap()).unwrap();
        fs::write(dir.path().join("vmlinux"), "kernel").unwrap();
        dir
    }

    #[test]
    fn a_description_is_read_back() {
        let manifest = Manifest { kernel: Some("vmlinux".into()), ..Manifest::new(ImageKind::Pebble) };
        let dir = written(&manifest);
        let image = Manifest::load("pebble", dir.path()).unwrap();
        assert_eq!(image.kernel, Some(fs::canonicalize(dir.path()).unwrap().join("vmlinux")));
        assert_eq!((image.kind, image.generations), (ImageKind::Pebble, vec![1]));
    }

    #[test]
    fn a_description_from_before_both_generations_is_read() {
        let generations = |kind, value: serde_json::Value| {
            let manifest = Manifest { kernel: Some("vmlinux".into()), ..Manifest::new(kind) };
            let mut json = serde_json::to_value(&manifest).unwrap();
            json.as_object_mut().unwrap().remove("generations");
            json["generation"] = value;
            let dir = written(&manifest);
            fs::write(dir.path().join(MANIFEST), json.to_string()).unwrap();
            Manifest::load("x", dir.path()).map(|image| image.generations)
        };
        assert_eq!(generations(ImageKind::Imported, 2.into()).unwrap(), [2]);
        assert_eq!(generations(ImageKind::Debian, 1.into()).unwrap(), [1, 2]);
        assert_eq!(generations(ImageKind::Imported, vec![2, 1].into()).unwrap(), [2, 1]);
        assert!(generations(ImageKind::Imported, 3.into()).is_err());
        assert!(generations(ImageKind::Imported, Vec::<u8>::new().into()).is_err());
    }

    #[test]
    fn file_names_that_leave_the_directory_are_refused() {
        for bad in ["../vmlinux", "/etc/passwd", "", ".", "..", "a/b", "missing"] {
            let manifest = Manifest { kernel: Some(bad.into()), ..Manifest::new(ImageKind::Pebble) };
            let error = Manifest::load("x", written(&manifest).path()).unwrap_err();
            assert!(matches!(error, ImageError::BadManifest { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn a_newer_or_broken_description_is_refused() {
        let newer =
            Manifest { format_version: 2, kernel: Some("vmlinux".into()), ..Manifest::new(ImageKind::Host) };
        assert!(Manifest::load("x", written(&newer).path()).unwrap_err().to_string().contains("version 2"));
        let dir = written(&newer);
        fs::write(dir.path().join(MANIFEST), "{").unwrap();
        assert!(matches!(Manifest::load("x", dir.path()), Err(ImageError::BadManifest { .. })));
    }

    #[test]
    fn names() {
        for good in ["pebble", "debian-12.1", "A_b"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".x", "-x", "a/b", "a b", "a\n", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}

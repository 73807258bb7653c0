//! Takes a disk image or a kernel with its initramfs from elsewhere into the store.
//!
//! The source is copied and left as it is. A qcow2 file that refers to other files is refused: opening it would
//! read whatever files it names.

use crate::command::Tool;
use crate::error::IoContext;
use crate::image::{DiskFormat, GENERATIONS, ImageKind, Manifest};
use crate::progress::Steps;
use crate::store::hex;
use crate::{ImageError, Progress};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const HASH_BUFFER_BYTES: usize = 1 << 20;

/// What the user knows about what is imported.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// What a disk is; otherwise its first bytes say whether it is qcow2.
    pub format: Option<DiskFormat>,
    /// The only generation that a disk boots with; otherwise both are allowed, as no file says which.
    pub generation: Option<u8>,
}

pub fn import(
    source: &Path,
    options: ImportOptions,
    out: &Path,
    steps: &Steps,
) -> Result<Manifest, ImageError> {
    let metadata = fs::metadata(source).at("open", source)?;
    if metadata.is_dir() {
        if options.format.is_some() {
            return Err(refused(source, "a directory with a kernel has no disk format"));
        }
        if options.generation.is_some_and(|number| number != 1) {
            return Err(refused(source, "a kernel starts directly, which only generation 1 does"));
        }
        import_kernel(source, out, steps)
    } else if metadata.is_file() {
        import_disk(source, options, out, steps)
    } else {
        Err(refused(source, "it is neither a file nor a directory"))
    }
}

fn import_disk(
    source: &Path,
    options: ImportOptions,
    out: &Path,
    steps: &Steps,
) -> Result<Manifest, ImageError> {
    let mut magic = [0; 4];
    let mut file = File::open(source).at("open", source)?;
    let is_qcow2 = file.read_exact(&mut magic).is_ok() && &magic == b"QFI\xfb";
    // Probing would let a raw disk's guest-written first sector choose the format.
    let disk_format = options.format.unwrap_or(if is_qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw });
    let format = match disk_format {
        DiskFormat::Qcow2 if !is_qcow2 => return Err(refused(source, "it is no qcow2 disk image")),
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    };
    let info = disk_info(source, format, steps.progress())?;
    if info.refers_elsewhere {
        return Err(refused(source, "it refers to other files; flatten it first with `qemu-img convert`"));
    }
    steps.next("copying the disk")?;
    let name = format!("disk.{format}");
    copy_sparse(source, format, &out.join(&name), steps.progress())?;
    let mut manifest = Manifest::new(ImageKind::Imported);
    manifest.key = hash_file(&out.join(&name), steps)?;
    manifest.disk = Some(name);
    manifest.disk_format = disk_format;
    manifest.disk_virtual_bytes = info.virtual_bytes;
    manifest.default_memory_bytes = 1 << 30;
    manifest.generations = options.generation.map_or(GENERATIONS.to_vec(), |number| vec![number]);
    manifest.cloud_init = true;
    Ok(manifest)
}

fn import_kernel(source: &Path, out: &Path, steps: &Steps) -> Result<Manifest, ImageError> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(source).at("list", source)? {
        names.extend(entry.at("list", source)?.file_name().into_string());
    }
    names.sort();
    let find = |prefixes: &[&str]| {
        let matches = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        names.iter().find(matches).map(|name| source.join(name))
    };
    let Some(kernel) = find(&["vmlinux", "vmlinuz", "bzImage"]) else {
        return Err(refused(source, "the directory has no file vmlinux*, vmlinuz* or bzImage*"));
    };
    steps.next("copying the kernel")?;
    let mut manifest = Manifest::new(ImageKind::Imported);
    let mut keys = String::new();
    let mut take = |from: PathBuf, name: &str| -> Result<Option<String>, ImageError> {
        let to = out.join(name);
        fs::copy(&from, &to).at("copy", &from)?;
        keys.push_str(&hash_file(&to, steps)?);
        Ok(Some(name.to_owned()))
    };
    manifest.kernel = take(kernel, "kernel")?;
    if let Some(initrd) = find(&["initrd", "initramfs"]) {
        manifest.initrd = take(initrd, "initrd")?;
    }
    let append = source.join("append");
    if append.is_file() {
        manifest.append = fs::read_to_string(&append).at("read", &append)?.trim().to_owned();
    } else {
        manifest.append = "console=ttyS0".to_owned();
    }
    manifest.key = hex(&Sha256::digest(keys));
    Ok(manifest)
}

struct DiskInfo {
    virtual_bytes: u64,
    refers_elsewhere: bool,
}

fn disk_info(path: &Path, format: &str, progress: &dyn Progress) -> Result<DiskInfo, ImageError> {
    let doing = format!("checking {}", path.display());
    let output = Tool::new("qemu-img", &doing, progress)
        .args(["info", "--output=json", "-f", format])
        .arg(path)
        .run()?;
    let unexpected =
        |reason: String| ImageError::Output { doing: doing.clone(), program: "qemu-img".to_owned(), reason };
    let info: serde_json::Value =
        serde_json::from_slice(&output).map_err(|error| unexpected(error.to_string()))?;
    let virtual_bytes =
        info["virtual-size"].as_u64().ok_or_else(|| unexpected("no virtual-size".to_owned()))?;
    if virtual_bytes == 0 {
        return Err(refused(path, "the disk is empty"));
    }
    let refers_elsewhere =
        !info["backing-filename"].is_null() || !info["format-specific"]["data"]["data-file"].is_null();
    Ok(DiskInfo { virtual_bytes, refers_elsewhere })
}

fn copy_sparse(from: &Path, format: &str, to: &Path, progress: &dyn Progress) -> Result<(), ImageError> {
    Tool::new("qemu-img", format!("copying {}", from.display()), progress)
        .args(["convert", "-f", format, "-O", format])
        .arg(from)
        .arg(to)
        .run()?;
    Ok(())
}

fn hash_file(path: &Path, steps: &Steps) -> Result<String, ImageError> {
    let mut file = File::open(path).at("open", path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        steps.check()?;
        match file.read(&mut buffer).at("read", path)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn refused(path: &Path, reason: &str) -> ImageError {
    ImageError::Import { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageStore, Silent};

    /// Needs qemu-img, as importing a disk does; without it the error must say so.
    #[test]
    fn disks_are_copied_and_those_that_refer_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let create = |arguments: &[&str]| {
            std::process::Command::new("qemu-img")
                .args(["create", "-q"])
                .args(arguments)
                .current_dir(dir.path())
                .status()
        };
        let raw = dir.path().join("disk.raw");
        File::create(&raw).unwrap().set_len(1 << 20).unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        let Ok(_) = create(&["-f", "qcow2", "base.qcow2", "8M"]) else {
            let error = store.import("raw", &raw, ImportOptions::default(), &Silent).unwrap_err();
            assert!(matches!(error, ImageError::MissingTool { .. }), "{error}");
            return;
        };
        create(&["-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "overlay.qcow2"]).unwrap();
        let image = store.import("raw", &raw, ImportOptions::default(), &Silent).unwrap();
        assert_eq!((image.disk_format, image.disk_virtual_bytes), (DiskFormat::Raw, 1 << 20));
        assert_eq!(image.generations, [1, 2]);
        let image =
            store.import("base", &dir.path().join("base.qcow2"), ImportOptions::default(), &Silent).unwrap();
        assert_eq!((image.disk_format, image.disk_virtual_bytes), (DiskFormat::Qcow2, 8 << 20));
        let error = store
            .import("overlay", &dir.path().join("overlay.qcow2"), ImportOptions::default(), &Silent)
            .unwrap_err();
        assert!(error.to_string().contains("refers to other files"), "{error}");
        fs::write(dir.path().join("torn.qcow2"), b"QFI\xfbrest").unwrap();
        assert!(
            store.import("torn", &dir.path().join("torn.qcow2"), ImportOptions::default(), &Silent).is_err()
        );
        let base = dir.path().join("base.qcow2");
        let given = |format, generation| ImportOptions { format: Some(format), generation: Some(generation) };
        let image = store.import("given", &base, given(DiskFormat::Raw, 2), &Silent).unwrap();
        assert_eq!((image.disk_format, image.generations), (DiskFormat::Raw, vec![2]));
        let error = store.import("given", &raw, given(DiskFormat::Qcow2, 1), &Silent).unwrap_err();
        assert!(error.to_string().contains("no qcow2"), "{error}");
    }
}

use std::os::unix::fs::MetadataExt;

use tempfile::{TempDir, tempdir};

use super::*;

const MIB: u64 = 1 << 20;

pub(super) async fn workshop() -> Option<(Qemu, TempDir)> {
    match Qemu::find(None, None).await {
        Ok(qemu) => Some((qemu, tempdir().unwrap())),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

pub(super) fn new(format: DiskFormat, kind: DiskKind) -> NewDisk {
    NewDisk { format, bytes: Some(64 * MIB), kind }
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_new_disk_has_the_size_and_space_asked_for() {
    let Some((qemu, dir)) = workshop().await else { return };
    for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
        for (kind, space) in [(DiskKind::Dynamic, 0..MIB), (DiskKind::Fixed, 64 * MIB..66 * MIB)] {
            let path = dir.path().join("a");
            create(&qemu, &path, &new(format, kind)).await.unwrap();
            let found = info(&qemu, &path, Some(format)).await.unwrap();
            assert_eq!((found.virtual_bytes, found.parent), (64 * MIB, None));
            assert!(space.contains(&(fs::metadata(&path).unwrap().blocks() * 512)), "{format:?}");
            assert_eq!(check(&qemu, &path, format).await.unwrap(), CheckReport { corruptions: 0, leaks: 0 });
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test]
async fn a_differencing_disk_knows_its_parent() {
    let Some((qemu, dir)) = workshop().await else { return };
    let (parent, child) = (dir.path().join("p.qcow2"), dir.path().join("c,1.qcow2"));
    let kind = DiskKind::Differencing { parent: parent.clone(), parent_format: DiskFormat::Qcow2 };
    let disk = NewDisk { bytes: None, ..new(DiskFormat::Qcow2, kind) };
    assert!(matches!(create(&qemu, &child, &disk).await, Err(DiskError::ParentMissing(_))));
    create(&qemu, &parent, &new(DiskFormat::Qcow2, DiskKind::Dynamic)).await.unwrap();
    create(&qemu, &child, &disk).await.unwrap();
    let found = info(&qemu, &child, None).await.unwrap();
    assert_eq!((found.parent, found.virtual_bytes), (Some(parent), 64 * MIB));
    assert_eq!(names(&dir), ["c,1.qcow2", "p.qcow2"]);
}

#[tokio::test]
async fn nothing_is_overwritten_and_nothing_half_made_is_left() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = dir.path().join("a.qcow2");
    fs::write(&path, "precious").unwrap();
    let disk = new(DiskFormat::Qcow2, DiskKind::Dynamic);
    assert!(matches!(create(&qemu, &path, &disk).await, Err(DiskError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let huge = NewDisk { bytes: Some(1 << 62), format: DiskFormat::Raw, kind: DiskKind::Fixed };
    assert!(create(&qemu, &dir.path().join("b"), &huge).await.is_err());
    assert_eq!(names(&dir), ["a.qcow2"]);
}

#[tokio::test]
async fn a_disk_grows_and_never_shrinks() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = dir.path().join("a.qcow2");
    create(&qemu, &path, &new(DiskFormat::Qcow2, DiskKind::Dynamic)).await.unwrap();
    resize(&qemu, &path, DiskFormat::Qcow2, 128 * MIB).await.unwrap();
    assert_eq!(info(&qemu, &path, None).await.unwrap().virtual_bytes, 128 * MIB);
    let refused = resize(&qemu, &path, DiskFormat::Qcow2, 64 * MIB).await;
    assert!(matches!(refused, Err(DiskError::Shrinks { .. })));
}

#[tokio::test]
async fn a_guests_disk_is_not_taken_for_what_the_guest_made_it_look_like() {
    let Some((qemu, dir)) = workshop().await else { return };
    let (raw, qcow2) = (dir.path().join("disk.img"), dir.path().join("a.qcow2"));
    create(&qemu, &qcow2, &new(DiskFormat::Qcow2, DiskKind::Dynamic)).await.unwrap();
    fs::copy(&qcow2, &raw).unwrap();
    assert!(matches!(info(&qemu, &raw, None).await, Err(DiskError::Ambiguous(_))));
    let as_raw = info(&qemu, &raw, Some(DiskFormat::Raw)).await.unwrap();
    assert_eq!(as_raw.virtual_bytes, fs::metadata(&raw).unwrap().len().next_multiple_of(512));
}

#[tokio::test]
async fn what_is_wrong_with_an_image_is_told() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = dir.path().join("a.qcow2");
    assert!(matches!(info(&qemu, &path, None).await, Err(DiskError::Missing(_))));
    assert!(matches!(info(&qemu, &path, Some(DiskFormat::Qcow2)).await, Err(DiskError::Missing(_))));
    fs::write(&path, "no image").unwrap();
    assert!(matches!(info(&qemu, &path, None).await, Err(DiskError::Corrupt { .. })));
    assert!(matches!(info(&qemu, &path, Some(DiskFormat::Qcow2)).await, Err(DiskError::Corrupt { .. })));
    fs::write(&path, b"QFI\xfb\xff\xff\xff\xff garbage that goes on for a while".repeat(20)).unwrap();
    assert!(info(&qemu, &path, None).await.is_err());
    assert!(check(&qemu, &path, DiskFormat::Qcow2).await.is_err());
    let vhdx = dir.path().join("a.vhdx");
    fs::write(&vhdx, "vhdxfile and more").unwrap();
    assert!(matches!(info(&qemu, &vhdx, None).await, Err(DiskError::Unsupported(_))));
    assert!(matches!(info(&qemu, Path::new("-f"), Some(DiskFormat::Raw)).await, Err(DiskError::Path(_))));
}

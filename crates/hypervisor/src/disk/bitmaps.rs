//! The dirty bitmaps in the image of a disk that no machine runs on, by qemu-img.
//!
//! Only those of ours are shown and touched. What such a bitmap says is read through [`super::serve`]: qemu-img cannot tell.

use std::path::Path;

use nestling_model::DiskFormat;
use serde::Deserialize;

use super::{DiskError, LOOK_TIMEOUT, WORK_TIMEOUT, tool::Img};
use crate::{
    Qemu,
    capture::{BitmapName, GRANULARITY},
};

/// As much as the image tells of one without an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBitmap {
    pub name: BitmapName,
    pub granularity: u32,
    /// Whether it records as soon as a machine runs on the disk.
    pub recording: bool,
    /// An engine died while it recorded, or records still: what it says is worth nothing.
    pub inconsistent: bool,
}

#[derive(Deserialize)]
struct RawInfo {
    #[serde(default, rename = "format-specific")]
    specific: Option<RawSpecific>,
}

#[derive(Deserialize)]
struct RawSpecific {
    data: RawData,
}

#[derive(Deserialize)]
struct RawData {
    #[serde(default)]
    bitmaps: Vec<RawBitmap>,
}

#[derive(Deserialize)]
struct RawBitmap {
    name: String,
    granularity: u32,
    #[serde(default)]
    flags: Vec<String>,
}

/// Our bitmaps in a qcow2 image, by their names.
pub async fn bitmaps(qemu: &Qemu, path: &Path) -> Result<Vec<StoredBitmap>, DiskError> {
    let mut img = Img::new(qemu, path, DiskFormat::Qcow2);
    img.args(["info", "--output=json", "--force-share", "-f", "qcow2"]).path(path)?;
    Ok(ours(img.json(LOOK_TIMEOUT).await?))
}

fn ours(info: RawInfo) -> Vec<StoredBitmap> {
    let raw = info.specific.map(|s| s.data.bitmaps).unwrap_or_default();
    let stored = |raw: RawBitmap| {
        let has = |flag: &str| raw.flags.iter().any(|f| f == flag);
        Some(StoredBitmap {
            name: BitmapName::parse(&raw.name)?,
            granularity: raw.granularity,
            recording: has("auto"),
            inconsistent: has("in-use"),
        })
    };
    let mut found: Vec<StoredBitmap> = raw.into_iter().filter_map(stored).collect();
    found.sort_by_key(|bitmap| bitmap.name);
    found
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_bitmaps(bytes: &[u8]) {
    if let Ok(info) = serde_json::from_slice(bytes) {
        ours(info);
    }
}

/// Begins a bitmap with nothing in it, which records from the machine's next start on.
pub async fn add_bitmap(qemu: &Qemu, path: &Path, bitmap: BitmapName) -> Result<(), DiskError> {
    let granularity = GRANULARITY.to_string();
    change(qemu, path, &["--add", "-g", &granularity], bitmap).await
}

/// One that is not there counts as removed.
pub async fn remove_bitmap(qemu: &Qemu, path: &Path, bitmap: BitmapName) -> Result<(), DiskError> {
    match change(qemu, path, &["--remove"], bitmap).await {
        Err(DiskError::NoBitmap { .. }) => Ok(()),
        removed => removed,
    }
}

/// Adds all that `from` calls changed to `into`.
pub async fn merge_bitmap(
    qemu: &Qemu,
    path: &Path,
    from: BitmapName,
    into: BitmapName,
) -> Result<(), DiskError> {
    change(qemu, path, &["--merge", &from.to_string()], into).await
}

async fn change(qemu: &Qemu, path: &Path, what: &[&str], bitmap: BitmapName) -> Result<(), DiskError> {
    let mut img = Img::new(qemu, path, DiskFormat::Qcow2);
    img.args(["bitmap", "-f", "qcow2"]);
    for word in what {
        img.args([word]);
    }
    img.path(path)?.args([&bitmap.to_string()]);
    img.run(WORK_TIMEOUT).await.map_err(|error| sort(error, bitmap))
}

pub(super) fn sort(error: DiskError, bitmap: BitmapName) -> DiskError {
    let DiskError::Failed { path, why } = error else { return error };
    let has = |text: &str| why.contains(text);
    if has("not found") || has("No bitmap") || has("does not exist") {
        DiskError::NoBitmap { path, bitmap }
    } else if has("already exists") {
        DiskError::BitmapExists { path, bitmap }
    } else if has("inconsistent") {
        DiskError::BadBitmap { path, bitmap }
    } else {
        DiskError::Failed { path, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_a_bitmap_is_worth() {
        let name = "nestling-00000000000000000000000000000001";
        let raw = format!(
            r#"{{"format-specific": {{"type": "qcow2", "data": {{"compat": "1.1", "bitmaps": [
                {{"flags": ["in-use", "auto"], "name": "{name}", "granularity": 65536}},
                {{"flags": ["auto"], "name": "another's", "granularity": 65536}}]}}}}}}"#
        );
        let found = ours(serde_json::from_str(&raw).unwrap());
        assert_eq!(found.len(), 1);
        assert!(found[0].recording && found[0].inconsistent && found[0].name.to_string() == name);
        let none = r#"{"format-specific": {"type": "qcow2", "data": {"compat": "0.10"}}}"#;
        assert!(ours(serde_json::from_str(none).unwrap()).is_empty());
        assert!(ours(serde_json::from_str(r#"{"format": "raw"}"#).unwrap()).is_empty());
    }
}

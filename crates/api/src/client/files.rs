use bytes::Bytes;
use http::Method;

use super::{Client, Result, json_body, segment};
use crate::v1::{RecoveryFiles, RecoveryVolume, UnlockVolumes, UnlockedVolumes};

const NOTHING: Option<&()> = None;

/// Where files are in recovery points.
#[derive(Debug, Clone, Copy)]
pub struct FilesAt<'a> {
    /// As for a recovery.
    pub point: &'a str,
    /// In all of them when absent.
    pub repository: Option<&'a str>,
    /// Such as `scsi:0/2:/etc`; empty for the point itself.
    pub place: &'a str,
}

impl FilesAt<'_> {
    fn path(&self, what: &str) -> String {
        let path = format!("points/{}/{what}?place={}", segment(self.point), segment(self.place));
        match self.repository {
            Some(repository) => format!("{path}&repository={}", segment(repository)),
            None => path,
        }
    }
}

/// Files in recovery points.
impl Client {
    /// The volumes of all disks, of one, or of a disk inside it.
    pub async fn point_volumes(&self, at: FilesAt<'_>) -> Result<Vec<RecoveryVolume>> {
        self.json(Method::GET, &at.path("volumes"), NOTHING).await
    }

    /// Opens encrypted volumes with a key.
    pub async fn unlock_point(&self, at: FilesAt<'_>, key: &[u8]) -> Result<UnlockedVolumes> {
        let mut digits = String::with_capacity(key.len() * 2);
        key.iter().for_each(|byte| digits.push_str(&format!("{byte:02x}")));
        let with = UnlockVolumes {
            repository: at.repository.map(str::to_owned),
            place: at.place.to_owned(),
            key: digits,
        };
        self.json(Method::POST, &format!("points/{}/unlock", segment(at.point)), Some(&with)).await
    }

    /// A file or directory, and a page of what is in a directory.
    pub async fn point_files(&self, at: FilesAt<'_>, from: u64) -> Result<RecoveryFiles> {
        self.json(Method::GET, &format!("{}&from={from}", at.path("files")), NOTHING).await
    }

    /// So many bytes of a file, or fewer at its end or because the node gives no more at once; none where there are only
    /// zeroes.
    pub async fn point_content(&self, at: FilesAt<'_>, offset: u64, length: u32) -> Result<Bytes> {
        let path = format!("{}&offset={offset}&length={length}", at.path("content"));
        let limits = self.limits(&Method::GET, &path);
        self.whole(Method::GET, &path, json_body(&path, NOTHING)?, limits).await
    }
}

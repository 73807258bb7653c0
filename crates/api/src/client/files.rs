use bytes::Bytes;
use http::Method;

use super::{Client, ClientError, Result, json_body, segment};
use crate::v1::{
    FoundFiles, PointComparison, RecoveryFiles, RecoveryVolume, RecoveryZeroes, UnlockVolumes,
    UnlockedVolumes,
};

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

/// A part of a file in a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// None at the file's end.
    Bytes(Bytes),
    /// So many zeroes, which may be more than were asked for.
    Zeroes(u64),
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

    /// So many bytes of a file, or fewer at its end or because the node gives no more at once.
    pub async fn point_content(&self, at: FilesAt<'_>, offset: u64, length: u32) -> Result<FileContent> {
        let path = format!("{}&offset={offset}&length={length}", at.path("content"));
        let limits = self.limits(&Method::GET, &path);
        let (kind, body) =
            self.whole_and_kind(Method::GET, &path, json_body(&path, NOTHING)?, limits).await?;
        if kind.is_none_or(|kind| kind != "application/json") {
            return Ok(FileContent::Bytes(body));
        }
        let zeroes: RecoveryZeroes =
            serde_json::from_slice(&body).map_err(|e| ClientError::unreadable(&path, &e))?;
        Ok(FileContent::Zeroes(zeroes.bytes))
    }

    /// Files below a place whose names look like `name`.
    pub async fn find_point_files(&self, at: FilesAt<'_>, name: &str) -> Result<FoundFiles> {
        self.json(Method::GET, &format!("{}&name={}", at.path("find"), segment(name)), NOTHING).await
    }

    /// What differs below a place in the point `with`.
    pub async fn compare_points(&self, at: FilesAt<'_>, with: &str) -> Result<PointComparison> {
        self.json(Method::GET, &format!("{}&with={}", at.path("compare"), segment(with)), NOTHING).await
    }
}

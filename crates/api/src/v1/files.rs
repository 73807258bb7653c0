use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A volume of a disk in a recovery point, or of a disk inside that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryVolume {
    /// To be asked for.
    pub place: String,
    /// The file system, or what else is there.
    pub content: String,
    pub label: String,
    /// What its partition is called.
    pub name: String,
    pub size_bytes: u64,
    /// Whether files can be taken out of it.
    pub readable: bool,
    /// Why it cannot be looked at.
    #[serde(default)]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum RecoveryFileKind {
    File,
    Directory,
    Link,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
    Unknown,
}

/// A file in a recovery point. Bytes of names that are no readable text are written as `\xNN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryFile {
    /// To be asked for.
    pub place: String,
    /// Empty for the root of a volume.
    pub name: String,
    pub kind: RecoveryFileKind,
    pub size_bytes: u64,
    #[serde(default)]
    pub mode: Option<u16>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
    #[serde(default)]
    pub modified: Option<RecoveryFileTime>,
    /// Of a symbolic link: its names, each written as names are.
    #[serde(default)]
    pub link_target: Option<String>,
    /// Only of what was asked for itself.
    #[serde(default)]
    pub attributes: Vec<RecoveryFileAttribute>,
}

/// What opens encrypted volumes of a recovery point.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnlockVolumes {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    pub repository: Option<String>,
    /// The disk that they are on, or one inside it; all disks of the point when empty.
    #[serde(default)]
    pub place: String,
    /// A passphrase, or the content of a key file: two hexadecimal digits for each byte.
    pub key: String,
}

/// What a key opened. It stays open for as long as somebody looks into it, and a minute more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnlockedVolumes {
    /// Encrypted volumes that are open now.
    pub opened: u32,
    /// Those that need another key.
    pub locked: u32,
}

/// Never shown.
impl std::fmt::Debug for UnlockVolumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnlockVolumes").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryFileTime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryFileAttribute {
    pub name: String,
    /// Two hexadecimal digits for each byte.
    pub value: String,
}

/// A file or directory, and a page of what is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryFiles {
    /// The whole id of the point, to ask for more of the same.
    pub point: String,
    pub itself: RecoveryFile,
    pub entries: Vec<RecoveryFile>,
    /// Where the next page begins, unless this was the last one.
    #[serde(default)]
    pub next: Option<u64>,
    /// What could not be read, so that entries may be missing, or say too little.
    #[serde(default)]
    pub damage: Vec<String>,
}

/// A part of a file in which there is nothing but zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryZeroes {
    /// As far as they are known to reach, which may be farther than was asked for.
    pub bytes: u64,
}

/// Files whose names look like what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundFiles {
    pub files: Vec<RecoveryFile>,
    /// There are more, or not everything was looked at in time.
    #[serde(default)]
    pub is_cut: bool,
    /// What could not be read.
    #[serde(default)]
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum FileChange {
    Added,
    Removed,
    Changed,
}

/// A file that is not the same in two recovery points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedFile {
    pub change: FileChange,
    /// From the place that was asked for on.
    pub path: String,
    pub kind: RecoveryFileKind,
    /// In the first point.
    #[serde(default)]
    pub old_size_bytes: Option<u64>,
    #[serde(default)]
    pub new_size_bytes: Option<u64>,
}

/// What differs between two recovery points below a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointComparison {
    pub changes: Vec<ChangedFile>,
    /// There are more.
    #[serde(default)]
    pub is_cut: bool,
    /// What could not be read, so that more may differ.
    #[serde(default)]
    pub damage: Vec<String>,
}

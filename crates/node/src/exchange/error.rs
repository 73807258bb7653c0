//! What can go wrong with machines from and to other programs.

use std::path::PathBuf;

use nestling_block::BlockError;
use nestling_exchange::ExchangeError;
use nestling_model::VmName;

use crate::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum ExchangeFailed {
    #[error("the machine that {} describes cannot be imported", path.display())]
    Description { path: PathBuf, source: ExchangeError },
    #[error("its disk {} is in none of the folders {}", shown(file), folders(looked))]
    DiskMissing { file: String, looked: Vec<PathBuf> },
    #[error("the disk {} cannot be copied", shown(file))]
    Disk { file: String, source: BlockError },
    #[error("{} exists already; an export makes its folder itself", .0.display())]
    FolderExists(PathBuf),
    #[error("the disks of '{vm}' are being read already, by a backup or an export; wait for its end")]
    BeingRead { vm: VmName },
    #[error("the export of '{vm}' ended: {why}")]
    Ended { vm: VmName, why: String },
}

/// A name that was read, for a sentence.
fn shown(text: &str) -> String {
    nestling_model::shown(text, 300)
}

fn folders(looked: &[PathBuf]) -> String {
    looked.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl ExchangeFailed {
    pub fn code(&self) -> ErrorKind {
        match self {
            Self::Description { .. } => ErrorKind::Invalid,
            Self::DiskMissing { .. } => ErrorKind::NotFound,
            Self::Disk { .. } => ErrorKind::Failed,
            Self::FolderExists(_) => ErrorKind::Exists,
            Self::BeingRead { .. } => ErrorKind::InUse,
            Self::Ended { .. } => ErrorKind::InvalidState,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DiskMissing { .. } => {
                Some("bring it there, or say where it is: nestling import PATH --disks FOLDER".to_owned())
            }
            Self::Disk { .. } => Some(
                "an image and its parents must lie in the folder of the description, or in one that --disks names"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// The object concerned.
    pub fn object(&self) -> String {
        match self {
            Self::Description { path, .. } | Self::FolderExists(path) => path.display().to_string(),
            Self::DiskMissing { file, .. } | Self::Disk { file, .. } => shown(file),
            Self::BeingRead { vm } | Self::Ended { vm, .. } => vm.to_string(),
        }
    }
}

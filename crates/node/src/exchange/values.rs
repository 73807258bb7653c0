//! What the use cases of exchange are asked with and what they answer.

use std::path::PathBuf;

use nestling_hypervisor::disk::ImageFormat;
use nestling_model::VmName;

use crate::{NodeError, recovery::SwitchMapping, values::VmView};

/// A wish that a machine of another program be taken in.
#[derive(Debug, Clone)]
pub struct ImportWish {
    /// A description, or a folder with one.
    pub path: PathBuf,
    /// Folders where disks may lie that are not beside the description.
    pub disks: Vec<PathBuf>,
    /// As the description calls it, when absent.
    pub name: Option<VmName>,
    pub switches: Vec<SwitchMapping>,
    /// All adapters are left unplugged.
    pub no_switch: bool,
    /// A new id and new MAC addresses, though the old ones are free.
    pub new_identity: bool,
    /// The image whose kernel it starts from, instead of the one that the description names.
    pub image: Option<String>,
}

/// A wish that a machine that is off go out to other programs.
#[derive(Debug, Clone)]
pub struct ExportWish {
    /// The folder to make.
    pub folder: PathBuf,
    pub format: ImageFormat,
}

/// What an import or an export tells. The last one is `Done` or `Failed`.
#[derive(Debug)]
pub enum ExchangeStep {
    Progress {
        message: String,
        /// Bytes of disks.
        done: u64,
        total: u64,
    },
    /// Something that the machine had and does not have here.
    Warning(String),
    /// The machine that was made, or that went out.
    Done(Box<VmView>),
    Failed(NodeError),
}

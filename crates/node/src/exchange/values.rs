//! What the use cases of exchange are asked with and what they answer.

use std::path::PathBuf;

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
}

/// What an import tells. The last one is `Done` or `Failed`.
#[derive(Debug)]
pub enum ImportStep {
    Progress {
        message: String,
        /// Bytes of disks.
        done: u64,
        total: u64,
    },
    /// Something that the machine had and does not have here.
    Warning(String),
    Done(VmView),
    Failed(NodeError),
}

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ErrorBody, SwitchMapping, Vm};

/// What the disks of an export are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vhdx,
    Vmdk,
}

/// A machine of another program, to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewImport {
    /// A description of the node's host (.vmcx, .ovf, .ova, .xml), or a folder with one.
    pub path: String,
    /// Folders where disks may lie that are not beside the description.
    #[serde(default)]
    pub disks: Vec<String>,
    /// As the description calls it when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Which switches its adapters get; others get the one of the same name.
    #[serde(default)]
    pub switches: Vec<SwitchMapping>,
    /// Its adapters are left unplugged.
    #[serde(default)]
    pub no_switch: bool,
    /// A new id and new MAC addresses, though the old ones are free.
    #[serde(default)]
    pub new_identity: bool,
    /// It starts from the kernel of this image of the host; when absent of the one that its description names, if it does.
    #[serde(default)]
    pub image: Option<String>,
}

/// A machine that is off, to go out to other programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportVm {
    /// The folder of the node's host that is made.
    pub folder: String,
    /// Qcow2 when absent.
    #[serde(default)]
    pub format: Option<ImageFormat>,
}

/// One line of the answer of an import or an export. The last one has `vm` or `error`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExchangeProgress {
    pub message: String,
    /// Bytes of disks.
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    /// Something that the machine had and does not have here.
    pub warning: Option<String>,
    /// The machine that was made, or that went out.
    pub vm: Option<Vm>,
    pub error: Option<ErrorBody>,
}

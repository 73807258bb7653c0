use nestling_node as node;
use node::NodeError;

use super::same_names;
use crate::v1;

same_names!(v1::ImageFormat, node::ImageFormat: Raw, Qcow2, Vhdx, Vmdk);

impl TryFrom<v1::NewImport> for node::ImportWish {
    type Error = NodeError;

    fn try_from(new: v1::NewImport) -> Result<Self, NodeError> {
        Ok(Self {
            path: new.path.into(),
            disks: new.disks.into_iter().map(Into::into).collect(),
            name: new.name.map(|name| name.parse()).transpose()?,
            switches: new.switches.into_iter().map(Into::into).collect(),
            no_switch: new.no_switch,
            new_identity: new.new_identity,
            image: new.image,
        })
    }
}

impl From<v1::ExportVm> for node::ExportWish {
    fn from(export: v1::ExportVm) -> Self {
        let format = export.format.map_or(node::ImageFormat::Qcow2, Into::into);
        Self { folder: export.folder.into(), format }
    }
}

impl From<node::ExchangeStep> for v1::ExchangeProgress {
    fn from(step: node::ExchangeStep) -> Self {
        match step {
            node::ExchangeStep::Progress { message, done, total } => {
                Self { message, done, total, ..Self::default() }
            }
            node::ExchangeStep::Warning(warning) => Self { warning: Some(warning), ..Self::default() },
            node::ExchangeStep::Done(vm) => Self { vm: Some((*vm).into()), ..Self::default() },
            node::ExchangeStep::Failed(error) => {
                Self { message: error.message(), error: Some(error.into()), ..Self::default() }
            }
        }
    }
}

use nestling_node as node;
use node::NodeError;

use super::{path_text, same_names, vm::generation};
use crate::v1;

same_names!(v1::DiskKind, node::DiskKind: Dynamic, Fixed, Differencing);

impl From<node::DiskView> for v1::DiskInfo {
    fn from(disk: node::DiskView) -> Self {
        Self {
            path: path_text(&disk.path),
            format: disk.format.into(),
            kind: disk.kind.into(),
            size_bytes: disk.size_bytes,
            file_bytes: disk.file_bytes,
            parent: disk.parent.as_deref().map(path_text),
            vm: disk.vm.map(Into::into),
        }
    }
}

impl TryFrom<v1::NewDisk> for node::NewDisk {
    type Error = NodeError;

    fn try_from(new: v1::NewDisk) -> Result<Self, NodeError> {
        let size = new.size_bytes.ok_or_else(|| NodeError::invalid("a disk without a parent needs a size"));
        let kind = match (new.kind, new.parent) {
            (v1::DiskKind::Dynamic, None) => node::NewDiskKind::Dynamic { size_bytes: size? },
            (v1::DiskKind::Fixed, None) => node::NewDiskKind::Fixed { size_bytes: size? },
            (v1::DiskKind::Differencing, Some(parent)) => {
                node::NewDiskKind::Differencing { parent: parent.into(), size_bytes: new.size_bytes }
            }
            (v1::DiskKind::Differencing, None) => {
                return Err(NodeError::invalid("a differencing disk needs a parent"));
            }
            (_, Some(_)) => return Err(NodeError::invalid("only a differencing disk has a parent")),
        };
        Ok(Self { path: new.path.into(), kind })
    }
}

impl From<node::ImageView> for v1::Image {
    fn from(image: node::ImageView) -> Self {
        Self {
            name: image.name,
            description: image.description,
            built: image.built,
            size_bytes: image.size_bytes,
            generations: image.generations.iter().map(|g| g.number()).collect(),
            memory_bytes: image.memory_bytes,
            has_disk: image.has_disk,
            direct_kernel: image.direct_kernel,
        }
    }
}

impl TryFrom<v1::ImportImage> for node::ImportImage {
    type Error = NodeError;

    fn try_from(new: v1::ImportImage) -> Result<Self, NodeError> {
        Ok(Self {
            name: new.name,
            path: new.path.into(),
            format: new.format.map(Into::into),
            generation: new.generation.map(generation).transpose()?,
        })
    }
}

impl From<node::BuildStep> for v1::BuildProgress {
    fn from(step: node::BuildStep) -> Self {
        match step {
            node::BuildStep::Progress { message, done, total } => {
                Self { message, done, total, ..Self::default() }
            }
            node::BuildStep::Done(image) => Self {
                message: format!("{} is ready", image.name),
                image: Some(image.into()),
                ..Self::default()
            },
            node::BuildStep::Failed(error) => {
                Self { message: error.message(), error: Some(error.into()), ..Self::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_size_or_a_parent() {
        let new = |kind, size_bytes, parent: Option<&str>| {
            node::NewDisk::try_from(v1::NewDisk {
                path: "/d".into(),
                kind,
                size_bytes,
                parent: parent.map(Into::into),
            })
        };
        assert!(new(v1::DiskKind::Dynamic, Some(1), None).is_ok());
        assert!(new(v1::DiskKind::Dynamic, None, None).is_err());
        assert!(new(v1::DiskKind::Fixed, Some(1), Some("/p")).is_err());
        assert!(new(v1::DiskKind::Differencing, None, Some("/p")).is_ok());
        assert!(new(v1::DiskKind::Differencing, Some(1), None).is_err());
    }
}

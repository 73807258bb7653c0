use nestling_node as node;
use node::NodeError;

use super::{path_text, read};
use crate::v1;

impl From<v1::SwitchMapping> for node::SwitchMapping {
    fn from(mapping: v1::SwitchMapping) -> Self {
        let v1::SwitchMapping { from, to } = mapping;
        Self { from, to }
    }
}

impl TryFrom<v1::NewRecovery> for node::RecoveryWish {
    type Error = NodeError;

    fn try_from(new: v1::NewRecovery) -> Result<Self, NodeError> {
        let is_as_new = new.name.is_some()
            || !new.switches.is_empty()
            || new.no_switch
            || new.format.is_some()
            || new.new_identity
            || new.instant
            || new.image.is_some();
        if new.in_place && is_as_new {
            return Err(NodeError::invalid(
                "a machine that is recovered in place keeps its name, its network, its identity and its disks' formats",
            ));
        }
        if new.export_folder.is_some() && (new.in_place || is_as_new) {
            return Err(NodeError::invalid("what is exported becomes no machine of this host"));
        }
        if new.export_folder.is_none() && new.export_format.is_some() {
            return Err(NodeError::invalid("the format of an export needs the folder that it goes to"));
        }
        let whereto = if let Some(folder) = new.export_folder {
            let format = new.export_format.map_or(node::ImageFormat::Qcow2, Into::into);
            node::Whereto::Folder { folder: folder.into(), format }
        } else if new.in_place {
            node::Whereto::InPlace
        } else {
            node::Whereto::AsNew {
                name: new.name.map(|name| name.parse()).transpose()?,
                switches: new.switches.into_iter().map(Into::into).collect(),
                no_switch: new.no_switch,
                format: new.format.map(Into::into),
                new_identity: new.new_identity,
                instant: new.instant,
                image: new.image,
            }
        };
        let disks = new.disks.iter().map(|text| read("disk", text)).collect::<Result<_, _>>()?;
        Ok(Self { point: new.point, repository: new.repository, disks, whereto, start: new.start })
    }
}

impl From<node::RecoveredDisk> for v1::RecoveredDisk {
    fn from(disk: node::RecoveredDisk) -> Self {
        let node::RecoveredDisk { name, path, size_bytes, written_bytes } = disk;
        Self { name, path: path_text(&path), size_bytes, written_bytes }
    }
}

impl From<node::RecoveryProgress> for v1::RecoveryProgress {
    fn from(progress: node::RecoveryProgress) -> Self {
        let node::RecoveryProgress { stage, disk, done, total, in_bytes } = progress;
        Self { stage: stage.to_owned(), disk, done, total, in_bytes }
    }
}

impl From<node::RecoveryView> for v1::Recovery {
    fn from(view: node::RecoveryView) -> Self {
        Self {
            number: view.number,
            state: view.state.into(),
            cause: view.cause,
            point: view.point,
            repository: view.repository,
            vm: view.vm.into(),
            vm_id: view.vm_id,
            in_place: view.in_place,
            export_folder: view.folder.as_deref().map(path_text),
            started_at_ms: view.started_at_ms,
            ended_at_ms: view.ended_at_ms,
            disks: view.disks.into_iter().map(Into::into).collect(),
            warnings: view.warnings,
            reason: view.reason,
            progress: view.progress.map(Into::into),
        }
    }
}

impl From<node::InstantView> for v1::InstantBoot {
    fn from(view: node::InstantView) -> Self {
        let (done_bytes, total_bytes) = view.progress.unwrap_or_default();
        Self {
            vm: view.vm.into(),
            vm_id: view.vm_id.0,
            point: view.point,
            repository: view.repository,
            disks: view.disks.into_iter().map(|disk| disk.name).collect(),
            proof: view.proof,
            finishing: view.finishing,
            done_bytes,
            total_bytes,
            problem: view.problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(more: &serde_json::Value) -> Result<node::RecoveryWish, NodeError> {
        let mut body = serde_json::json!({"point": "P@newest"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value::<v1::NewRecovery>(body).unwrap().try_into()
    }

    #[test]
    fn what_a_new_machine_gets_is_refused_in_place() {
        assert!(matches!(
            wish(&serde_json::json!({"in_place": true})).unwrap().whereto,
            node::Whereto::InPlace
        ));
        assert!(matches!(
            wish(&serde_json::json!({})).unwrap().whereto,
            node::Whereto::AsNew { name: None, .. }
        ));
        let export =
            wish(&serde_json::json!({"export_folder": "/x", "export_format": "Vhdx"})).unwrap().whereto;
        assert!(matches!(export, node::Whereto::Folder { format: node::ImageFormat::Vhdx, .. }));
        for more in [
            serde_json::json!({"in_place": true, "name": "x"}),
            serde_json::json!({"in_place": true, "switches": [{"from": "a", "to": "b"}]}),
            serde_json::json!({"in_place": true, "no_switch": true}),
            serde_json::json!({"in_place": true, "format": "raw"}),
            serde_json::json!({"in_place": true, "new_identity": true}),
            serde_json::json!({"in_place": true, "instant": true}),
            serde_json::json!({"in_place": true, "image": "host"}),
            serde_json::json!({"in_place": true, "export_folder": "/x"}),
            serde_json::json!({"name": "x", "export_folder": "/x"}),
            serde_json::json!({"export_format": "Raw"}),
            serde_json::json!({"disks": ["sata:0"]}),
            serde_json::json!({"name": ""}),
        ] {
            assert!(wish(&more).is_err(), "{more}");
        }
    }
}

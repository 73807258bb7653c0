use nestling_model as model;
use nestling_node as node;
use node::NodeError;

use super::{path_text, same_names};
use crate::v1;

same_names!(v1::VmState, model::VmState:
    Off, Starting, Running, Stopping, Saving, Saved, Pausing, Paused, Resuming);
same_names!(v1::StartAction, model::StartAction: Nothing, StartIfRunning, Start);
same_names!(v1::StopAction, model::StopAction: TurnOff, Save, ShutDown);
same_names!(v1::Controller, model::Controller: Ide, Scsi);
same_names!(v1::DiskFormat, model::DiskFormat: Qcow2, Raw);
same_names!(v1::AdapterStatus, node::AdapterStatus: None, Ok, Disconnected);

impl From<node::VmView> for v1::Vm {
    fn from(view: node::VmView) -> Self {
        let vm = view.vm;
        Self {
            id: vm.id.0,
            name: vm.name.into(),
            generation: vm.generation.number(),
            version: vm.version.to_string(),
            state: vm.state.into(),
            state_reason: vm.state_reason,
            created_at_ms: vm.created_at_ms,
            notes: vm.notes,
            tags: vm.tags.into_iter().map(Into::into).collect(),
            processor_count: vm.processor.count,
            expose_virtualization_extensions: vm.processor.expose_virtualization_extensions,
            memory_startup_bytes: vm.memory.startup_bytes,
            memory_assigned_bytes: view.memory_assigned_bytes,
            cpu_usage_percent: view.cpu_usage_percent,
            uptime_ms: view.uptime_ms,
            engine: view.engine.map(|e| e.as_str().to_owned()),
            hosts_nestling: view.hosts_nestling,
            start_action: vm.start_action.into(),
            start_delay_seconds: vm.start_delay_seconds,
            stop_action: vm.stop_action.into(),
            boot: vm.boot.into(),
            adapters: view.adapters.into_iter().map(Into::into).collect(),
            drives: vm.disks.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<model::Boot> for v1::Boot {
    fn from(boot: model::Boot) -> Self {
        match boot {
            model::Boot::Firmware => Self::Firmware,
            model::Boot::Kernel { kernel, initrd, append } => {
                Self::Kernel { kernel: path_text(&kernel), initrd: initrd.as_deref().map(path_text), append }
            }
        }
    }
}

impl From<v1::Boot> for model::Boot {
    fn from(boot: v1::Boot) -> Self {
        match boot {
            v1::Boot::Firmware => Self::Firmware,
            v1::Boot::Kernel { kernel, initrd, append } => {
                Self::Kernel { kernel: kernel.into(), initrd: initrd.map(Into::into), append }
            }
        }
    }
}

impl From<node::AdapterView> for v1::Adapter {
    fn from(view: node::AdapterView) -> Self {
        let adapter = view.adapter;
        Self {
            id: adapter.id.0,
            name: adapter.name,
            mac: adapter.mac.to_string(),
            mac_dynamic: adapter.mac_dynamic,
            switch: view.switch.map(Into::into),
            mac_spoofing: adapter.mac_spoofing,
            dhcp_guard: adapter.dhcp_guard,
            router_guard: adapter.router_guard,
            status: view.status.into(),
            addresses: view.addresses,
            spoofed_frames_dropped: view.spoofed_frames_dropped,
        }
    }
}

impl From<model::Disk> for v1::Drive {
    fn from(disk: model::Disk) -> Self {
        Self {
            controller: disk.controller.into(),
            location: disk.location,
            path: path_text(&disk.path),
            format: disk.format.into(),
            read_only: disk.read_only,
        }
    }
}

impl TryFrom<v1::NewVm> for node::NewVm {
    type Error = NodeError;

    fn try_from(new: v1::NewVm) -> Result<Self, NodeError> {
        let new_disk = match (new.new_disk_bytes, new.new_disk_path) {
            (Some(size_bytes), path) => Some(node::NewVmDisk { size_bytes, path: path.map(Into::into) }),
            (None, None) => None,
            (None, Some(_)) => return Err(NodeError::invalid("a new disk needs a size")),
        };
        Ok(Self {
            name: new.name.parse()?,
            generation: new.generation.map(generation).transpose()?,
            version: new.version.map(|v| v.parse()).transpose()?,
            processor_count: new.processor_count,
            expose_virtualization_extensions: new.expose_virtualization_extensions,
            memory_startup_bytes: new.memory_startup_bytes,
            image: new.image,
            append: new.append,
            disk_path: new.disk_path.map(Into::into),
            new_disk,
            boot: new.boot.map(Into::into),
            switch: new.switch,
            seed: new.seed.map(Into::into),
            start_action: new.start_action.map(Into::into),
            notes: new.notes,
            tags: tags(&new.tags)?,
        })
    }
}

fn tags(texts: &[String]) -> Result<Vec<model::Tag>, NodeError> {
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

pub(super) fn generation(number: u8) -> Result<model::Generation, NodeError> {
    match number {
        1 => Ok(model::Generation::One),
        2 => Ok(model::Generation::Two),
        _ => Err(NodeError::invalid(format!("{number} is no generation: there are 1 (BIOS) and 2 (UEFI)"))),
    }
}

impl From<v1::Seed> for node::Seed {
    fn from(seed: v1::Seed) -> Self {
        let v1::Seed { hostname, user, password, ssh_keys, address, gateway, dns_servers } = seed;
        Self { hostname, user, password, ssh_keys, address, gateway, dns_servers }
    }
}

impl From<node::RemovedVm> for v1::RemovedVm {
    fn from(removed: node::RemovedVm) -> Self {
        let node::RemovedVm { disks, kept } = removed;
        Self { disks: disks.iter().map(|path| path_text(path)).collect(), kept }
    }
}

impl TryFrom<v1::VmChange> for node::VmChange {
    type Error = NodeError;

    fn try_from(change: v1::VmChange) -> Result<Self, NodeError> {
        Ok(Self {
            name: change.name.map(|n| n.parse()).transpose()?,
            notes: change.notes,
            add_tags: tags(&change.add_tags)?,
            remove_tags: tags(&change.remove_tags)?,
            processor_count: change.processor_count,
            expose_virtualization_extensions: change.expose_virtualization_extensions,
            memory_startup_bytes: change.memory_startup_bytes,
            start_action: change.start_action.map(Into::into),
            start_delay_seconds: change.start_delay_seconds,
            stop_action: change.stop_action.map(Into::into),
            boot: change.boot.map(Into::into),
        })
    }
}

impl TryFrom<v1::NewAdapter> for node::NewAdapter {
    type Error = NodeError;

    fn try_from(new: v1::NewAdapter) -> Result<Self, NodeError> {
        Ok(Self { name: new.name, switch: new.switch, mac: new.mac.map(|m| m.parse()).transpose()? })
    }
}

impl TryFrom<v1::AdapterChange> for node::AdapterChange {
    type Error = NodeError;

    fn try_from(change: v1::AdapterChange) -> Result<Self, NodeError> {
        let mac = match change.mac.as_deref() {
            None => None,
            Some("dynamic") => Some(node::MacChoice::Dynamic),
            Some(text) => Some(node::MacChoice::Static(text.parse()?)),
        };
        Ok(Self {
            name: change.name,
            switch: change.switch.map(|s| (!s.is_empty()).then_some(s)),
            mac,
            mac_spoofing: change.mac_spoofing,
            dhcp_guard: change.dhcp_guard,
            router_guard: change.router_guard,
        })
    }
}

impl From<v1::NewDrive> for node::NewDrive {
    fn from(new: v1::NewDrive) -> Self {
        Self {
            path: new.path.into(),
            controller: new.controller.map(Into::into),
            location: new.location,
            format: new.format.map(Into::into),
            read_only: new.read_only,
        }
    }
}

impl From<node::GuestView> for v1::Guest {
    fn from(guest: node::GuestView) -> Self {
        let node::GuestView { hostname, os, kernel, agent_version, interfaces } = guest;
        Self {
            hostname,
            os,
            kernel,
            agent_version,
            interfaces: interfaces
                .into_iter()
                .map(|i| v1::GuestInterface { name: i.name, mac: i.mac, addresses: i.addresses })
                .collect(),
        }
    }
}

impl From<v1::Exec> for node::Exec {
    fn from(exec: v1::Exec) -> Self {
        Self {
            program: exec.program,
            arguments: exec.arguments,
            input: exec.input.into_bytes(),
            timeout_seconds: exec.timeout_seconds,
        }
    }
}

impl From<node::ExecResult> for v1::ExecResult {
    fn from(done: node::ExecResult) -> Self {
        Self {
            exit_code: done.exit_code,
            signal: done.signal,
            stdout: text(done.stdout),
            stderr: text(done.stderr),
            truncated: done.truncated,
        }
    }
}

/// What a program wrote, kept as it is where it is text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_disconnected_by_the_empty_text() {
        let change = |switch: Option<&str>| {
            let change = v1::AdapterChange { switch: switch.map(Into::into), ..Default::default() };
            node::AdapterChange::try_from(change).unwrap().switch
        };
        assert_eq!(change(None), None);
        assert_eq!(change(Some("")), Some(None));
        assert_eq!(change(Some("s")), Some(Some("s".into())));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let new = |f: fn(&mut v1::NewVm)| {
            let mut new = v1::NewVm { name: "a".into(), ..Default::default() };
            f(&mut new);
            node::NewVm::try_from(new)
        };
        assert!(new(|_| ()).is_ok());
        assert!(new(|n| n.name = "a/b".into()).is_err());
        assert!(new(|n| n.generation = Some(3)).is_err());
        assert!(new(|n| n.version = Some("7.0".into())).is_err());
        assert!(new(|n| n.new_disk_path = Some("/x".into())).is_err());
        assert!(new(|n| n.tags = vec!["a b".into()]).is_err());
    }

    #[test]
    fn output_that_is_no_text_is_replaced_not_lost() {
        assert_eq!(text(b"a\xffb".to_vec()), "a\u{fffd}b");
    }
}

//! Use cases on the node and its host.

use nestling_identity::{Action, Identity};
use nestling_model::{ConfigVersion, Event, Limits, Vm};
use tokio::sync::broadcast;

use crate::{
    Node,
    error::Result,
    facts,
    node::Shared,
    values::{HostView, NodeInfo},
};

impl Node {
    pub async fn info(&self, who: &Identity) -> Result<NodeInfo> {
        self.authorize(who, Action::ReadHost)?;
        Ok(NodeInfo {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            home: self.home.root().to_owned(),
            started_at_ms: self.started_at_ms,
        })
    }

    pub async fn host(&self, who: &Identity) -> Result<HostView> {
        self.authorize(who, Action::ReadHost)?;
        let memory = facts::memory();
        Ok(HostView {
            name: facts::host_name(),
            logical_processors: facts::logical_processors(),
            memory_bytes: memory.total_bytes,
            memory_available_bytes: memory.available_bytes,
            disk_directory: self.home.disks(),
            vm_directory: self.home.vms(),
            supported_versions: ConfigVersion::ALL.to_vec(),
            engine: self.engines.view(),
        })
    }

    /// What happens from now on. A reader that falls behind loses the oldest, and sees a gap in the numbers.
    pub fn events(&self, who: &Identity) -> Result<broadcast::Receiver<Event>> {
        self.authorize(who, Action::WatchEvents)?;
        Ok(self.events.subscribe())
    }
}

impl Shared {
    /// What this host can give to one machine.
    pub fn limits(&self) -> Limits {
        Limits { processors_max: facts::logical_processors(), memory_bytes_max: facts::memory().total_bytes }
    }

    /// The same, but no less than a machine has already: it may have been defined on a larger host.
    pub fn limits_of(&self, vm: &Vm) -> Limits {
        let Limits { processors_max, memory_bytes_max } = self.limits();
        Limits {
            processors_max: processors_max.max(vm.processor.count),
            memory_bytes_max: memory_bytes_max.max(vm.memory.startup_bytes),
        }
    }
}

//! The machines of this host, as a job's selection sees them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use nestling_hypervisor::disk;
use nestling_model::{
    Vm, VmId,
    protection::{Candidate, Fact, Job, MachineOrder},
};

use tokio::time::timeout;

use crate::{networks::Defined, node::Shared};

/// For all machines' disks together to tell how large they are: a dead one holds up no job for long.
const SIZES_TIMEOUT: Duration = Duration::from_secs(15);
/// Machines whose disks are looked at at once, each by a process.
const LOOKS_MAX: usize = 8;

/// Whether a job has to know how large disks are, for which their images are looked at.
pub fn looks_at_disks(job: &Job) -> bool {
    let by_size = matches!(job.policy.order, MachineOrder::SmallestFirst | MachineOrder::LargestFirst);
    by_size || job.selection.rules.rules.iter().any(|rule| matches!(rule.fact(), Fact::DiskBytes(_)))
}

impl Shared {
    /// All machines. How large their disks are is 0 unless it is asked for, and where an image cannot tell.
    pub async fn candidates(&self, with_disks: bool) -> Vec<Candidate> {
        let (all, defined) = (self.vms.all(), self.networks.defined());
        // What is booted as a test is no machine to be saved.
        let all: Vec<_> =
            all.into_iter().filter(|now| self.recovery.instant.proof_of(now.vm.id).is_none()).collect();
        let mut candidates: Vec<Candidate> =
            all.iter().filter_map(|now| candidate(&now.vm, &defined)).collect();
        if with_disks {
            let sizes = self.sizes(all.into_iter().map(|now| now.vm).collect()).await;
            for candidate in &mut candidates {
                candidate.disk_bytes = sizes.get(&candidate.id).copied().unwrap_or(0);
            }
        }
        candidates
    }

    /// Of each machine that can tell it in time.
    async fn sizes(&self, all: Vec<Arc<Vm>>) -> HashMap<VmId, u64> {
        let looks = all.into_iter().map(|vm| async move { (vm.id, self.disk_bytes(&vm).await) });
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
        let mut sizes = HashMap::new();
        let all_told = async {
            while let Some((vm, bytes)) = looks.next().await {
                sizes.insert(vm, bytes);
            }
        };
        if timeout(SIZES_TIMEOUT, all_told).await.is_err() {
            tracing::warn!("how large the disks of some machines are cannot be told in time");
        }
        sizes
    }

    /// When a machine was made.
    pub fn born_ms(&self, vm: VmId) -> u64 {
        self.vms.all().iter().find(|now| now.vm.id == vm).map_or(0, |now| now.vm.created_at_ms)
    }

    async fn disk_bytes(&self, vm: &Vm) -> u64 {
        let Ok(qemu) = self.engines.qemu().await else { return 0 };
        let mut sum = 0_u64;
        for image in &vm.disks {
            match disk::info(&qemu, &image.path, Some(image.format)).await {
                Ok(info) => sum = sum.saturating_add(info.virtual_bytes),
                Err(error) => tracing::warn!(vm = %vm.name, %error, "how large a disk is cannot be told"),
            }
        }
        sum
    }
}

/// `None` cannot be: every machine's name is a path of one level.
fn candidate(vm: &Vm, defined: &Defined) -> Option<Candidate> {
    let switches = vm.adapters.iter().filter_map(|adapter| defined.switch_name(adapter.switch));
    Some(Candidate {
        id: vm.id,
        path: vm.name.as_str().parse().ok()?,
        tags: vm.tags.clone(),
        state: vm.state,
        memory_bytes: vm.memory.startup_bytes,
        disk_bytes: 0,
        processors: vm.processor.count,
        generation: vm.generation,
        switches: switches.map(|name| name.to_string()).collect(),
        images: Vec::new(),
        nesting: vm.processor.expose_virtualization_extensions,
    })
}

//! What a launch needs to know, and where a running machine keeps its files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nestling_model::{Adapter, AdapterId, Vm, adapter::ADAPTERS_MAX};
use serde::{Deserialize, Serialize};

use crate::probe::Engine;

/// One launch of one machine.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    pub vm: Vm,
    /// Sockets, pid and log of this machine; made if absent.
    pub run_dir: PathBuf,
    pub engine: Engine,
    /// The tap interface of each adapter.
    pub taps: BTreeMap<AdapterId, String>,
    /// Give adapters without a tap QEMU's own user-mode network, which needs no root.
    pub user_net: bool,
    /// Give each adapter a cable to this node instead of all that, and nothing else ([`RunDir::cable`]).
    pub cables: bool,
    /// A state written by [`crate::Machine::save_to`] to go on from.
    pub restore_from: Option<PathBuf>,
    /// The UEFI variables of a generation 2 machine; made from the firmware's template if absent.
    pub nvram: PathBuf,
    /// Stop the guest when a disk can't be read or written, instead of telling it.
    pub stop_on_disk_error: bool,
    /// Give it a display, of which pictures can be taken; no guest of ours needs one.
    pub screen: bool,
    /// Added to the kernel's command line with [`nestling_model::Boot::Kernel`].
    pub kernel_append: String,
}

/// Which hot-plug port each adapter sits in. Ports do not move while a machine runs or is saved: a guest that wakes up
/// on another bus address would lose its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots(BTreeMap<AdapterId, u8>);

impl Slots {
    /// In the adapters' order, as for a cold start.
    pub fn of(adapters: &[Adapter]) -> Self {
        Self(adapters.iter().zip(0..).map(|(adapter, slot)| (adapter.id, slot)).collect())
    }

    pub fn get(&self, adapter: AdapterId) -> Option<u8> {
        self.0.get(&adapter).copied()
    }

    /// Takes the first free port.
    pub fn take(&mut self, adapter: AdapterId) -> Option<u8> {
        let free = (0..ADAPTERS_MAX as u8).find(|slot| !self.0.values().any(|taken| taken == slot))?;
        self.0.insert(adapter, free);
        Some(free)
    }

    pub fn release(&mut self, adapter: AdapterId) {
        self.0.remove(&adapter);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these are ports for exactly the adapters of `vm`, no two in one.
    pub fn fit(&self, vm: &Vm) -> bool {
        let mut slots: Vec<u8> = self.0.values().copied().collect();
        slots.sort_unstable();
        slots.dedup();
        slots.len() == self.0.len()
            && slots.iter().all(|s| usize::from(*s) < ADAPTERS_MAX)
            && self.0.len() == vm.adapters.len()
            && vm.adapters.iter().all(|a| self.0.contains_key(&a.id))
    }
}

/// The files of a running machine.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

/// A path too long for the address of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path {} has {} bytes; the address of a socket has at most {SOCKET_PATH_BYTES_MAX} (choose a shorter directory, with NESTLING_HOME)",
    path.display(), path.as_os_str().len()
)]
pub struct SocketPathTooLong {
    path: PathBuf,
}

/// `sun_path` without its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl RunDir {
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, SocketPathTooLong> {
        let dir = Self(path.into());
        let path = dir.qmp();
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(SocketPathTooLong { path });
        }
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    pub fn console(&self) -> PathBuf {
        self.0.join("con.sock")
    }

    pub fn agent(&self) -> PathBuf {
        self.0.join("ga.sock")
    }

    pub fn channel(&self) -> PathBuf {
        self.0.join("ch.sock")
    }

    /// Where QEMU serves disks as they were at an instant.
    pub fn nbd(&self) -> PathBuf {
        self.0.join("nbd.sock")
    }

    /// The machine's end of the cable of an adapter, by its slot: a socket of datagrams, of which each is a frame.
    pub fn cable(&self, slot: u8) -> PathBuf {
        self.0.join(format!("n{slot}.sock"))
    }

    /// The other end of all its cables. Whoever binds it speaks with the guest; until then, frames go nowhere.
    pub fn neighbour(&self) -> PathBuf {
        self.0.join("nn.sock")
    }

    pub fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    pub fn stderr(&self) -> PathBuf {
        self.0.join("stderr.log")
    }

    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_socket_path_that_does_not_fit_is_refused_with_a_way_out() {
        let fits = format!("/{}", "a".repeat(97));
        assert_eq!(RunDir::new(&fits).unwrap().qmp().as_os_str().len(), SOCKET_PATH_BYTES_MAX);
        let refused = RunDir::new(format!("{fits}a")).unwrap_err().to_string();
        assert!(refused.contains("has 108 bytes") && refused.contains("NESTLING_HOME"), "{refused}");
    }

    #[test]
    fn ports_are_given_once_and_come_back() {
        let ids: Vec<AdapterId> = (0..9).map(|n| AdapterId(Uuid::from_u128(n))).collect();
        let mut slots = Slots::default();
        for (id, slot) in ids[..8].iter().zip(0..) {
            assert_eq!(slots.take(*id), Some(slot));
        }
        assert_eq!(slots.take(ids[8]), None);
        slots.release(ids[3]);
        assert_eq!(slots.take(ids[8]), Some(3));
    }
}

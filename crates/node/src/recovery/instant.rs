//! Machines that run straight from the vault.
//!
//! Each of their disks is an overlay on an export of the point, which this node serves on a socket of the home. What is
//! written here outlives the node: the next one serves the same exports on the same sockets before anything else. A machine is one of these until all of its disks have been brought over, or it is removed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use nestling_block::nbd::{Export, NbdAddress, NbdServer, ServerLimits};
use nestling_model::{
    VmId,
    protection::{PointId, RepositoryId},
};
use nestling_store::Document;
use serde::{Deserialize, Serialize};

use super::export::{Lazy, LazyDisk};
use crate::{
    NodeError,
    error::Result,
    home::{HomeDir, short},
    keeper::Keeper,
    locked::lock,
    protection::Protection,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstantDisk {
    /// What it is called in the point, and where it is in the machine.
    pub name: String,
    pub size_bytes: u64,
}

/// A machine that runs from a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstantBoot {
    pub vm: VmId,
    pub repository: RepositoryId,
    pub point: PointId,
    /// The id that the point was saved under: it has another one when it was marked since.
    pub identity: PointId,
    /// Those that still need the point.
    pub disks: Vec<InstantDisk>,
    /// The number of the proof that it runs for, and that it goes with.
    #[serde(default)]
    pub proof: Option<u64>,
    /// Whether they are being brought over.
    #[serde(default)]
    pub finishing: bool,
    /// Why that ended, if it ended badly.
    #[serde(default)]
    pub problem: Option<String>,
}

impl Document for InstantBoot {
    const KIND: &'static str = "instant-boot";
    fn id(&self) -> String {
        self.vm.0.to_string()
    }
}

/// What is served for a machine.
struct Served {
    lazy: Arc<Lazy>,
    server: NbdServer,
}

pub struct InstantBoots {
    keeper: Keeper,
    all: Mutex<BTreeMap<VmId, InstantBoot>>,
    served: Mutex<BTreeMap<VmId, Served>>,
}

/// Where a machine's exports are.
pub fn socket(home: &HomeDir, vm: VmId) -> PathBuf {
    home.read().join(format!("i{}", short(vm)))
}

impl InstantBoots {
    pub fn new(keeper: Keeper, stored: Vec<InstantBoot>) -> Self {
        let all = stored.into_iter().map(|boot| (boot.vm, boot)).collect();
        Self { keeper, all: Mutex::new(all), served: Mutex::default() }
    }

    pub fn all(&self) -> Vec<InstantBoot> {
        lock(&self.all).values().cloned().collect()
    }

    pub fn get(&self, vm: VmId) -> Option<InstantBoot> {
        lock(&self.all).get(&vm).cloned()
    }

    /// The proof that a machine runs for.
    pub fn proof_of(&self, vm: VmId) -> Option<u64> {
        lock(&self.all).get(&vm).and_then(|boot| boot.proof)
    }

    /// The machine that runs from a point of this identity.
    pub fn using_point(&self, repository: RepositoryId, identity: PointId) -> Option<VmId> {
        let all = lock(&self.all);
        all.values()
            .find(|boot| boot.repository == repository && boot.identity == identity)
            .map(|boot| boot.vm)
    }

    /// The identities of the points that machines run from.
    pub fn points_of(&self, repository: RepositoryId) -> Vec<PointId> {
        lock(&self.all)
            .values()
            .filter(|boot| boot.repository == repository)
            .map(|boot| boot.identity)
            .collect()
    }

    pub fn using_repository(&self, repository: RepositoryId) -> Option<VmId> {
        lock(&self.all).values().find(|boot| boot.repository == repository).map(|boot| boot.vm)
    }

    /// What is served to a machine.
    pub fn lazy(&self, vm: VmId) -> Option<Arc<Lazy>> {
        lock(&self.served).get(&vm).map(|served| Arc::clone(&served.lazy))
    }

    /// A change is durable before it is seen.
    pub async fn put(&self, boot: InstantBoot) -> Result<()> {
        self.keeper.put(&boot).await?;
        lock(&self.all).insert(boot.vm, boot);
        Ok(())
    }

    /// Nothing needs the point any more.
    pub async fn end(&self, vm: VmId) -> Result<()> {
        if lock(&self.all).contains_key(&vm) {
            self.keeper.delete::<InstantBoot>(vm.0.to_string()).await?;
        }
        self.forget(vm);
        Ok(())
    }

    /// The same, once its document is gone together with the machine's.
    pub fn forget(&self, vm: VmId) {
        lock(&self.all).remove(&vm);
        if let Some(served) = lock(&self.served).remove(&vm) {
            std::thread::spawn(move || served.end());
        }
    }

    /// Serves a machine's disks. Nothing is read before a client asks, so that a repository that is away holds up nobody.
    pub fn serve(&self, home: &HomeDir, protection: &Protection, boot: &InstantBoot) -> Result<()> {
        let socket = socket(home, boot.vm);
        let lazy = Arc::new(Lazy::new(protection.repositories.clone(), boot.clone()));
        let export = |disk: &InstantDisk| {
            let source = LazyDisk::new(Arc::clone(&lazy), disk.name.clone(), disk.size_bytes);
            Export::read_only(&disk.name, Arc::new(source))
        };
        let exports = boot.disks.iter().map(export).collect();
        let server = NbdServer::start(&NbdAddress::Unix(socket.clone()), exports, ServerLimits::default());
        let server = server.map_err(|source| NodeError::Export { path: socket, source })?;
        lock(&self.served).insert(boot.vm, Served { lazy, server });
        Ok(())
    }

    /// The node ends. Guests wait for the next one.
    pub fn close(&self) {
        for (_, served) in std::mem::take(&mut *lock(&self.served)) {
            served.end();
        }
    }
}

impl Drop for InstantBoots {
    fn drop(&mut self) {
        self.close();
    }
}

impl Served {
    /// Blocks until what is being answered has been, but not for long.
    fn end(self) {
        self.lazy.stop();
        self.server.stop();
    }
}

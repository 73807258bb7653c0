//! Which machines there are, and what is taken.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use nestling_model::{AdapterId, MacAddress, VmId, VmName};
use uuid::Uuid;

use super::task::{Handle, Now};
use crate::{
    NodeError,
    error::{Object, Result},
    home::short,
};

#[derive(Default)]
pub struct Registry {
    handles: RwLock<BTreeMap<VmId, Arc<Handle>>>,
    claims: Arc<Mutex<HashSet<Claimed>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claimed {
    Name(String),
    Mac(MacAddress),
    Disk(PathBuf),
}

/// Something that is about to be taken. Dropped when the machine's definition has it, or when nothing came of it.
pub struct Claim {
    claims: Arc<Mutex<HashSet<Claimed>>>,
    what: Claimed,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.what);
    }
}

impl Registry {
    pub fn insert(&self, id: VmId, handle: Handle) -> Arc<Handle> {
        let handle = Arc::new(handle);
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&handle));
        handle
    }

    pub fn remove(&self, id: VmId) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub fn handles(&self) -> Vec<Arc<Handle>> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All machines as they are now.
    pub fn all(&self) -> Vec<Now> {
        self.handles().iter().map(|h| h.now()).collect()
    }

    /// A machine by name, or by the text of its id.
    pub fn find(&self, vm: &str) -> Result<Arc<Handle>> {
        let missing = || NodeError::NotFound { object: Object::Vm, name: vm.to_owned() };
        let key = vm.to_lowercase();
        let handles = self.handles();
        if let Some(by_name) = handles.iter().find(|h| h.now().vm.name.key() == key) {
            return Ok(Arc::clone(by_name));
        }
        let id = VmId(vm.parse().map_err(|_| missing())?);
        self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned().ok_or_else(missing)
    }

    /// Takes what is free: not claimed, and `used` by no machine.
    fn claim(
        &self,
        what: Claimed,
        used: impl Fn(&Now) -> bool,
    ) -> std::result::Result<Claim, Option<VmName>> {
        // The claim comes first: whoever publishes meanwhile still holds theirs, so one of the two is seen.
        if !self.claims.lock().unwrap_or_else(PoisonError::into_inner).insert(what.clone()) {
            return Err(None);
        }
        let claim = Claim { claims: Arc::clone(&self.claims), what };
        match self.all().iter().find(|now| used(now)) {
            Some(user) => Err(Some(user.vm.name.clone())),
            None => Ok(claim),
        }
    }

    pub fn claim_name(&self, name: &VmName, own: VmId) -> Result<Claim> {
        let key = name.key();
        self.claim(Claimed::Name(key.clone()), |now| now.vm.id != own && now.vm.name.key() == key)
            .map_err(|_| NodeError::Exists { object: Object::Vm, name: name.to_string() })
    }

    pub fn claim_mac(&self, mac: MacAddress, own: AdapterId) -> Result<Claim> {
        let used = |now: &Now| now.vm.adapters.iter().any(|a| a.mac == mac && a.id != own);
        self.claim(Claimed::Mac(mac), used)
            .map_err(|_| NodeError::Exists { object: Object::Adapter, name: mac.hyperv() })
    }

    /// The first free address of this host's range. Starts with 256 as in Hyper-V, and goes on with the next octet.
    pub fn claim_dynamic_mac(&self, host: [u8; 2]) -> Result<(MacAddress, Claim)> {
        let used: HashSet<MacAddress> = self
            .all()
            .iter()
            .flat_map(|now| now.vm.adapters.iter().map(|a| a.mac).collect::<Vec<_>>())
            .collect();
        for n in 0..=u16::MAX {
            let [high, low] = n.to_be_bytes();
            let mac = MacAddress::dynamic([host[0], host[1].wrapping_add(high)], low);
            if used.contains(&mac) {
                continue;
            }
            if let Ok(claim) = self.claim_mac(mac, AdapterId(Uuid::nil())) {
                return Ok((mac, claim));
            }
        }
        Err(NodeError::invalid("this host has no MAC address left to give"))
    }

    /// A disk for writing. Any number of machines may read one.
    pub fn claim_disk(&self, path: &Path, read_only: bool) -> Result<Claim> {
        let used = |now: &Now| now.vm.disks.iter().any(|d| d.path == path && !(read_only && d.read_only));
        self.claim(Claimed::Disk(path.to_owned()), used).map_err(|user| match user {
            Some(vm) => NodeError::DiskInUse { path: path.to_owned(), vm },
            None => NodeError::Invalid(format!("the disk {} is being attached elsewhere", path.display())),
        })
    }

    /// Which machine has a disk.
    pub fn disk_user(&self, path: &Path) -> Option<VmName> {
        let user = self.all().into_iter().find(|now| now.vm.disks.iter().any(|d| d.path == path))?;
        Some(user.vm.name.clone())
    }

    /// An id whose first octets, of which a directory's name is made, no other machine has.
    pub fn free_id(&self) -> VmId {
        loop {
            let id = VmId(Uuid::new_v4());
            let taken = self.handles.read().unwrap_or_else(PoisonError::into_inner);
            if !taken.keys().any(|other| short(*other) == short(id)) {
                return id;
            }
        }
    }

    /// An id whose first octets, of which an interface's name is made, no other adapter has.
    pub fn free_adapter_id(&self) -> AdapterId {
        loop {
            let id = Uuid::new_v4();
            let same = |a: &nestling_model::Adapter| a.id.0.as_bytes()[..4] == id.as_bytes()[..4];
            if !self.all().iter().any(|now| now.vm.adapters.iter().any(same)) {
                return AdapterId(id);
            }
        }
    }
}

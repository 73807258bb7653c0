//! Which machines there are, and what is taken.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use nestling_hypervisor::disk::DiskError;
use nestling_model::{AdapterId, Disk, MacAddress, VmId, VmName};
use uuid::Uuid;

use super::{
    disk_use::{Clash, DiskFile, DiskUse},
    task::{Handle, Now},
};
use crate::{
    NodeError,
    blocking::{Look, at_disks},
    error::{Object, Result},
    home::short,
};

#[derive(Default)]
pub struct Registry {
    handles: RwLock<BTreeMap<VmId, Arc<Handle>>>,
    claims: Claims,
}

type Claims = Arc<Mutex<Vec<Arc<Claimed>>>>;

#[derive(Debug)]
enum Claimed {
    Name(String),
    Mac(MacAddress),
    Disk(DiskUse),
    Id(VmId),
}

impl Claimed {
    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Mac(a), Self::Mac(b)) => a == b,
            (Self::Disk(a), Self::Disk(b)) => a.clash(b).is_some(),
            (Self::Id(a), Self::Id(b)) => short(*a) == short(*b),
            _ => false,
        }
    }
}

/// Something that is about to be taken. Dropped when the machine's definition has it, or when nothing came of it.
pub struct Claim {
    claims: Claims,
    what: Arc<Claimed>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|claimed| !Arc::ptr_eq(claimed, &self.what));
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

    /// Claims what nobody else does at this moment. Whether a machine has it is looked at after this: whoever publishes
    /// meanwhile still holds theirs, so one of the two is seen.
    fn claim(&self, what: Claimed) -> Option<Claim> {
        let what = Arc::new(what);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.iter().any(|claimed| claimed.excludes(&what)) {
            return None;
        }
        claims.push(Arc::clone(&what));
        Some(Claim { claims: Arc::clone(&self.claims), what })
    }

    /// Takes what is free: not claimed, and `used` by no machine.
    fn take(&self, what: Claimed, used: impl Fn(&Now) -> bool) -> Option<Claim> {
        let claim = self.claim(what)?;
        (!self.all().iter().any(used)).then_some(claim)
    }

    pub fn claim_name(&self, name: &VmName, own: VmId) -> Result<Claim> {
        let key = name.key();
        let used = |now: &Now| now.vm.id != own && now.vm.name.key() == key;
        self.take(Claimed::Name(key.clone()), used)
            .ok_or_else(|| NodeError::Exists { object: Object::Vm, name: name.to_string() })
    }

    /// An id that a machine had before. `None`: it is taken, or another one's directory would have its name.
    pub fn claim_id(&self, id: VmId) -> Option<Claim> {
        self.take(Claimed::Id(id), |now| short(now.vm.id) == short(id))
    }

    pub fn claim_mac(&self, mac: MacAddress, own: AdapterId) -> Result<Claim> {
        let used = |now: &Now| now.vm.adapters.iter().any(|a| a.mac == mac && a.id != own);
        self.take(Claimed::Mac(mac), used)
            .ok_or_else(|| NodeError::Exists { object: Object::Adapter, name: mac.hyperv() })
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

    /// A disk, with its parents.
    pub async fn claim_disk(
        &self,
        path: &Path,
        wanted: impl FnOnce() -> std::result::Result<DiskUse, DiskError> + Send + 'static,
    ) -> Result<Claim> {
        let path = path.to_owned();
        let wanted = at_disks(move |look| {
            look.at(&path);
            Ok(wanted()?)
        })
        .await?;
        let elsewhere = || {
            NodeError::Invalid(format!("the disk {} is being attached elsewhere", wanted.path().display()))
        };
        let claim = self.claim(Claimed::Disk(wanted.clone())).ok_or_else(elsewhere)?;
        let all = self.all();
        // What the paths tell already needs no disk that answers.
        let same = |disk: &&Disk| disk.path == wanted.path() && (wanted.writes() || !disk.read_only);
        if let Some(now) = all.iter().find(|now| now.vm.disks.iter().any(|disk| same(&disk))) {
            return Err(NodeError::DiskInUse { path: wanted.path().to_owned(), vm: now.vm.name.clone() });
        }
        at_disks(move |look| all.iter().try_for_each(|now| beside(&wanted, now, look))).await?;
        Ok(claim)
    }

    /// The machine that has a disk, by whatever name, and its definition of it.
    pub async fn disk_user(&self, path: &Path) -> Result<Option<(Now, Disk)>> {
        let all = self.all();
        let by = |all: Vec<Now>, is: &dyn Fn(&Disk) -> bool| {
            all.into_iter().find_map(|now| {
                let disk = now.vm.disks.iter().find(|disk| is(disk))?.clone();
                Some((now, disk))
            })
        };
        if let Some(found) = by(all.clone(), &|disk| disk.path == path) {
            return Ok(Some(found));
        }
        let path = path.to_owned();
        at_disks(move |look| {
            look.at(&path);
            let file = DiskFile::new(&path);
            Ok(by(all, &|disk| {
                look.at(&disk.path);
                DiskFile::new(&disk.path).is(&file)
            }))
        })
        .await
    }

    /// Fails if a disk is below a differencing disk of a machine other than `but`.
    pub async fn no_parent(&self, path: &Path, but: Option<VmId>) -> Result<()> {
        let others = self.all().into_iter().filter(|now| Some(now.vm.id) != but).collect::<Vec<_>>();
        let path = path.to_owned();
        at_disks(move |look| {
            look.at(&path);
            let file = DiskFile::new(&path);
            for now in others {
                for disk in &now.vm.disks {
                    look.at(&disk.path);
                    let used =
                        DiskUse::attached(disk).map_err(|source| unclear(&path, disk, &now, source))?;
                    if used.has_parent(&file) {
                        let (child, vm) = (disk.path.clone(), now.vm.name.clone());
                        return Err(NodeError::DiskIsParent { path, child, vm });
                    }
                }
            }
            Ok(())
        })
        .await
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

/// Refuses a use of a disk that cannot be beside what a machine has.
fn beside(wanted: &DiskUse, now: &Now, look: &Look) -> Result<()> {
    for disk in &now.vm.disks {
        look.at(&disk.path);
        // A disk that is yet to be made is below no other: other machines' parents need not be looked at.
        let used = if wanted.is_new() { Ok(DiskUse::alone(disk)) } else { DiskUse::attached(disk) };
        let used = match used {
            Ok(used) => used,
            Err(source) if wanted.writes() => return Err(unclear(wanted.path(), disk, now, source)),
            Err(error) => {
                tracing::warn!(vm = %now.vm.name, %error, "a disk's parents are not known");
                DiskUse::alone(disk)
            }
        };
        let (path, vm) = (wanted.path().to_owned(), now.vm.name.clone());
        return Err(match wanted.clash(&used) {
            None => continue,
            Some(Clash::Same) => NodeError::DiskInUse { path, vm },
            Some(Clash::IsParentOf(child)) => NodeError::DiskIsParent { path, child, vm },
            Some(Clash::ParentWritten(parent)) => NodeError::ParentInUse { path, parent, vm },
        });
    }
    Ok(())
}

fn unclear(path: &Path, disk: &Disk, now: &Now, source: DiskError) -> NodeError {
    let (path, child, vm) = (path.to_owned(), disk.path.clone(), now.vm.name.clone());
    NodeError::DiskUnclear { path, child, vm, source: Box::new(source) }
}

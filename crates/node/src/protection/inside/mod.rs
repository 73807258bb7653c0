//! Machines inside machines: the node inside captures them and lends the instant, and this node saves it in a vault of its
//! own.
//!
//! All goes through the guest channel, so that it works with no network inside. The node inside does what it does for
//! its own backups, guest steps and change tracking included, up to the bytes (`lending`); here its answers are taken as what
//! they are, the words of a guest: bounded, checked, and with deadlines. What it lies about spoils the points of its own
//! machines and nothing else, for a machine inside is known here by an id that is made of its host's and its own.

mod borrow;
mod candidates;
mod check;
mod disk;
mod patience;
mod port;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use nestling_model::{VmId, VmName, VmPath};
use nestling_vault::BlobId;
use uuid::{Builder, Variant, Version};

pub use self::{
    borrow::Borrowed,
    candidates::{Candidates, MACHINES_INSIDE_MAX},
    disk::InsideDisk,
    patience::{Moves, Patience},
    port::{MachineInside, NodesInside, Refused, Way},
};
use crate::{
    ErrorKind, NodeError,
    error::{Object, Result},
    node::Shared,
};

/// A machine inside another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// By which its points are known.
    pub id: VmId,
    pub path: VmPath,
}

/// The id under which a host knows a machine inside one of its own. Only who owns the host can make a machine of that id, and
/// a copy of the host is another host.
pub fn id_inside(host: VmId, inner: VmId) -> VmId {
    let mut text = b"a machine inside a machine: ".to_vec();
    text.extend_from_slice(host.0.as_bytes());
    text.extend_from_slice(inner.0.as_bytes());
    let hash = BlobId::of(&text);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.0[..16]);
    VmId(Builder::from_bytes(bytes).with_variant(Variant::RFC4122).with_version(Version::Custom).into_uuid())
}

/// An error of a machine inside, in words that cannot hurt.
pub fn refused(path: &VmPath, why: &Refused) -> NodeError {
    let text = nestling_model::protection::Message::from(why.message.as_str()).to_string();
    NodeError::Inside { vm: path.to_string(), why: text, kind: why.kind, again: false }
}

impl Shared {
    pub fn nodes_inside(&self, path: &VmPath) -> Result<Arc<dyn NodesInside>> {
        let none = || NodeError::Inside {
            vm: path.to_string(),
            why: "this node has no way into machines".to_owned(),
            kind: ErrorKind::Requirement,
            again: false,
        };
        self.settings.nodes_inside.clone().ok_or_else(none)
    }

    /// The way to the node inside a machine, and the machine's id.
    pub fn way_into(&self, hosts: &[VmName]) -> Result<(Way, VmId)> {
        let Some((host, hosts)) = hosts.split_first() else {
            return Err(NodeError::Internal("there is no way into this host itself".to_owned()));
        };
        let now = self.vms.find(host.as_str())?.now();
        let running = now.running.ok_or_else(|| NodeError::NoEngine(now.vm.name.clone()))?;
        let way =
            Way { channel: running.machine.channel(), host: now.vm.name.clone(), hosts: hosts.to_vec() };
        Ok((way, now.vm.id))
    }

    /// Looks for a machine inside another one, level by level. With the way to the node that has it, and its id there.
    pub async fn find_inside(&self, path: &VmPath) -> Result<(Inside, Way, VmId)> {
        let levels = path.levels();
        let (first, mut id) = self.way_into(&levels[..levels.len().min(1)])?;
        let port = self.nodes_inside(path)?;
        let mut names = vec![first.host.clone()];
        let mut found = None;
        for (number, wanted) in levels.iter().enumerate().skip(1) {
            let way = Way { hosts: names[1..].to_vec(), ..first.clone() };
            let all = session::in_time(port.machines(&way)).await.map_err(|why| refused(path, &why))?;
            let is_it = |machine: &&MachineInside| machine.name.key() == wanted.key();
            let Some(machine) = all.iter().find(is_it) else {
                let name = levels[..=number].iter().map(VmName::as_str).collect::<Vec<_>>().join("/");
                return Err(NodeError::NotFound { object: Object::Vm, name });
            };
            id = id_inside(id, machine.id);
            names.push(machine.name.clone());
            found = Some((way, machine.id));
        }
        let Some((way, inner)) = found else {
            return Err(NodeError::Invalid(format!("'{path}' is no machine inside another one")));
        };
        let text = names.iter().map(VmName::as_str).collect::<Vec<_>>().join("/");
        Ok((Inside { id, path: text.parse()? }, way, inner))
    }
}

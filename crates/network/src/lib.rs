//! The host's Linux network: switches as bridges, ports as taps, rules and NAT by nftables, DHCP and
//! DNS by dnsmasq.
//!
//! A node says what it wants ([`Desired`]); [`Network::reconcile`] reads what is there, plans the
//! difference as values and applies it step by step, undoing all when a step fails. This crate must
//! never touch an interface, an address, a route or a rule that this node did not make, except an
//! External switch's uplink; and no name or text that a person typed may reach the kernel or a tool.

mod conflict;
mod desired;
mod dhcp;
mod diff;
mod error;
mod firewall;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod host;
mod kernel;
mod names;
mod neighbour;
mod nft;
mod read;
mod reconcile;
mod rules;
mod state;
mod tap;
#[cfg(test)]
mod tests;
mod tool;
mod want;

use std::{collections::BTreeMap, io, path::PathBuf, sync::OnceLock};

pub use conflict::{NatConflict, nat_conflict};
pub use desired::{Desired, Outcome, Port, Problem};
pub use error::NetworkError;
pub use firewall::{Blocks, ForeignFilter};
pub use host::{AdapterKind, HostAdapter, InterfaceAddress, InterfaceRoute, Lease, PortCounters};
pub use names::{Ours, Tag};
pub use neighbour::{Knock, Neighbour};
use nestling_model::{AdapterId, Nat};
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    dhcp::Servers,
    diff::Step,
    kernel::{Kernel, StepError},
    nft::{Nft, NftError},
    reconcile::Host,
    state::{Rules, State},
};

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
pub struct Network {
    settings: Settings,
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
    inner: Mutex<Inner>,
}

/// What only one change at a time may use.
struct Inner {
    nft: Nft,
    servers: Servers,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Network {
    /// Opens a netlink socket in the caller's network namespace; needs no right and changes nothing.
    pub async fn open(settings: Settings) -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| NetworkError::Read { what: "the network", source })?;
        let inner = Inner { nft: Nft::new(settings.tag), servers: Servers::default() };
        Ok(Self { settings, handle, connection: tokio::spawn(connection), inner: Mutex::new(inner) })
    }

    pub fn tag(&self) -> Tag {
        self.settings.tag
    }

    /// Whether this process may change the host's network.
    pub fn permission() -> Result<(), NetworkError> {
        use rustix::thread::{CapabilitySet, capabilities};
        match capabilities(None) {
            Ok(sets) if sets.effective.contains(CapabilitySet::NET_ADMIN) => Ok(()),
            _ => Err(NetworkError::Permission),
        }
    }

    /// Makes the host's network as desired. Does nothing, and starts no process, when it already is.
    pub async fn reconcile(&self, desired: &Desired) -> Result<Outcome, NetworkError> {
        let tag = self.settings.tag;
        want::validate(tag, desired)?;
        let mut inner = self.inner.lock().await;
        let mut host = self.host(&mut inner.nft);
        let from_nothing = OnceLock::new();
        let wanted = |now: &State| {
            let is_bridge = |name: &String| name.starts_with(&tag.bridge_prefix());
            from_nothing.get_or_init(|| !desired.switches.is_empty() && !now.links.keys().any(is_bridge));
            want::wanted(tag, desired, now)
        };
        let mut outcome = reconcile::reach(&mut host, wanted).await?;
        outcome.from_nothing = from_nothing.into_inner().unwrap_or_default();
        let adapters = self.host_adapters().await?;
        let dir = &self.settings.state_dir;
        let (changes, problems) = inner.servers.reconcile(dir, tag, desired, &adapters).await;
        outcome.changes += changes;
        outcome.problems.extend(problems);
        Ok(outcome)
    }

    /// What [`Network::reconcile`] would do to interfaces and rules, one line per step.
    pub async fn plan(&self, desired: &Desired) -> Result<Vec<String>, NetworkError> {
        let tag = self.settings.tag;
        want::validate(tag, desired)?;
        let mut inner = self.inner.lock().await;
        let now = self.host(&mut inner.nft).read().await.map_err(reading("the network"))?;
        let steps = diff::diff(&now, &want::wanted(tag, desired, &now).0);
        Ok(steps.iter().map(Step::to_string).collect())
    }

    pub async fn host_adapters(&self) -> Result<Vec<HostAdapter>, NetworkError> {
        read::adapters(&self.handle, self.settings.tag).await.map_err(reading("the interfaces"))
    }

    pub async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        read::addresses(&self.handle, self.settings.tag).await.map_err(reading("the addresses"))
    }

    /// The main table's routes.
    pub async fn routes(&self) -> Result<Vec<InterfaceRoute>, NetworkError> {
        read::routes(&self.handle, self.settings.tag).await.map_err(reading("the routes"))
    }

    /// What the ports dropped since the rules were last loaded (each change of the rules starts anew).
    /// Starts a process.
    pub async fn port_counters(
        &self,
        adapters: &[AdapterId],
    ) -> Result<BTreeMap<AdapterId, PortCounters>, NetworkError> {
        let counters = nft::counters(self.settings.tag).await.map_err(listing("the ports' counters"))?;
        let counters: BTreeMap<String, u64> = counters.into_iter().collect();
        let of = |id: &AdapterId| {
            let [spoofed, dhcp, router] =
                rules::COUNTERS.map(|kind| counters.get(&rules::counter(kind, *id)).copied());
            Some(PortCounters {
                spoofed_packets: spoofed?,
                dhcp_guard_packets: dhcp?,
                router_guard_packets: router?,
            })
        };
        Ok(adapters.iter().filter_map(|id| Some((*id, of(id)?))).collect())
    }

    /// Other programs' filters on this host that may block machines' traffic. Starts a process.
    pub async fn foreign_filters(&self) -> Result<Vec<ForeignFilter>, NetworkError> {
        firewall::foreign_filters(self.settings.tag).await.map_err(listing("the packet filters"))
    }

    /// The leases that the NAT network's DHCP server gave and that have not ended.
    pub async fn leases(&self, nat: &Nat) -> Result<Vec<Lease>, NetworkError> {
        dhcp::leases(&self.settings.state_dir, nat).map_err(reading("the leases"))
    }

    /// Stops watching the DHCP servers. They, the switches and the rules stay for the next node.
    pub async fn shutdown(&self) {
        self.inner.lock().await.servers.release();
    }

    fn host<'a>(&'a self, nft: &'a mut Nft) -> LiveHost<'a> {
        let kernel = Kernel { handle: &self.handle, nft, tap_owner: self.settings.tap_owner };
        LiveHost { kernel, tag: self.settings.tag }
    }
}

fn reading(what: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Read { what, source }
}

fn listing(what: &'static str) -> impl Fn(NftError) -> NetworkError {
    move |error| match error {
        NftError::Tool(t) => NetworkError::ToolMissing { program: t.program, package: t.package },
        NftError::Failed(reason) => NetworkError::Read { what, source: io::Error::other(reason) },
    }
}

/// The kernel of this network namespace.
struct LiveHost<'a> {
    kernel: Kernel<'a>,
    tag: Tag,
}

impl Host for LiveHost<'_> {
    async fn read(&mut self) -> io::Result<State> {
        read::state(self.kernel.handle, self.tag, self.kernel.nft.read()).await
    }

    async fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        self.kernel.apply(step).await
    }

    async fn saved_rules(&mut self) -> Result<Rules, StepError> {
        Ok(self.kernel.nft.saved().await?)
    }
}

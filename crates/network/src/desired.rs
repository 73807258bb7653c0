//! What the node wants the host's network to be.

use nestling_model::{Adapter, AdapterId, MacAddress, Nat, Switch, SwitchId};

/// The whole wish: what is not in it is removed, if it is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub switches: Vec<Switch>,
    pub nats: Vec<Nat>,
    /// One per adapter of each machine that has an engine running or is about to get one.
    pub ports: Vec<Port>,
}

/// Where a machine's adapter is plugged in, and what may pass there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub adapter: AdapterId,
    pub mac: MacAddress,
    /// None: the tap exists, and is dead.
    pub switch: Option<SwitchId>,
    pub mac_spoofing: bool,
    pub dhcp_guard: bool,
    pub router_guard: bool,
}

impl From<&Adapter> for Port {
    fn from(adapter: &Adapter) -> Self {
        Self {
            adapter: adapter.id,
            mac: adapter.mac,
            switch: adapter.switch,
            mac_spoofing: adapter.mac_spoofing,
            dhcp_guard: adapter.dhcp_guard,
            router_guard: adapter.router_guard,
        }
    }
}

/// What came of making the network so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many changes were made; 0 when all was as desired.
    pub changes: usize,
    /// What could not be had although everything else could. The node decides whether a request
    /// fails for it (a new switch) or not (a restart, where everything else must still come back).
    pub problems: Vec<Problem>,
    /// Whether no switch was there, though some should have been: nothing is left of a former life of this host.
    pub from_nothing: bool,
}

/// A part of the wish that this host can't fulfil.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the switch \"{switch}\" has no uplink: the host has no network interface \"{uplink}\"")]
    UplinkMissing { switch: String, uplink: String },
    #[error("the switch \"{switch}\" has no uplink: \"{uplink}\" {reason}")]
    UplinkRefused { switch: String, uplink: String, reason: String },
    #[error("the NAT network \"{nat}\" offers no addresses: {reason}")]
    Dhcp { nat: String, reason: String },
    #[error("the host's network does not stay as it was made; what is missing: {next}")]
    Unsettled { next: String },
}

//! A virtual network adapter.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{mac::MacAddress, network::SwitchId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AdapterId(pub Uuid);

/// How many adapters a machine may have (Hyper-V's limit for synthetic adapters).
pub const ADAPTERS_MAX: usize = 8;

/// The name that an adapter gets when none is given.
pub const DEFAULT_NAME: &str = "Network Adapter";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    pub id: AdapterId,
    /// Not unique, as in Hyper-V: two adapters may both be called "Network Adapter".
    pub name: String,
    pub mac: MacAddress,
    /// Whether `mac` was chosen by the host rather than by the administrator.
    pub mac_dynamic: bool,
    /// The switch it is plugged into, if any.
    pub switch: Option<SwitchId>,
    /// Whether the guest may send frames with source addresses other than `mac`.
    pub mac_spoofing: bool,
    /// Whether DHCP answers from the guest are dropped.
    pub dhcp_guard: bool,
    /// Whether router advertisements from the guest are dropped.
    pub router_guard: bool,
}

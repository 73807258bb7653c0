//! What a node asks the nodes inside its machines for. The API answers it over the guest channel; this crate must not know
//! how a question travels.
//!
//! Whoever implements it bounds each answer in size and in time, and makes its texts harmless. What the answers mean is
//! checked here: they come from a guest.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nestling_hypervisor::ChannelClient;
use nestling_model::{Generation, Tag, VmId, VmName, VmState, protection::PointId};
use uuid::Uuid;

use super::super::loan::{LoanView, LoanWish, Stretches};
use crate::ErrorKind;

/// The way to a node inside a machine.
#[derive(Debug, Clone)]
pub struct Way {
    /// Into the outermost machine.
    pub channel: ChannelClient,
    pub host: VmName,
    /// The machines to pass through inside of it, outermost first.
    pub hosts: Vec<VmName>,
}

/// Why a node inside did not do it, in words that cannot hurt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub kind: ErrorKind,
    pub message: String,
}

impl Refused {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// A machine of a node inside, as that node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineInside {
    pub id: VmId,
    pub name: VmName,
    pub tags: Vec<Tag>,
    pub state: VmState,
    pub memory_bytes: u64,
    pub processors: u32,
    pub generation: Generation,
    pub switches: Vec<String>,
    pub nesting: bool,
    /// Whether a node answers inside of it.
    pub hosts_nestling: bool,
}

pub type Answer<T> = BoxFuture<'static, Result<T, Refused>>;

pub trait NodesInside: Send + Sync {
    /// One more than `MACHINES_INSIDE_MAX` of them at most, by which it is known that there are more.
    fn machines(&self, way: &Way) -> Answer<Vec<MachineInside>>;

    /// Begins a loan, which then prepares itself.
    fn lend(&self, way: &Way, wish: LoanWish) -> Answer<LoanView>;

    /// How a loan is, once that changes or so much time has passed.
    fn loan(&self, way: &Way, loan: Uuid, wait: Duration) -> Answer<LoanView>;

    /// Which parts of a disk hold data.
    fn data(&self, way: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Stretches>;

    /// Which parts of a disk changed since the point that it counts from.
    fn changed(&self, way: &Way, loan: Uuid, disk: usize, from: u64) -> Answer<Stretches>;

    fn bytes(&self, way: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Bytes>;

    /// Whether all that was read is of the one instant.
    fn confirm(&self, way: &Way, loan: Uuid) -> Answer<()>;

    /// Gives a loan back: with the point that is durable now, or because there is none.
    fn give_back(&self, way: &Way, loan: Uuid, point: Option<PointId>) -> Answer<LoanView>;
}

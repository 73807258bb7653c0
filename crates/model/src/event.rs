//! What happens on a host, as `nestling events` tells it.

use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one for each event of a node's life; gaps tell a reader that it was too slow.
    pub sequence: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    pub kind: EventKind,
    /// The name of the machine, switch, NAT network, image, repository or job concerned.
    pub object: String,
    /// One sentence for people.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    NodeStarted,
    VmCreated,
    VmChanged,
    VmRemoved,
    VmState,
    /// A machine ended in a way that nobody asked for.
    VmFailed,
    SwitchCreated,
    SwitchChanged,
    SwitchRemoved,
    NatCreated,
    NatRemoved,
    ImageBuilt,
    RepositoryAdded,
    RepositoryChanged,
    /// This host forgot it; its recovery points stay where they are.
    RepositoryRemoved,
    /// Also made.
    JobChanged,
    JobRemoved,
    BackupStarted,
    BackupProgress,
    /// There is a new recovery point.
    BackupDone,
    BackupFailed,
    RecoveryStarted,
    RecoveryProgress,
    RecoveryDone,
    RecoveryFailed,
    ProofStarted,
    /// A recovery point is shown to boot, or all of a proof.
    ProofDone,
    ProofFailed,
    PointChanged,
    PointRemoved,
    /// The guest channel of a machine came up or went away.
    Channel,
    /// Something needs an administrator's eye.
    Warning,
}

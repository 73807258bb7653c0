//! Chooses the engine: KVM only when a guest has really run under it on this host, else TCG.
//!
//! `/dev/kvm` proves nothing. It may open, answer every question about its version, start the firmware, and still stop
//! every guest kernel: nested hypervisors do that, and so do kernels that emulate a guest's privileged code. So a guest
//! of 4 KiB (`probe/probe.S`) is run with the processor model wanted. It takes some milliseconds on a host that works,
//! goes through all processor modes, paging, interrupts, user mode and, if asked, a guest of its own, and says where it
//! stopped when it stops.
//!
//! This module must never call a processor proven from what a file or a device *says*, and never wait without a deadline.

mod decide;
mod facts;
mod guest;
mod record;
mod run;
mod survey;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use decide::{Engine, NoEngine, Trial, decide, next_candidate};
pub use facts::{CpuVendor, HostFacts, KvmDevice};
pub use record::{FileIdentity, ProbeKey, Remembered};
pub use run::{probe, qemu_version};
pub use survey::Survey;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    /// As QEMU's `-accel` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The kind of virtualization extensions a guest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nesting {
    Svm,
    Vmx,
}

impl Nesting {
    /// The processor flag, as QEMU's `-cpu` and `/proc/cpuinfo` spell it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Svm => "svm",
            Self::Vmx => "vmx",
        }
    }
}

/// One guest to be run as a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeRequest {
    pub qemu: PathBuf,
    pub accel: Accel,
    /// The argument of `-cpu`, complete.
    pub cpu: String,
    /// Extensions the guest must find and use: with SVM it runs a guest of its own.
    pub nesting: Option<Nesting>,
    pub deadline: Duration,
}

impl ProbeRequest {
    /// Enough for a busy host: a good one needs less than a tenth of a second.
    pub const DEADLINE: Duration = Duration::from_secs(5);
    /// Enough where this host is itself a guest, perhaps an emulated one.
    pub const DEADLINE_NESTED: Duration = Duration::from_secs(20);
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The guest ran to its end, and every result was right.
    Proven,
    /// The guest ran to its end, but did not find the extensions it was to use.
    NoNesting,
    /// QEMU ended before the guest's first instruction.
    Refused {
        reason: String,
    },
    /// The guest ran, and failed.
    Wrong {
        detail: String,
    },
    /// The guest had not ended when the deadline came; `stage` is the last it began.
    Hung {
        after: Duration,
        stage: String,
    },
    /// There is no usable `/dev/kvm`.
    NoDevice,
    /// `/dev/kvm` may not be opened by this user.
    NoPermission,
    QemuMissing {
        path: PathBuf,
    },
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven => write!(f, "a test guest ran to its end"),
            Self::NoNesting => write!(f, "a test guest ran, but found no virtualization extensions"),
            Self::Refused { reason } => write!(f, "QEMU did not start a test guest: {reason}"),
            Self::Wrong { detail } => write!(f, "a test guest failed: {detail}"),
            Self::Hung { after, stage } => {
                write!(f, "a test guest had not ended after {after:?}; the last it began: {stage}")
            }
            Self::NoDevice => write!(f, "/dev/kvm does not exist or has no driver"),
            Self::NoPermission => write!(f, "this user may not open /dev/kvm"),
            Self::QemuMissing { path } => write!(f, "{} does not exist", path.display()),
        }
    }
}

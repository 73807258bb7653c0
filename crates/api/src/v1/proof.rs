use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Program, RunState};

/// What shows that a guest is up; all that is asked for must come. Where neither the agent, a text nor a port is asked
/// for, the agent's first answer or a login prompt on the console shows it, whichever comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProofSigns {
    /// The guest agent answers.
    pub agent: bool,
    /// This text is on the serial console.
    pub console: Option<String>,
    /// Each of these TCP ports answers, at whatever address the guest has; at most 8.
    pub ports: Vec<u16>,
    /// A program of the guest, run by its agent once it is up, ends with 0.
    pub in_guest: Option<Program>,
    /// So does a program of the host, given with its whole path; `NESTLING_PROOF_VM` is the machine that was booted.
    pub on_host: Option<Program>,
    /// For the guest to come up; 600 when absent.
    pub seconds_max: Option<u32>,
}

/// Recovery points to be booted as a test now, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewProof {
    /// The newest points of these machines, with `*` and `?`.
    pub vms: Vec<String>,
    /// The newest points of a job's machines.
    pub job: Option<String>,
    /// The first digits of a point's id, `VM@newest`, or `VM@DIGITS`.
    pub points: Vec<String>,
    /// The job's, or the only one, when absent.
    pub repository: Option<String>,
    pub signs: ProofSigns,
    /// How many machines run at once; 1 when absent.
    pub parallel: Option<u32>,
}

/// That a job boots as a test what it saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobProof {
    /// Else nothing is booted, and the rest means nothing.
    pub enabled: bool,
    pub signs: ProofSigns,
    /// A machine is proven again after so many hours; with each run when absent.
    pub every_hours: Option<u32>,
}

/// What the newest proof of a recovery point found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointVerdict {
    pub at_ms: u64,
    /// Whether it boots.
    pub passed: bool,
    pub message: String,
}

/// One recovery point of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointProof {
    /// The machine's name then.
    pub vm: String,
    #[serde(default)]
    pub vm_id: Option<Uuid>,
    pub point: String,
    pub taken_at_ms: u64,
    pub state: RunState,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    /// From the start of the boot to the last sign: the time in which the machine would have been back.
    #[serde(default)]
    pub ready_ms: Option<u64>,
    /// What showed that the guest is up.
    #[serde(default)]
    pub seen: Option<String>,
    /// Why it is not proven.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The last lines of the guest's console.
    #[serde(default)]
    pub console: Vec<String>,
    /// Whether there is a picture of its screen.
    #[serde(default)]
    pub has_screen: bool,
    /// What is done with it now.
    #[serde(default)]
    pub stage: Option<String>,
}

/// Recovery points that were booted as a test, or are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    pub number: u64,
    pub state: RunState,
    /// Who or what wanted it.
    pub cause: String,
    #[serde(default)]
    pub job: Option<String>,
    pub repository: String,
    pub signs: ProofSigns,
    pub started_at_ms: u64,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    pub points: Vec<PointProof>,
}

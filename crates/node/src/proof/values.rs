//! What the use cases of proofs are asked with and what they answer.

use nestling_model::{
    VmPath,
    protection::{PathPattern, ProofRun, Signs},
};

/// A wish that recovery points be proven, in this order and each once.
#[derive(Debug, Clone)]
pub struct ProofWish {
    /// The newest points of these machines.
    pub machines: Vec<PathPattern>,
    /// The newest points of a job's machines, by its name or id.
    pub job: Option<String>,
    /// The first digits of a point's id, `VM@newest`, or `VM@DIGITS`.
    pub points: Vec<String>,
    /// `None`: the job's, or the only one.
    pub repository: Option<String>,
    pub signs: Signs,
    /// How many machines run at once.
    pub parallel: u32,
}

/// What is done with a point at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofProgress {
    pub machine: VmPath,
    pub stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofView {
    pub run: ProofRun,
    /// The repository's name, or its id if this host forgot it.
    pub repository: String,
    pub job: Option<String>,
    /// Of each point under way.
    pub progress: Vec<ProofProgress>,
}

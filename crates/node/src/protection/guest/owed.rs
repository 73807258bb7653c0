//! What a guest is owed by a run, written down: to be let go after it was made ready, and to have its logs cut once the point is
//! durable.
//!
//! It is written down before the guest is made ready, and once more when the point is durable; it goes when it is done. So a node
//! that finds it knows what is left to do, and logs are cut for no point that is not known to be durable. It speaks of one
//! engine: the guest of another one may have other disks by now, of which nothing noted here is true. Then nothing is done; its
//! applications let go by themselves, and the next backup cuts what this one has not.

use nestling_hypervisor::Machine;
use nestling_model::{
    VmId,
    protection::{Application, Command, RunId},
};
use nestling_store::Document;
use serde::{Deserialize, Serialize};

use crate::facts;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Due {
    /// The guest is to be let go.
    Release,
    /// The point is durable, and logs are to be cut.
    Cut,
}

/// An application of the guest, and what it noted when it was made ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub application: Application,
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub run: RunId,
    pub vm: VmId,
    engine: String,
    pub due: Due,
    pub parts: Vec<Part>,
    /// Programs of the guest that let it go, and that cut logs.
    #[serde(default)]
    pub after: Vec<Command>,
    #[serde(default)]
    pub after_durable: Vec<Command>,
}

impl Document for Owed {
    const KIND: &'static str = "guest-owed";
    fn id(&self) -> String {
        format!("{}-{}", self.run.0, self.vm.0)
    }
}

impl Owed {
    /// `None`: the engine has ended.
    pub fn new(run: RunId, vm: VmId, machine: &Machine, parts: Vec<Part>) -> Option<Self> {
        let engine = facts::process_mark(machine.pid())?;
        Some(Self { run, vm, engine, due: Due::Release, parts, after: Vec::new(), after_durable: Vec::new() })
    }

    /// Whether it speaks of the guest of this engine.
    pub fn is_of(&self, machine: &Machine) -> bool {
        facts::process_mark(machine.pid()).as_ref() == Some(&self.engine)
    }
}

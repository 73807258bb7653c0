use nestling_model::{
    Nat, Switch, Vm,
    protection::{Job, MailServer, ProofRun, Repository, Run},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// Something that is remembered whole.
///
/// A field that is added needs a serde default, so that documents written before can be read; anything else needs a
/// migration step in `sqlite`.
pub trait Document: Serialize + DeserializeOwned {
    const KIND: &'static str;
    fn id(&self) -> String;
}

impl Document for Vm {
    const KIND: &'static str = "vm";
    fn id(&self) -> String {
        self.id.0.to_string()
    }
}

impl Document for Switch {
    const KIND: &'static str = "switch";
    fn id(&self) -> String {
        self.id.0.to_string()
    }
}

impl Document for Nat {
    const KIND: &'static str = "nat";
    fn id(&self) -> String {
        self.name.key()
    }
}

impl Document for Repository {
    const KIND: &'static str = "repository";
    fn id(&self) -> String {
        self.id.0.to_string()
    }
}

impl Document for Job {
    const KIND: &'static str = "job";
    fn id(&self) -> String {
        self.id.0.to_string()
    }
}

/// There is one at most.
impl Document for MailServer {
    const KIND: &'static str = "mail-server";
    fn id(&self) -> String {
        "mail-server".to_owned()
    }
}

impl Document for ProofRun {
    const KIND: &'static str = "proof";
    fn id(&self) -> String {
        format!("{:020}", self.number)
    }
}

impl Document for Run {
    const KIND: &'static str = "run";
    fn id(&self) -> String {
        self.id.0.to_string()
    }
}

/// What a node knows of itself; there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Given once; interface names and dynamic MAC addresses come from it.
    pub id: Uuid,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_at_ms: u64,
    /// Roles that were installed, such as `Hyper-V`.
    pub features: Vec<String>,
    /// How many static port mappings were ever made: the next one's id.
    pub mappings_made: u32,
}

impl Home {
    /// The two octets that tell this node's names and addresses from those of others, on this host and on the levels
    /// above and below.
    pub const fn tag(&self) -> [u8; 2] {
        let octets = self.id.as_bytes();
        [octets[0], octets[1]]
    }
}

impl Document for Home {
    const KIND: &'static str = "home";
    fn id(&self) -> String {
        "home".to_owned()
    }
}

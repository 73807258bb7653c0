//! Switches, NAT networks and machines' ports: what is defined, kept equal to what the host has.
//!
//! One change at a time: the host's network is changed first, then the definition is made durable, and what fails is
//! taken back. A change runs to its end even when whoever asked for it has gone away. A node that died in between left
//! the old definition, and makes the network so when it starts. Readers never wait for a change.

mod addresses;
mod nats;
mod switches;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use nestling_model::{AdapterId, Nat, Switch, SwitchId, SwitchName, VmId};
use nestling_network::{Desired, Network, NetworkError, Port, Problem, Settings, Tag};
use nestling_store::{Batch, Home};
use tokio::sync::Mutex;

use crate::{
    NodeError,
    error::{Object, Result},
    home::HomeDir,
    keeper::Keeper,
};

const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// What administrators defined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defined {
    pub switches: Vec<Switch>,
    pub nats: Vec<Nat>,
}

impl Defined {
    /// By name, or by the text of the id.
    pub fn switch(&self, name: &str) -> Result<&Switch> {
        let key = name.to_lowercase();
        self.switches
            .iter()
            .find(|s| s.name.key() == key || s.id.0.to_string() == key)
            .ok_or_else(|| NodeError::NotFound { object: Object::Switch, name: name.to_owned() })
    }

    pub fn nat(&self, name: &str) -> Result<&Nat> {
        let key = name.to_lowercase();
        self.nats
            .iter()
            .find(|n| n.name.key() == key)
            .ok_or_else(|| NodeError::NotFound { object: Object::Nat, name: name.to_owned() })
    }

    pub fn switch_name(&self, id: Option<SwitchId>) -> Option<SwitchName> {
        self.switches.iter().find(|s| Some(s.id) == id).map(|s| s.name.clone())
    }
}

/// What became of the networks when the node started.
pub struct Restored {
    pub problems: Vec<String>,
    /// Whether no switch was there, though some should have been: the host has started, or has a network namespace anew.
    pub from_nothing: bool,
}

pub struct Networks {
    network: Network,
    keeper: Keeper,
    defined: RwLock<Arc<Defined>>,
    changing: Mutex<Changing>,
    counted: std::sync::Mutex<Counted>,
    /// Held for reading while a machine is plugged in, for writing while a switch is removed, so that no machine is
    /// left plugged into nothing.
    pub plugs: Arc<tokio::sync::RwLock<()>>,
}

#[derive(Default)]
struct Counted {
    at: Option<Instant>,
    frames: Arc<BTreeMap<AdapterId, u64>>,
}

struct Changing {
    home: Home,
    ports: BTreeMap<VmId, Vec<Port>>,
    /// What could not be had before: it is not the fault of the next change.
    problems: Vec<Problem>,
}

/// A change of the definitions, decided but not made.
pub struct Decided<T> {
    pub defined: Defined,
    pub home: Option<Home>,
    pub batch: Batch,
    pub answer: T,
}

impl Networks {
    pub async fn open(dir: &HomeDir, home: Home, keeper: Keeper, defined: Defined) -> Result<Arc<Self>> {
        let settings = Settings { tag: Tag(home.tag()), state_dir: dir.network(), tap_owner: None };
        let network = Network::open(settings).await?;
        let changing = Changing { home, ports: BTreeMap::new(), problems: Vec::new() };
        Ok(Arc::new(Self {
            network,
            keeper,
            defined: RwLock::new(Arc::new(defined)),
            changing: Mutex::new(changing),
            counted: std::sync::Mutex::default(),
            plugs: Arc::default(),
        }))
    }

    pub fn defined(&self) -> Arc<Defined> {
        Arc::clone(&self.defined.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn tag(&self) -> Tag {
        self.network.tag()
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether this node may give machines ports. Without the right, they get user-mode networking.
    pub fn permitted() -> bool {
        Network::permission().is_ok()
    }

    /// Makes the host's network as defined, after a start of the node or of the host. Answers with what could not be had.
    pub async fn restore(&self, ports: BTreeMap<VmId, Vec<Port>>) -> Restored {
        let mut changing = self.changing.lock().await;
        changing.ports = ports;
        let defined = self.defined();
        if !Self::permitted() {
            let missing = !defined.switches.is_empty() || !defined.nats.is_empty();
            let problems = if missing { vec![NetworkError::Permission.to_string()] } else { Vec::new() };
            return Restored { problems, from_nothing: false };
        }
        match self.network.reconcile(&desired(&defined, &changing.ports)).await {
            Ok(outcome) => {
                changing.problems = outcome.problems;
                let problems = changing.problems.iter().map(ToString::to_string).collect();
                Restored { problems, from_nothing: outcome.from_nothing }
            }
            Err(error) => Restored { problems: vec![NodeError::from(error).message()], from_nothing: false },
        }
    }

    /// The ports of one machine; none when it has no engine. `Ok(false)`: this node may not make ports.
    pub async fn set_ports(self: &Arc<Self>, vm: VmId, ports: Vec<Port>) -> Result<bool> {
        if !Self::permitted() {
            return Ok(false);
        }
        let this = Arc::clone(self);
        to_the_end(async move {
            let mut changing = this.changing.lock().await;
            let old = changing.ports.get(&vm).cloned().unwrap_or_default();
            if old == ports {
                return Ok(true);
            }
            changing.set_ports(vm, ports);
            if let Err(error) = this.realize(&this.defined(), &mut changing).await {
                changing.set_ports(vm, old);
                return Err(error);
            }
            Ok(true)
        })
        .await
    }

    /// Changes definitions: network first, then the store; what fails is taken back.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        decide: impl FnOnce(&Defined, &Home) -> Result<Decided<T>> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        to_the_end(async move {
            let mut changing = this.changing.lock().await;
            let old = this.defined();
            let Decided { defined, home, batch, answer } = decide(&old, &changing.home)?;
            let network_changes = *old != defined;
            if network_changes {
                Network::permission()?;
                this.realize(&defined, &mut changing).await?;
            }
            if let Err(error) = this.keeper.apply(batch).await {
                if network_changes {
                    this.take_back(&old, &mut changing).await;
                }
                return Err(error);
            }
            if let Some(home) = home {
                changing.home = home;
            }
            *this.defined.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(defined);
            Ok(answer)
        })
        .await
    }

    /// What the node knows of itself, to be changed by nobody else meanwhile.
    pub async fn home(&self) -> Home {
        self.changing.lock().await.home.clone()
    }

    async fn realize(&self, defined: &Defined, changing: &mut Changing) -> Result<()> {
        let outcome = self.network.reconcile(&desired(defined, &changing.ports)).await?;
        match outcome.problems.iter().find(|p| !changing.problems.contains(p)) {
            None => {
                changing.problems = outcome.problems;
                Ok(())
            }
            Some(new) => {
                let new = new.clone();
                self.take_back(&self.defined(), changing).await;
                Err(NodeError::NetworkProblem(new))
            }
        }
    }

    async fn take_back(&self, old: &Defined, changing: &mut Changing) {
        match self.network.reconcile(&desired(old, &changing.ports)).await {
            Ok(outcome) => changing.problems = outcome.problems,
            Err(error) => tracing::warn!(%error, "the host's network could not be put back"),
        }
    }
}

impl Changing {
    fn set_ports(&mut self, vm: VmId, ports: Vec<Port>) {
        if ports.is_empty() {
            self.ports.remove(&vm);
        } else {
            self.ports.insert(vm, ports);
        }
    }
}

fn desired(defined: &Defined, ports: &BTreeMap<VmId, Vec<Port>>) -> Desired {
    Desired {
        switches: defined.switches.clone(),
        nats: defined.nats.clone(),
        ports: ports.values().flatten().cloned().collect(),
    }
}

/// Runs on when the caller is dropped: half a change is worse than one that nobody waits for.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| NodeError::Internal(e.to_string()))?
}

impl Networks {
    /// What the rules were last seen to have dropped at each adapter.
    pub fn spoofed_frames(&self) -> Arc<BTreeMap<AdapterId, u64>> {
        Arc::clone(&self.counted.lock().unwrap_or_else(PoisonError::into_inner).frames)
    }

    /// Looks at the rules again, if that was long enough ago: it costs a process.
    pub async fn count_spoofed_frames(&self, adapters: &[AdapterId]) {
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = counted.at.is_some_and(|at| at.elapsed() < COUNT_INTERVAL);
            if fresh || !Self::permitted() {
                return;
            }
            counted.at = Some(Instant::now());
        }
        match self.network.port_counters(adapters).await {
            Ok(counters) => {
                let frames = counters.into_iter().map(|(id, c)| (id, c.spoofed_packets)).collect();
                self.counted.lock().unwrap_or_else(PoisonError::into_inner).frames = Arc::new(frames);
            }
            Err(error) => tracing::debug!(%error, "the ports' counters cannot be read"),
        }
    }
}

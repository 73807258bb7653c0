//! The node: everything that its use cases share, from start to end.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nestling_identity::{Action, Authority, Denied, Identity};
use nestling_image::ImageStore;
use nestling_model::{EventKind, Nat, Switch, Vm, VmId};
use nestling_store::{Home, Store};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::{Clock, now_ms},
    engine::{EngineChoice, EngineRecord, Engines},
    error::Result,
    events::Events,
    home::HomeDir,
    journal,
    keeper::Keeper,
    networks::{Defined, Networks},
    proof::{self, ProofState},
    protection::{self, NodesInside, Protection},
    recovery::{self, RecoveryState},
    steps::{StepHook, Steps},
    vm::{self, RanBefore, Registry},
};

/// What a node is started with.
#[derive(Clone, Default)]
pub struct Settings {
    /// The program itself: it goes into the image of a host.
    pub nestling_binary: Option<PathBuf>,
    pub engine: EngineChoice,
    /// What jobs go by; for tests.
    pub clock: Clock,
    /// The way to the nodes inside machines; without it no machine inside another one can be backed up.
    pub nodes_inside: Option<Arc<dyn NodesInside>>,
    /// How long the host above may ask nothing of a machine that is lent to it; for tests.
    pub loan_patience: Option<Duration>,
    /// Called between the steps of what takes several; for tests.
    pub at_step: Option<StepHook>,
}

/// A running node. Clones are the same node.
#[derive(Clone)]
pub struct Node(Arc<Shared>);

pub struct Shared {
    pub home: HomeDir,
    pub keeper: Keeper,
    pub events: Events,
    pub engines: Engines,
    pub networks: Arc<Networks>,
    pub image_store: ImageStore,
    pub vms: Registry,
    pub protection: Protection,
    pub recovery: RecoveryState,
    pub proof: ProofState,
    pub settings: Settings,
    pub steps: Steps,
    pub started_at_ms: u64,
    tag: [u8; 2],
    authority: Authority,
    /// Somebody asked the node to end.
    asked_to_stop: CancellationToken,
    /// It does.
    pub stopping: CancellationToken,
}

impl Deref for Node {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Node {
    /// Takes the home, brings the host's network back, takes over what runs, and starts what shall start.
    pub async fn open(home: &Path, settings: Settings) -> Result<Self> {
        let home = HomeDir::open(home)?;
        let (store, found) = read_store(&home)?;
        let keeper = Keeper::new(store);
        let Found { record, defined, vms, engine, ran_before, protected, recovered, proven } = found;
        let tag = record.tag();
        let shared = Arc::new(Shared {
            engines: Engines::new(settings.engine, home.root().to_owned(), keeper.clone(), engine),
            networks: Networks::open(&home, record, keeper.clone(), defined).await?,
            image_store: ImageStore::open(home.images())?,
            steps: Steps(settings.at_step.clone()),
            events: Events::new(),
            vms: Registry::default(),
            protection: Protection::open(&home, keeper.clone(), protected, settings.clock.now_ms()).await?,
            recovery: RecoveryState::open(keeper.clone(), recovered).await?,
            proof: ProofState::open(&home, keeper.clone(), proven, settings.clock.now_ms()).await?,
            started_at_ms: now_ms(),
            authority: Authority { node_uid: rustix::process::geteuid().as_raw() },
            asked_to_stop: CancellationToken::new(),
            stopping: CancellationToken::new(),
            home,
            keeper,
            settings,
            tag,
        });
        recovery::serve_all(&shared, &vms).await;
        vm::restore(&shared, vms, &ran_before).await?;
        recovery::follow_all(&shared);
        proof::clear_left(&shared);
        protection::start(&shared);
        shared.events.tell(EventKind::NodeStarted, "node", "the node has started");
        let preparing = Arc::clone(&shared);
        tokio::spawn(async move { preparing.prepare_role().await });
        Ok(Self(shared))
    }

    /// Lets everything go. Machines run on; the next node takes them over.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.proof.close().await;
        tokio::join!(self.protection.close(), self.recovery.close());
        self.networks.network().shutdown().await;
    }

    pub async fn stop(&self, who: &Identity) -> Result<()> {
        self.authorize(who, Action::StopNode)?;
        self.asked_to_stop.cancel();
        Ok(())
    }

    /// Resolves when somebody asked the node to stop.
    pub async fn stopped(&self) {
        self.asked_to_stop.cancelled().await;
    }

    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }
}

impl Shared {
    pub fn authorize(&self, who: &Identity, action: Action) -> std::result::Result<(), Denied> {
        self.authority.authorize(who, action)
    }

    /// The time that jobs and runs go by, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> u64 {
        self.settings.clock.now_ms()
    }

    /// What tells this node's interfaces and addresses from those of others.
    pub fn tag(&self) -> [u8; 2] {
        self.tag
    }
}

struct Found {
    record: Home,
    defined: Defined,
    vms: Vec<Vm>,
    engine: Option<EngineRecord>,
    ran_before: RanBefore,
    protected: protection::Stored,
    recovered: recovery::Stored,
    proven: proof::Stored,
}

fn read_store(home: &HomeDir) -> Result<(Store, Found)> {
    let mut store = Store::open(home.root())?;
    let record = match store.list::<Home>()?.pop() {
        Some(record) => record,
        None => {
            let record =
                Home { id: Uuid::new_v4(), created_at_ms: now_ms(), features: Vec::new(), mappings_made: 0 };
            store.put(&record)?;
            record
        }
    };
    let defined = Defined { switches: store.list::<Switch>()?, nats: store.list::<Nat>()? };
    let vms = store.list::<Vm>()?;
    let exists = |id: VmId| vms.iter().any(|vm| vm.id == id);
    journal::recover(&mut store, exists)?;
    journal::sweep(&home.vms(), exists, |id| home.vm(id))?;
    // Both can be found out anew: what cannot be read is forgotten.
    let engine = store.list::<EngineRecord>().unwrap_or_default().pop();
    let ran_before = store.list::<RanBefore>().unwrap_or_default().pop().unwrap_or_default();
    let protected = protection::Stored::read(&store)?;
    let recovered = recovery::Stored::read(&store)?;
    let proven = proof::Stored::read(&store)?;
    Ok((store, Found { record, defined, vms, engine, ran_before, protected, recovered, proven }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::{
        ErrorKind, NodeError,
        testing::{ME, TestHome, small},
    };

    #[test]
    fn a_second_node_a_damaged_store_and_a_newer_one_are_told_apart() {
        let home = TestHome::new();
        home.life(async |node| {
            node.create_vm(&ME, small("vm")).await.unwrap();
            let second = crate::Node::open(home.path(), crate::testing::settings()).await.err().unwrap();
            assert!(matches!(second, NodeError::HomeInUse { .. }), "{second}");
            assert_eq!(second.code(), ErrorKind::InUse);
        });
        let file = home.path().join("nestling.db");
        let good = fs::read(&file).unwrap();
        fs::write(&file, "damaged".repeat(1000)).unwrap();
        let damaged = home.open_error();
        assert!(damaged.message().contains("is damaged"), "{}", damaged.message());
        assert!(fs::read(&file).unwrap().starts_with(b"damaged"), "it was left alone");
        // The schema's number is at offset 60.
        let mut newer = good.clone();
        newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
        fs::write(&file, newer).unwrap();
        assert!(home.open_error().message().contains("newer version of nestling (schema 99"));
        fs::write(&file, good).unwrap();
        home.life(async |node| {
            assert_eq!(node.vms(&ME).await.unwrap().len(), 1);
        });
    }

    #[test]
    fn whoever_waits_learns_that_the_node_shall_stop() {
        let home = TestHome::new();
        home.life(async |node| {
            let other = node.clone();
            let waiting = tokio::spawn(async move { other.stopped().await });
            node.stop(&ME).await.unwrap();
            waiting.await.unwrap();
            node.close().await;
        });
    }
}

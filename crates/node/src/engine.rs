//! What machines run on: found out once per boot of the host, by proof, and remembered in the home.
//!
//! A proof that fails may take seconds (a KVM that hangs), so failures are remembered too, for exactly this boot,
//! processor, kernel, modules and QEMU. Nothing is asked before somebody needs the answer.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use nestling_hypervisor::{
    Qemu,
    probe::{Accel, Engine, HostFacts, Nesting, Survey},
};
use nestling_model::EngineKind;
use nestling_store::Document;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{NodeError, error::Result, facts, features, keeper::Keeper, values::EngineView};

/// How the engine is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    #[default]
    ByProof,
    /// QEMU's own emulation, whatever the host could do.
    Emulation,
}

/// What was found out, and for what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    holds_for: String,
    /// For machines with virtualization extensions exposed, and for those without.
    nesting: Decision,
    plain: Decision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Decision {
    accel: Accel,
    model: String,
    nesting: Option<Nesting>,
    reason: String,
    remedy: Option<String>,
}

impl Document for EngineRecord {
    const KIND: &'static str = "engine";
    fn id(&self) -> String {
        "engine".to_owned()
    }
}

impl From<Engine> for Decision {
    fn from(engine: Engine) -> Self {
        let Engine { accel, model, nesting, reason, remedy } = engine;
        Self { accel, model, nesting, reason, remedy }
    }
}

impl From<Decision> for Engine {
    fn from(decision: Decision) -> Self {
        let Decision { accel, model, nesting, reason, remedy } = decision;
        Self { accel, model, nesting, reason, remedy }
    }
}

pub fn kind(accel: Accel) -> EngineKind {
    match accel {
        Accel::Kvm => EngineKind::Kvm,
        Accel::Tcg => EngineKind::Tcg,
    }
}

pub struct Engines {
    choice: EngineChoice,
    /// Where proofs are kept.
    dir: PathBuf,
    keeper: Keeper,
    qemu: Mutex<Option<Qemu>>,
    deciding: Mutex<()>,
    /// The facts of the host when KVM's module was last asked for.
    tried: Mutex<Option<HostFacts>>,
    record: RwLock<Option<Arc<EngineRecord>>>,
}

impl Engines {
    pub fn new(choice: EngineChoice, dir: PathBuf, keeper: Keeper, record: Option<EngineRecord>) -> Self {
        // A record of another boot says nothing; whether the rest holds is looked at when it is asked for.
        let record = record.filter(|r| r.holds_for.starts_with(&facts::boot_id())).map(Arc::new);
        Self {
            choice,
            dir,
            keeper,
            qemu: Mutex::default(),
            deciding: Mutex::default(),
            tried: Mutex::default(),
            record: RwLock::new(record),
        }
    }

    /// QEMU, looked for until it is found, and again when its file is another.
    pub async fn qemu(&self) -> Result<Qemu> {
        let mut known = self.qemu.lock().await;
        if let Some(qemu) = known.as_ref().filter(|q| q.is_current()) {
            return Ok(qemu.clone());
        }
        let found = Qemu::find(None, Some(&self.dir)).await?;
        *known = Some(found.clone());
        Ok(found)
    }

    /// What is known already.
    pub fn view(&self) -> Option<EngineView> {
        let record = self.known()?;
        Some(EngineView { kind: kind(record.nesting.accel), reason: record.nesting.reason.clone() })
    }

    /// The engine of a machine that was started by an earlier node on the same boot, whose decision still stands.
    pub fn known_kind(&self, nesting: bool) -> EngineKind {
        self.known().map_or(EngineKind::Tcg, |r| kind(if nesting { r.nesting.accel } else { r.plain.accel }))
    }

    fn known(&self) -> Option<Arc<EngineRecord>> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engine for a machine with or without virtualization extensions.
    pub async fn get(&self, nesting: bool) -> Result<Engine> {
        self.load_kvm().await;
        let record = self.decide().await?;
        Ok(if nesting { record.nesting.clone() } else { record.plain.clone() }.into())
    }

    /// A host that has just started may not have come to it yet, and a machine that starts then would be emulated. Tried
    /// once for the same facts, and only for a start: who merely asks changes nothing on the host.
    async fn load_kvm(&self) {
        let mut tried = self.tried.lock().await;
        let facts = HostFacts::read();
        if self.choice != EngineChoice::ByProof
            || !features::lacks_kvm(&facts)
            || tried.as_ref() == Some(&facts)
        {
            return;
        }
        if let Err(reason) = features::load_kvm().await {
            tracing::info!(reason, "KVM is not loaded");
        }
        *tried = Some(facts);
    }

    pub async fn decide(&self) -> Result<Arc<EngineRecord>> {
        let qemu = self.qemu().await?;
        let _one_at_a_time = self.deciding.lock().await;
        let choice = self.choice;
        let (boot, program, version) = (facts::boot_id(), qemu.system().display(), qemu.said());
        let key = |facts: &HostFacts| format!("{boot} {choice:?} {program} {version} {facts:?}");
        let known = |key: &str| self.known().filter(|r| r.holds_for == key);
        let facts = HostFacts::read();
        if let Some(known) = known(&key(&facts)) {
            return Ok(known);
        }
        let holds_for = key(&facts);
        let survey = match choice {
            EngineChoice::ByProof => Survey::take(&qemu, Some(&self.dir)).await,
            // Without a trial nothing is proven, and what is not proven is not used.
            EngineChoice::Emulation => Survey { facts, trials: Vec::new() },
        };
        let decide = |nesting| survey.engine(nesting).map_err(|e| NodeError::Engine(e.to_string()));
        let record =
            Arc::new(EngineRecord { holds_for, nesting: decide(true)?.into(), plain: decide(false)?.into() });
        self.keeper.put(&*record).await?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&record));
        Ok(record)
    }

    /// Why, and what to change for a better one.
    pub async fn verdict(&self) -> Result<(EngineView, Option<String>)> {
        let Decision { accel, reason, remedy, .. } = self.decide().await?.nesting.clone();
        Ok((EngineView { kind: kind(accel), reason }, remedy))
    }
}

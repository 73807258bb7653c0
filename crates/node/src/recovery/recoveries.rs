//! Use cases about recovery: to begin one, to see how far it is, to end it.

use std::sync::Arc;

use nestling_identity::{Action, Identity};
use nestling_model::{
    Operation, VmId, VmName,
    adapter::ADAPTERS_MAX,
    disk::DISKS_MAX,
    life::admit,
    protection::{Message, PointId, RunState, Warnings},
};
use nestling_vault::Point;

use super::{
    book::{Entry, Recovery},
    conduct::{Order, conduct},
    values::{RecoveryView, RecoveryWish, Whereto},
};
use crate::{
    Node, NodeError,
    clock::now_ms,
    error::{Object, Result},
    exchange::NewFolder,
    networks::to_the_end,
    protection::{marks, repositories::Known},
    vm::Asked,
};

impl Node {
    /// Begins to recover a machine. The recovery is written down when this returns; it goes on by itself. What can be seen at
    /// once to be impossible is refused here.
    pub async fn recover(&self, who: &Identity, wish: RecoveryWish) -> Result<RecoveryView> {
        self.authorize(who, Action::ReadBackups)?;
        self.authorize(
            who,
            match wish.whereto {
                Whereto::InPlace => Action::ChangeVm,
                Whereto::AsNew { .. } => Action::CreateVm,
                Whereto::Folder { .. } => Action::ChangeDisks,
            },
        )?;
        if wish.start {
            self.authorize(who, Action::OperateVm)?;
        }
        check(&wish)?;
        let (node, who) = (self.clone(), who.to_string());
        let entry = to_the_end(async move { node.begin_recovery(&who, wish).await }).await?;
        Ok(self.recovery_view(&entry))
    }

    /// All recoveries, newest first.
    pub async fn recoveries(&self, who: &Identity) -> Result<Vec<RecoveryView>> {
        self.authorize(who, Action::ReadBackups)?;
        Ok(self.recovery.recoveries.all().iter().rev().map(|entry| self.recovery_view(entry)).collect())
    }

    pub async fn recovery(&self, who: &Identity, number: &str) -> Result<RecoveryView> {
        self.authorize(who, Action::ReadBackups)?;
        let entry = self.recovery.recoveries.find(number)?;
        Ok(self.recovery_view(&entry))
    }

    /// Asks a recovery to end. Of a new machine nothing is left; a machine whose disks are half overwritten does not start
    /// until it is recovered again.
    pub async fn cancel_recovery(&self, who: &Identity, number: &str) -> Result<RecoveryView> {
        self.authorize(who, Action::ChangeVm)?;
        let entry = self.recovery.recoveries.find(number)?;
        if entry.recovery().state.has_ended() {
            return Err(NodeError::Ended { what: "recovery", number: entry.number() });
        }
        entry.stop();
        Ok(self.recovery_view(&entry))
    }

    async fn begin_recovery(&self, who: &str, wish: RecoveryWish) -> Result<Arc<Entry>> {
        let (known, point) = self.choose_point(&wish.point, wish.repository.as_deref()).await?;
        self.begin_recovery_of(who, known, point, wish, None).await
    }

    /// The same, from a point that was chosen; for a proof, if one is given.
    pub(crate) async fn begin_recovery_of(
        &self,
        who: &str,
        known: Known,
        point: Point,
        wish: RecoveryWish,
        proof: Option<u64>,
    ) -> Result<Arc<Entry>> {
        let (vm, over) = match &wish.whereto {
            Whereto::InPlace => self.machine_of(&point).map(|(id, name)| (name, Some(id)))?,
            Whereto::AsNew { name, .. } => (self.new_name(name.as_ref(), &point)?, None),
            Whereto::Folder { .. } => (name_of(&point)?, None),
        };
        let folder = match &wish.whereto {
            Whereto::Folder { folder, .. } => {
                NewFolder::check(folder).await?;
                Some(folder.clone())
            }
            _ => None,
        };
        let recovery = Recovery {
            number: 0,
            state: RunState::Running,
            cause: Message::from(who),
            point: PointId::from_bytes(point.id.0),
            repository: known.repository.id,
            vm,
            vm_id: over.map(|id| id.0),
            in_place: over.is_some(),
            folder,
            started_at_ms: now_ms(),
            ended_at_ms: None,
            disks: Vec::new(),
            warnings: Warnings::default(),
            reason: None,
        };
        let entry = self.recovery.recoveries.begin(recovery).await?;
        self.steps.reached("recovery written down");
        let order = Order { known, point, wish, over, proof };
        tokio::spawn(conduct(self.clone(), Arc::clone(&entry), order));
        Ok(entry)
    }

    /// The machine that a point is of, which must be off.
    fn machine_of(&self, point: &Point) -> Result<(VmId, VmName)> {
        let refused = |why: &str| NodeError::NotRecoverable {
            point: point.short_id(),
            vm: point.name.to_string(),
            why: why.to_owned(),
        };
        let id = marks::vm_of(point).ok_or_else(|| refused("it does not say of which machine it is"))?;
        let handle = self.vms.find(&id.0.to_string());
        let absent = match point.name.as_str().contains('/') {
            true => {
                "its machine is inside another one, into which this host does not write; recover it as a new one here"
            }
            false => "its machine is not on this host; recover it as a new one",
        };
        let vm = handle.map_err(|_| refused(absent))?.now().vm;
        admit(vm.state, Operation::ModifyWhenOff)
            .map_err(|_| Asked::from(Operation::ModifyWhenOff).refuse(&vm, vm.state))?;
        if let Some(recovery) = self.recovery.unfinished.holder(id) {
            return Err(NodeError::Recovering { vm: vm.name.clone(), recovery });
        }
        Ok((id, vm.name.clone()))
    }

    /// The name that was given, or that the machine had. It is claimed for good later; here a slip is told at once.
    fn new_name(&self, given: Option<&VmName>, point: &Point) -> Result<VmName> {
        let name = match given {
            Some(name) => name.clone(),
            None => name_of(point)?,
        };
        match self.vms.claim_name(&name, self.vms.free_id()) {
            Ok(_) => Ok(name),
            Err(NodeError::Exists { object: Object::Vm, .. }) => {
                let has_it = self.vms.find(name.as_str()).ok().map(|handle| handle.now().vm.id);
                let is_own = has_it.is_some() && has_it == marks::vm_of(point);
                Err(NodeError::NameTaken { vm: name, is_own })
            }
            Err(error) => Err(error),
        }
    }

    fn recovery_view(&self, entry: &Entry) -> RecoveryView {
        let recovery = entry.recovery();
        let known = self.protection.repositories.get(recovery.repository);
        let mut warnings: Vec<String> =
            recovery.warnings.messages().iter().map(|message| message.as_str().to_owned()).collect();
        if recovery.warnings.left_out() > 0 {
            warnings.push(format!("and {} more", recovery.warnings.left_out()));
        }
        RecoveryView {
            number: recovery.number,
            state: recovery.state,
            cause: recovery.cause.to_string(),
            point: recovery.point.to_string(),
            repository: known
                .map_or_else(|| recovery.repository.0.to_string(), |k| k.repository.name.to_string()),
            vm: recovery.vm,
            vm_id: recovery.vm_id,
            in_place: recovery.in_place,
            folder: recovery.folder,
            started_at_ms: recovery.started_at_ms,
            ended_at_ms: recovery.ended_at_ms,
            disks: recovery.disks,
            warnings,
            reason: recovery.reason.map(|reason| reason.to_string()),
            progress: (!recovery.state.has_ended()).then(|| entry.progress()),
        }
    }
}

/// As its machine was called.
fn name_of(point: &Point) -> Result<VmName> {
    let path: nestling_model::VmPath = point.name.as_str().parse()?;
    Ok(path.split().1.clone())
}

fn check(wish: &RecoveryWish) -> Result<()> {
    if wish.disks.len() > DISKS_MAX {
        return Err(NodeError::Invalid(format!("a machine has at most {DISKS_MAX} disks")));
    }
    if wish.start && matches!(wish.whereto, Whereto::Folder { .. }) {
        return Err(NodeError::invalid("what is exported is no machine of this host, and cannot be started"));
    }
    let Whereto::AsNew { switches, no_switch, format, instant, .. } = &wish.whereto else { return Ok(()) };
    if switches.len() > ADAPTERS_MAX {
        return Err(NodeError::Invalid(format!("a machine has at most {ADAPTERS_MAX} network adapters")));
    }
    if *instant && format.is_some() {
        return Err(NodeError::invalid(
            "a machine that runs from the vault has disks of a format of their own",
        ));
    }
    if *no_switch && !switches.is_empty() {
        return Err(NodeError::invalid(
            "adapters are plugged into other switches, or into none, and not both",
        ));
    }
    Ok(())
}

//! Use cases about backups: to begin one, to see how far it is, to end it.

use std::sync::Arc;

use nestling_identity::{Action, Identity};
use nestling_model::{
    VmPath,
    protection::{
        Cause, DiskExclude, MachineRun, Message, PolicyInvalid, Run, RunId, policy::EXCLUDED_DISKS_MAX,
    },
};
use uuid::Uuid;

use super::{
    conduct::{Order, Way, conduct},
    guest,
    machine::Machine,
    marks::check_tags,
    runs::Entry,
    values::{BackupWish, RunView},
};
use crate::{Node, NodeError, error::Result, networks::to_the_end, node::Shared};

impl Node {
    /// Begins to back machines up, one after the other. The run is written down when this returns; it goes on by itself.
    pub async fn back_up(&self, who: &Identity, wish: BackupWish) -> Result<RunView> {
        self.authorize(who, Action::RunBackups)?;
        check(&wish)?;
        let (node, who) = (self.shared(), who.to_string());
        let entry = to_the_end(async move { node.begin_backup(&who, wish).await }).await?;
        Ok(self.run_view(&entry))
    }

    /// All runs, newest first; only those of a machine or a job, if one is given.
    pub async fn runs(&self, who: &Identity, vm: Option<&str>, job: Option<&str>) -> Result<Vec<RunView>> {
        self.authorize(who, Action::ReadBackups)?;
        // A machine that is no more is still named by its old runs.
        let id = vm.and_then(|vm| self.vms.find(vm).ok()).map(|handle| handle.now().vm.id);
        let job_id = job.and_then(|job| self.protection.jobs.find(job).ok()).map(|job| job.id);
        let is_jobs = |run: &Run| {
            job.is_none_or(|job| {
                let named = run.job_name.as_ref().is_some_and(|name| name.key() == job.to_lowercase());
                job_id.map_or(named, |id| run.job == Some(id))
            })
        };
        let is = |run: &Run| {
            vm.is_none_or(|vm| {
                run.machines.iter().any(|machine| {
                    Some(machine.id) == id || machine.path.to_string().to_lowercase() == vm.to_lowercase()
                })
            })
        };
        let views = self.protection.runs.all().into_iter().rev().map(|entry| self.run_view(&entry));
        Ok(views.filter(|view| is(&view.run) && is_jobs(&view.run)).collect())
    }

    pub async fn run(&self, who: &Identity, run: &str) -> Result<RunView> {
        self.authorize(who, Action::ReadBackups)?;
        let entry = self.protection.runs.find(run)?;
        Ok(self.run_view(&entry))
    }

    /// Asks a run to end. What it has saved of the machine under way serves the next run; there is no point of it.
    pub async fn cancel_run(&self, who: &Identity, run: &str) -> Result<RunView> {
        self.authorize(who, Action::RunBackups)?;
        let entry = self.protection.runs.find(run)?;
        let Run { state, number, .. } = entry.run();
        if state.has_ended() {
            return Err(NodeError::Ended { what: "run", number });
        }
        entry.cancel.cancel();
        Ok(self.run_view(&entry))
    }

    pub(super) fn run_view(&self, entry: &Entry) -> RunView {
        let run = entry.run();
        let known = self.protection.repositories.get(run.repository);
        let repository =
            known.map_or_else(|| run.repository.0.to_string(), |known| known.repository.name.to_string());
        let progress = if run.state.has_ended() { Vec::new() } else { entry.progress() };
        RunView { progress, repository, run }
    }
}

fn check(wish: &BackupWish) -> Result<()> {
    wish.consistency.validate().map_err(PolicyInvalid::Consistency)?;
    guest::check_possible(&wish.consistency)?;
    wish.keep.validate().map_err(PolicyInvalid::Retention)?;
    if let Some(retention) = &wish.retention {
        retention.validate().map_err(PolicyInvalid::Retention)?;
    }
    if wish.excluded_disks.len() > EXCLUDED_DISKS_MAX {
        return Err(PolicyInvalid::ExcludedDisks.into());
    }
    if wish.vms.is_empty() {
        return Err(NodeError::invalid("no virtual machine was named"));
    }
    check_tags(&wish.tags)
}

impl Shared {
    /// A machine of this host by its name or id, or one inside another by its path.
    async fn named(&self, name: &str) -> Result<(Machine, VmPath)> {
        if !name.contains('/') {
            let handle = self.vms.find(name)?;
            let path = handle.now().vm.name.as_str().parse()?;
            return Ok((Machine::Own(handle), path));
        }
        let (inside, ..) = self.find_inside(&name.parse()?).await?;
        let path = inside.path.clone();
        Ok((Machine::Inside(inside), path))
    }

    async fn begin_backup(self: Arc<Self>, who: &str, wish: BackupWish) -> Result<Arc<Entry>> {
        let known = self.protection.repositories.chosen(wish.repository.as_deref())?;
        let mut machines: Vec<(Machine, VmPath)> = Vec::new();
        for name in &wish.vms {
            let (machine, path) = self.named(name).await?;
            if machines.iter().any(|(other, _)| other.id() == machine.id()) {
                return Err(NodeError::Invalid(format!("'{path}' was named twice")));
            }
            machines.push((machine, path));
        }
        let parts = machines.iter().map(|(machine, path)| MachineRun::new(path.clone(), machine.id()));
        let causes = vec![Cause::Person { name: Message::from(who) }];
        let (id, parts) = (RunId(Uuid::new_v4()), parts.collect());
        let run = Run::waiting(id, causes, known.repository.id, parts, self.now_ms());
        let entry = self.protection.runs.begin(run).await?;
        self.steps.reached("run written down");
        let everywhere = |disk| DiskExclude { machine: None, disk };
        let way = Way {
            consistency: wish.consistency,
            excluded_disks: wish.excluded_disks.into_iter().map(everywhere).collect(),
            full: wish.full,
            tags: wish.tags,
            keep: wish.keep,
            retention: wish.retention,
            pace: None,
        };
        let order = Order { known, way, machines, parallel: 1, job: None };
        tokio::spawn(conduct(Arc::clone(&self), Arc::clone(&entry), order));
        Ok(entry)
    }
}

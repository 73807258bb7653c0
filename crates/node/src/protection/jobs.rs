//! The jobs of this host, and the use cases about them: to make, see, change and remove them.
//!
//! A job is a document; a change is durable before it is seen, and wakes the scheduler. What the words of a job allow and this
//! host cannot do is refused here, in [`check_possible`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock},
};

use nestling_identity::{Action, Identity};
use nestling_model::{
    EventKind, JobName,
    protection::{
        After, Candidate, CopyTo, DiskExclude, Fact, Job, JobId, JobPolicy, Keep, Known, Notice, Recipient,
        Repository, RepositoryId, Run, Selection,
    },
};
use tokio::sync::{Mutex, MutexGuard, Notify};
use uuid::Uuid;

use super::{
    candidates::looks_at_disks,
    guest,
    job_error::JobError,
    job_values::{JobAfter, JobCopy, JobRun, JobSettings, JobView},
    objectives,
};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    networks::to_the_end,
    node::Shared,
};

#[derive(Default)]
pub struct Jobs {
    all: RwLock<BTreeMap<JobId, Job>>,
    /// Held by whoever changes them.
    turn: Mutex<()>,
    /// Something happened that the scheduler has to look at.
    pub changed: Notify,
}

impl Jobs {
    pub fn new(stored: Vec<Job>) -> Self {
        let all = stored.into_iter().map(|job| (job.id, job)).collect();
        Self { all: RwLock::new(all), ..Self::default() }
    }

    /// By name.
    pub fn all(&self) -> Vec<Job> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Job> = all.values().cloned().collect();
        all.sort_by_cached_key(|job| job.name.key());
        all
    }

    /// By name, or by the text of its id.
    pub fn find(&self, name: &str) -> Result<Job> {
        let by_id = Uuid::parse_str(name).ok().map(JobId);
        let parsed: Option<JobName> = name.parse().ok();
        let is = |job: &Job| parsed.as_ref() == Some(&job.name) || by_id == Some(job.id);
        let missing = || NodeError::NotFound { object: Object::Job, name: name.chars().take(120).collect() };
        self.all().into_iter().find(is).ok_or_else(missing)
    }

    fn set(&self, job: Job) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(job.id, job);
    }

    fn drop(&self, id: JobId) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Keeps all jobs as they are while it is held.
    pub async fn hold(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// A job that tells by mail how it went.
    pub fn sending_mail(&self) -> Option<Job> {
        self.all().into_iter().find(|job| job.policy.sends_mail())
    }

    /// A job that saves or copies to a repository.
    pub fn using(&self, repository: RepositoryId) -> Option<Job> {
        let uses = |job: &Job| {
            job.policy.repository == repository
                || job.policy.copies.iter().any(|copy| copy.repository == repository)
        };
        self.all().into_iter().find(uses)
    }
}

impl Node {
    pub async fn jobs(&self, who: &Identity) -> Result<Vec<JobView>> {
        self.authorize(who, Action::ReadBackups)?;
        Ok(self.job_views(self.protection.jobs.all()).await)
    }

    pub async fn job(&self, who: &Identity, job: &str) -> Result<JobView> {
        self.authorize(who, Action::ReadBackups)?;
        let job = self.protection.jobs.find(job)?;
        self.job_view(job).await
    }

    pub async fn create_job(&self, who: &Identity, name: JobName, settings: JobSettings) -> Result<JobView> {
        self.authorize(who, Action::ChangeJobs)?;
        let node = self.shared();
        let job = to_the_end(async move { node.create_job(name, settings).await }).await?;
        self.job_view(job).await
    }

    pub async fn change_job(
        &self,
        who: &Identity,
        job: &str,
        name: Option<JobName>,
        settings: JobSettings,
    ) -> Result<JobView> {
        self.authorize(who, Action::ChangeJobs)?;
        let (node, job) = (self.shared(), job.to_owned());
        let job = to_the_end(async move { node.change_job(&job, name, settings).await }).await?;
        self.job_view(job).await
    }

    /// Removes a job that is not under way and that no other one follows. What it saved stays, and so do its runs.
    pub async fn remove_job(&self, who: &Identity, job: &str) -> Result<()> {
        self.authorize(who, Action::ChangeJobs)?;
        let (node, job) = (self.shared(), job.to_owned());
        to_the_end(async move { node.remove_job(&job).await }).await
    }

    async fn job_view(&self, job: Job) -> Result<JobView> {
        let missing = || NodeError::Internal("a job has no view".to_owned());
        self.job_views(vec![job]).await.pop().ok_or_else(missing)
    }

    async fn job_views(&self, jobs: Vec<Job>) -> Vec<JobView> {
        let (runs, now_ms) = (self.protection.runs.documents(), self.now_ms());
        let with_disks = jobs.iter().any(|job| job.policy.objective.is_some() && looks_at_disks(job));
        let machines = self.candidates(with_disks).await;
        jobs.into_iter().map(|job| self.view_of(job, &machines, &runs, now_ms)).collect()
    }

    fn view_of(&self, job: Job, machines: &[Candidate], runs: &[Run], now_ms: u64) -> JobView {
        let repository = |id: RepositoryId| {
            let known = self.protection.repositories.get(id);
            known.map_or_else(|| id.0.to_string(), |known| known.repository.name.to_string())
        };
        let names: HashMap<JobId, String> =
            self.protection.jobs.all().into_iter().map(|job| (job.id, job.name.to_string())).collect();
        let own = || runs.iter().filter(|run| run.job == Some(job.id));
        let last = own().filter(|run| run.state.has_ended()).max_by_key(|run| run.number);
        let machines = [machines, &self.remembered_inside(job.id, runs)].concat();
        JobView {
            repository: repository(job.policy.repository),
            copies: job.policy.copies.iter().map(|copy| repository(copy.repository)).collect(),
            after: job
                .policy
                .after
                .iter()
                .map(|after| names.get(&after.job).cloned().unwrap_or_else(|| after.job.0.to_string()))
                .collect(),
            next_ms: job.next_ms(now_ms),
            running: own().find(|run| !run.state.has_ended()).map(|run| run.number),
            last: last.map(|run| JobRun {
                number: run.number,
                state: run.state,
                ended_at_ms: run.ended_at_ms,
            }),
            missed: objectives::missed(&job, &machines, runs, |vm| self.born_ms(vm), now_ms),
            job,
        }
    }
}

impl Shared {
    async fn create_job(&self, name: JobName, settings: JobSettings) -> Result<Job> {
        let _turn = self.protection.jobs.turn.lock().await;
        let repository = self.protection.repositories.chosen(settings.repository.as_deref())?;
        let now_ms = self.now_ms();
        let mut job = Job {
            id: JobId(Uuid::new_v4()),
            name,
            notes: String::new(),
            enabled: true,
            selection: Selection::default(),
            policy: JobPolicy::new(repository.repository.id),
            schedule: None,
            created_at_ms: now_ms,
            active_from_ms: now_ms,
        };
        self.apply(settings, &mut job)?;
        self.keep_job(job, "job added").await
    }

    async fn change_job(&self, job: &str, name: Option<JobName>, settings: JobSettings) -> Result<Job> {
        let _turn = self.protection.jobs.turn.lock().await;
        let before = self.protection.jobs.find(job)?;
        let mut job = before.clone();
        job.name = name.unwrap_or(job.name);
        self.apply(settings, &mut job)?;
        let begins_anew = job.enabled && !before.enabled
            || job.schedule != before.schedule
            || job.policy.after != before.policy.after;
        if begins_anew {
            job.active_from_ms = self.now_ms();
        }
        self.keep_job(job, "job changed").await
    }

    async fn keep_job(&self, job: Job, what: &str) -> Result<Job> {
        check_possible(&job)?;
        let jobs = self.protection.jobs.all();
        let repositories: Vec<Repository> =
            self.protection.repositories.all().into_iter().map(|known| known.repository).collect();
        let known = Known { jobs: &jobs, repositories: &repositories };
        job.validate(&known).map_err(JobError::from)?;
        if job.policy.sends_mail() && self.protection.mail.server().is_none() {
            return Err(JobError::NoMailServer.into());
        }
        self.keeper.put(&job).await?;
        self.protection.jobs.set(job.clone());
        self.events.tell(EventKind::JobChanged, job.name.as_str(), what);
        self.protection.jobs.changed.notify_one();
        Ok(job)
    }

    async fn remove_job(&self, job: &str) -> Result<()> {
        let jobs = &self.protection.jobs;
        let _turn = jobs.turn.lock().await;
        let job = jobs.find(job)?;
        if let Some(run) = self.protection.runs.of_job(job.id) {
            return Err(JobError::Runs { job: job.name, run }.into());
        }
        let follows = |other: &Job| other.policy.after.iter().any(|after| after.job == job.id);
        if let Some(by) = jobs.all().into_iter().find(follows) {
            return Err(JobError::Followed { job: job.name, by: by.name }.into());
        }
        self.keeper.delete::<Job>(job.id.0.to_string()).await?;
        jobs.drop(job.id);
        self.events.tell(EventKind::JobRemoved, job.name.as_str(), "job removed; its recovery points stay");
        jobs.changed.notify_one();
        Ok(())
    }

    /// Takes what is given, and finds what is named.
    fn apply(&self, settings: JobSettings, job: &mut Job) -> Result<()> {
        fn take<T>(new: Option<T>, old: &mut T) {
            if let Some(new) = new {
                *old = new;
            }
        }
        let repository = |name: &str| -> Result<RepositoryId> {
            Ok(self.protection.repositories.find(name)?.repository.id)
        };
        let (selection, policy) = (&mut job.selection, &mut job.policy);
        take(settings.notes, &mut job.notes);
        take(settings.enabled, &mut job.enabled);
        take(settings.schedule, &mut job.schedule);
        take(settings.include, &mut selection.include);
        take(settings.exclude, &mut selection.exclude);
        take(settings.rules, &mut selection.rules.rules);
        take(settings.join, &mut selection.rules.join);
        take(settings.repository.as_deref().map(repository).transpose()?, &mut policy.repository);
        take(settings.retention, &mut policy.retention);
        take(settings.keep, &mut policy.keep);
        take(settings.consistency, &mut policy.consistency);
        let everywhere = |disk| DiskExclude { machine: None, disk };
        let excluded = settings.excluded_disks.map(|disks| disks.into_iter().map(everywhere).collect());
        take(excluded, &mut policy.excluded_disks);
        take(settings.bytes_per_second_max, &mut policy.bytes_per_second_max);
        take(settings.parallel, &mut policy.parallel);
        take(settings.order, &mut policy.order);
        let after = |after: JobAfter| -> Result<After> {
            Ok(After { job: self.protection.jobs.find(&after.job)?.id, end: after.end })
        };
        let followed = settings.after.map(|all| all.into_iter().map(after).collect::<Result<_>>());
        take(followed.transpose()?, &mut policy.after);
        let before = policy.copies.clone();
        let copy = |copy: JobCopy| -> Result<CopyTo> {
            let (repository, retention) = (repository(&copy.repository)?, copy.retention);
            // Nobody can say how points are marked there, so that it stays as it is.
            let keep = before.iter().find(|copy| copy.repository == repository).map(|copy| copy.keep);
            Ok(CopyTo { repository, retention, keep: keep.unwrap_or(Keep::ByRules) })
        };
        let copies = settings.copies.map(|all| all.into_iter().map(copy).collect::<Result<_>>());
        take(copies.transpose()?, &mut policy.copies);
        take(settings.scripts_before, &mut policy.scripts_before);
        take(settings.scripts_after, &mut policy.scripts_after);
        if let Some(hooks) = settings.webhooks {
            policy.notices.retain(|notice| matches!(notice.to, Recipient::Mail { .. }));
            policy.notices.splice(..0, hooks);
        }
        if let Some(mails) = settings.mails {
            policy.notices.retain(|notice| matches!(notice.to, Recipient::Webhook { .. }));
            policy.notices.extend(mails);
        }
        take(settings.objective, &mut policy.objective);
        take(settings.proving, &mut policy.proving);
        Ok(())
    }
}

/// Refuses what the words of a job allow and this host cannot do, so that nothing is promised silently.
fn check_possible(job: &Job) -> Result<()> {
    guest::check_possible(&job.policy.consistency)?;
    let is_signed = |notice: &Notice| matches!(notice.to, Recipient::Webhook { secret: Some(_), .. });
    if job.policy.notices.iter().any(is_signed) {
        return Err(NodeError::invalid("what is sent to webhooks is not signed"));
    }
    if job.selection.rules.rules.iter().any(|rule| matches!(rule.fact(), Fact::Image(_))) {
        return Err(NodeError::invalid("it is not known which images a machine's disks were made from"));
    }
    Ok(())
}

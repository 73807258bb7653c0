//! Use cases about proofs: to begin one, to see how far it is and what it found, to end it.

use std::sync::Arc;

use nestling_identity::{Action, Identity};
use nestling_model::{
    VmPath,
    protection::{
        Job, Message, PointId, PointProof, ProofRun, RunState, Signs, SignsInvalid, Warnings,
        proof::{PROOF_PARALLEL_MAX, PROOF_POINTS_MAX},
    },
};
use nestling_vault::Point;

use super::{
    book::Entry,
    choose::{Chosen, identity},
    conduct::{Order, conduct},
    values::{ProofView, ProofWish},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    error::{Object, Result},
    networks::to_the_end,
    protection::{marks, repositories::Known, saving::milliseconds},
};

/// Why points are proven, and how.
pub struct Cause {
    pub text: Message,
    pub job: Option<Job>,
    pub signs: Signs,
    pub parallel: usize,
}

impl From<SignsInvalid> for NodeError {
    fn from(error: SignsInvalid) -> Self {
        Self::Invalid(match std::error::Error::source(&error) {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        })
    }
}

impl Node {
    /// Begins to prove recovery points. The proof is written down when this returns; it goes on by itself.
    pub async fn prove(&self, who: &Identity, wish: ProofWish) -> Result<ProofView> {
        for action in [Action::ReadBackups, Action::CreateVm, Action::OperateVm, Action::RemoveVm] {
            self.authorize(who, action)?;
        }
        if wish.signs.in_guest.is_some() {
            self.authorize(who, Action::UseGuest)?;
        }
        if wish.signs.on_host.is_some() {
            self.authorize(who, Action::ChangeJobs)?;
        }
        check(&wish)?;
        let (node, text) = (self.clone(), Message::from(who.to_string()));
        let entry = to_the_end(async move {
            let Chosen { known, points, job } = node.choose(&wish).await?;
            let parallel = usize::try_from(wish.parallel).unwrap_or(1);
            node.begin_proof(known, points, Cause { text, job, signs: wish.signs, parallel }).await
        })
        .await?;
        Ok(self.proof_view(&entry))
    }

    /// All proofs, newest first.
    pub async fn proofs(&self, who: &Identity) -> Result<Vec<ProofView>> {
        self.authorize(who, Action::ReadBackups)?;
        Ok(self.proof.book.all().iter().rev().map(|entry| self.proof_view(entry)).collect())
    }

    pub async fn proof(&self, who: &Identity, number: &str) -> Result<ProofView> {
        self.authorize(who, Action::ReadBackups)?;
        let entry = self.proof.book.find(number)?;
        Ok(self.proof_view(&entry))
    }

    /// Asks a proof to end. The machines that it runs go.
    pub async fn cancel_proof(&self, who: &Identity, number: &str) -> Result<ProofView> {
        self.authorize(who, Action::ReadBackups)?;
        self.authorize(who, Action::RemoveVm)?;
        let entry = self.proof.book.find(number)?;
        if entry.run().state.has_ended() {
            return Err(NodeError::Ended { what: "proof", number: entry.number() });
        }
        entry.cancel.cancel();
        Ok(self.proof_view(&entry))
    }

    /// The picture of a machine's screen, as PNG; `point` counts from 0.
    pub async fn proof_screen(&self, who: &Identity, number: &str, point: usize) -> Result<Vec<u8>> {
        self.authorize(who, Action::ReadBackups)?;
        let entry = self.proof.book.find(number)?;
        if !entry.run().points.get(point).is_some_and(|point| point.has_screen) {
            let name = format!("{}: it has no picture of point {point}", entry.number());
            return Err(NodeError::NotFound { object: Object::Proof, name });
        }
        let path = self.proof.book.picture(entry.number(), point);
        blocking(move || std::fs::read(&path).map_err(NodeError::io("read", path))).await
    }

    pub(crate) async fn begin_proof(
        &self,
        known: Known,
        points: Vec<Point>,
        cause: Cause,
    ) -> Result<Arc<Entry>> {
        // Points of other programs may have names that no machine has.
        let points: Vec<(Point, VmPath)> = points
            .into_iter()
            .filter_map(|point| point.name.as_str().parse().ok().map(|path| (point, path)))
            .collect();
        if points.is_empty() || points.len() > PROOF_POINTS_MAX {
            return Err(NodeError::Invalid(format!(
                "a proof is of 1 to {PROOF_POINTS_MAX} recovery points; these are {}",
                points.len()
            )));
        }
        let run = ProofRun {
            number: 0,
            state: RunState::Running,
            cause: cause.text,
            job: cause.job.map(|job| job.id),
            repository: known.repository.id,
            signs: cause.signs,
            started_at_ms: self.now_ms(),
            ended_at_ms: None,
            points: points.iter().map(|(point, path)| waiting(point, path)).collect(),
        };
        let entry = self.proof.book.begin(run).await?;
        self.steps.reached("proof written down");
        let points = points.into_iter().map(|(point, _)| point).collect();
        let order = Order { known, points, parallel: cause.parallel };
        tokio::spawn(conduct(self.clone(), Arc::clone(&entry), order));
        Ok(entry)
    }

    fn proof_view(&self, entry: &Entry) -> ProofView {
        let run = entry.run();
        let known = self.protection.repositories.get(run.repository);
        let repository =
            known.map_or_else(|| run.repository.0.to_string(), |k| k.repository.name.to_string());
        let job = run.job.map(|id| {
            let job = self.protection.jobs.find(&id.0.to_string());
            job.map_or_else(|_| id.0.to_string(), |job| job.name.to_string())
        });
        let progress = if run.state.has_ended() { Vec::new() } else { entry.progress() };
        ProofView { repository, job, progress, run }
    }
}

fn check(wish: &ProofWish) -> Result<()> {
    wish.signs.validate()?;
    if wish.parallel == 0 || wish.parallel > PROOF_PARALLEL_MAX {
        return Err(NodeError::Invalid(format!(
            "a proof runs 1 to {PROOF_PARALLEL_MAX} machines at once; {} were asked for",
            wish.parallel
        )));
    }
    if wish.machines.len() > PROOF_POINTS_MAX || wish.points.len() > PROOF_POINTS_MAX {
        return Err(NodeError::Invalid(format!("a proof is of at most {PROOF_POINTS_MAX} recovery points")));
    }
    if wish.machines.is_empty() && wish.points.is_empty() && wish.job.is_none() {
        return Err(NodeError::invalid("no machine, no point and no job was named"));
    }
    Ok(())
}

fn waiting(point: &Point, path: &VmPath) -> PointProof {
    PointProof {
        machine: path.clone(),
        machine_id: marks::vm_of(point),
        point: PointId::from_bytes(point.id.0),
        identity: identity(point),
        taken_at_ms: milliseconds(point.snapshot.time),
        state: RunState::Waiting,
        started_at_ms: None,
        ended_at_ms: None,
        ready_ms: None,
        seen: None,
        reason: None,
        warnings: Warnings::default(),
        console: Vec::new(),
        has_screen: false,
    }
}

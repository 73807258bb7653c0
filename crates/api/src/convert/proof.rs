use nestling_model::protection as model;
use nestling_node as node;
use node::NodeError;

use super::{protection::texts, read};
use crate::v1;

impl From<v1::ProofSigns> for model::Signs {
    fn from(signs: v1::ProofSigns) -> Self {
        let v1::ProofSigns { agent, console, ports, in_guest, on_host, seconds_max } = signs;
        Self {
            agent,
            console,
            ports,
            in_guest: in_guest.map(Into::into),
            on_host: on_host.map(Into::into),
            seconds_max: seconds_max.unwrap_or(Self::default().seconds_max),
        }
    }
}

impl From<model::Signs> for v1::ProofSigns {
    fn from(signs: model::Signs) -> Self {
        let model::Signs { agent, console, ports, in_guest, on_host, seconds_max } = signs;
        Self {
            agent,
            console,
            ports,
            in_guest: in_guest.map(Into::into),
            on_host: on_host.map(Into::into),
            seconds_max: Some(seconds_max),
        }
    }
}

pub(super) fn proving(proof: v1::JobProof) -> Option<model::Proving> {
    let v1::JobProof { enabled, signs, every_hours } = proof;
    enabled.then(|| model::Proving { signs: signs.into(), every_hours })
}

pub(super) fn shown_proving(proving: Option<&model::Proving>) -> v1::JobProof {
    let Some(model::Proving { signs, every_hours }) = proving.cloned() else {
        return v1::JobProof::default();
    };
    v1::JobProof { enabled: true, signs: signs.into(), every_hours }
}

impl TryFrom<v1::NewProof> for node::ProofWish {
    type Error = NodeError;

    fn try_from(new: v1::NewProof) -> Result<Self, NodeError> {
        Ok(Self {
            machines: new.vms.iter().map(|text| read("name of machines", text)).collect::<Result<_, _>>()?,
            job: new.job,
            points: new.points,
            repository: new.repository,
            signs: new.signs.into(),
            parallel: new.parallel.unwrap_or(1),
        })
    }
}

impl From<model::Proof> for v1::PointVerdict {
    fn from(proof: model::Proof) -> Self {
        let model::Proof { at_ms, passed, message } = proof;
        Self { at_ms, passed, message: message.into() }
    }
}

fn point(point: model::PointProof, progress: &[node::ProofProgress]) -> v1::PointProof {
    let now = progress.iter().find(|at| at.machine == point.machine && !point.state.has_ended());
    let warnings = texts(&point.warnings);
    v1::PointProof {
        vm: point.machine.to_string(),
        vm_id: point.machine_id.map(|id| id.0),
        point: point.point.to_string(),
        taken_at_ms: point.taken_at_ms,
        state: point.state.into(),
        started_at_ms: point.started_at_ms,
        ended_at_ms: point.ended_at_ms,
        ready_ms: point.ready_ms,
        seen: point.seen.map(Into::into),
        reason: point.reason.map(Into::into),
        warnings,
        console: point.console.into_iter().map(Into::into).collect(),
        has_screen: point.has_screen,
        stage: now.map(|at| at.stage.to_owned()),
    }
}

impl From<node::ProofView> for v1::Proof {
    fn from(view: node::ProofView) -> Self {
        let node::ProofView { run, repository, job, progress } = view;
        Self {
            number: run.number,
            state: run.state.into(),
            cause: run.cause.into(),
            job,
            repository,
            signs: run.signs.into(),
            started_at_ms: run.started_at_ms,
            ended_at_ms: run.ended_at_ms,
            points: run.points.into_iter().map(|one| point(one, &progress)).collect(),
        }
    }
}

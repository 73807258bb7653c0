//! Values for tests.

use uuid::Uuid;

use super::{
    id::{JobId, PointId, RepositoryId, RunId},
    job::Job,
    point::RecoveryPoint,
    policy::JobPolicy,
    repository::Repository,
    run::{Cause, MachineRun, Run},
    run_state::RunState,
    selection::{Candidate, Selection},
};
use crate::{
    life::VmState,
    vm::{Generation, VmId},
};

pub fn job_id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

pub fn repository() -> Repository {
    Repository {
        id: RepositoryId(Uuid::from_u128(1)),
        name: "main".parse().expect("a name"),
        location: "/srv/vault".parse().expect("a location"),
        upload_bytes_per_second_max: None,
        append_only: false,
        created_at_ms: 0,
    }
}

pub fn job(number: u128) -> Job {
    Job {
        id: job_id(number),
        name: format!("job{number}").parse().expect("a name"),
        notes: String::new(),
        enabled: true,
        selection: Selection { include: vec!["*".parse().expect("a pattern")], ..Selection::default() },
        policy: JobPolicy::new(repository().id),
        schedule: None,
        created_at_ms: 0,
        active_from_ms: 0,
    }
}

/// A machine that is the same but for its path, and an id made of it.
pub fn candidate(path: &str) -> Candidate {
    let id = path.bytes().fold(0_u128, |id, byte| id << 8 | u128::from(byte));
    Candidate {
        id: VmId(Uuid::from_u128(id)),
        path: path.parse().expect("a path"),
        tags: vec!["prod".parse().expect("a tag")],
        state: VmState::Running,
        memory_bytes: 2 << 30,
        disk_bytes: 40 << 30,
        processors: 2,
        generation: Generation::Two,
        switches: vec!["LAN".to_owned()],
        images: vec!["debian".to_owned()],
        nesting: false,
    }
}

pub fn machine_run() -> MachineRun {
    MachineRun::new("web01".parse().expect("a path"), VmId(Uuid::from_u128(5)))
}

/// A run of a job that a person asked for; its id is made of its number.
pub fn run(number: u64, job: u128) -> Run {
    Run {
        id: RunId(Uuid::from_u128(u128::from(number))),
        number,
        job: Some(job_id(job)),
        job_name: None,
        causes: vec![Cause::Person { name: "admin".into() }],
        repository: repository().id,
        created_at_ms: 0,
        started_at_ms: None,
        ended_at_ms: None,
        state: RunState::Waiting,
        machines: Vec::new(),
        warnings: super::Warnings::default(),
        reason: None,
        untold: false,
    }
}

pub fn point() -> RecoveryPoint {
    RecoveryPoint {
        id: PointId::from_bytes([7; 32]),
        repository: repository().id,
        machine: "web01".parse().expect("a path"),
        machine_id: None,
        taken_at_ms: 0,
        job: None,
        run: None,
        consistency: None,
        disks: Vec::new(),
        new_bytes: 0,
        stored_bytes: 0,
        pinned: false,
        protected_until_ms: None,
        damaged: false,
        proof: None,
        warnings: super::Warnings::default(),
    }
}

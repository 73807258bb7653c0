//! A disk that reads what it lacks from elsewhere gets all of it, while the guest goes on: QEMU's `block-stream`.
//!
//! The job stays when it has ended, until it is dismissed: so a node that was away learns how it ended. An engine that ends
//! meanwhile loses no byte that was brought over, and the next one goes on from there.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Machine, MachineError};
use crate::{capture::DiskPlace, qmp::QmpError};

/// How far a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamState {
    /// Nobody asked for it.
    None,
    Runs {
        done: u64,
        total: u64,
    },
    /// Something could not be read; it goes on when it is told to.
    Waits,
    /// It has all, or why not.
    Ended(Result<(), String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Job {
    id: String,
    status: String,
    #[serde(default)]
    current_progress: u64,
    #[serde(default)]
    total_progress: u64,
    #[serde(default)]
    error: Option<String>,
}

fn job_name(disk: DiskPlace) -> String {
    format!("stream-{disk}")
}

fn state_of(answer: Value, disk: DiskPlace) -> Result<StreamState, QmpError> {
    let nonsense = |why: serde_json::Error| QmpError::Nonsense {
        command: "query-jobs".to_owned(),
        why: why.to_string(),
    };
    let jobs: Vec<Job> = serde_json::from_value(answer).map_err(nonsense)?;
    let Some(job) = jobs.into_iter().find(|job| job.id == job_name(disk)) else {
        return Ok(StreamState::None);
    };
    Ok(match (job.status.as_str(), job.error) {
        ("concluded" | "null" | "aborting", Some(why)) => StreamState::Ended(Err(why)),
        ("concluded" | "null", None) => StreamState::Ended(Ok(())),
        ("paused", _) => StreamState::Waits,
        _ => StreamState::Runs { done: job.current_progress, total: job.total_progress },
    })
}

impl Machine {
    /// Begins to bring over what the disk lacks.
    pub async fn begin_stream(&self, disk: DiskPlace) -> Result<(), MachineError> {
        let arguments = json!({"job-id": job_name(disk), "device": disk.to_string(), "auto-dismiss": false, "on-error": "stop"});
        self.execute("block-stream", arguments).await.map(drop)
    }

    pub async fn resume_stream(&self, disk: DiskPlace) -> Result<(), MachineError> {
        self.execute("block-job-resume", json!({"device": job_name(disk)})).await.map(drop)
    }

    pub async fn stream_state(&self, disk: DiskPlace) -> Result<StreamState, MachineError> {
        let answer = self.execute("query-jobs", json!({})).await?;
        state_of(answer, disk).map_err(MachineError::Qmp)
    }

    /// Forgets a job that has ended.
    pub async fn dismiss_stream(&self, disk: DiskPlace) -> Result<(), MachineError> {
        self.execute("job-dismiss", json!({"id": job_name(disk)})).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use nestling_model::Controller;

    use super::*;

    #[test]
    fn a_job_is_told_apart_by_its_disk_and_its_end() {
        let disk = DiskPlace { controller: Controller::Scsi, location: 1 };
        let job = |id: &str, status: &str, more: Value| {
            let mut job = json!({"id": id, "type": "stream", "status": status, "current-progress": 5, "total-progress": 9});
            job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            state_of(json!([job]), disk).unwrap()
        };
        let (none, failed) = (json!({}), json!({"error": "no"}));
        assert_eq!(job("stream-scsi-1", "running", none.clone()), StreamState::Runs { done: 5, total: 9 });
        assert_eq!(job("stream-scsi-1", "concluded", none.clone()), StreamState::Ended(Ok(())));
        assert_eq!(job("stream-scsi-1", "concluded", failed), StreamState::Ended(Err("no".into())));
        assert_eq!(job("stream-scsi-1", "paused", json!({})), StreamState::Waits);
        assert_eq!(job("stream-scsi-0", "running", none), StreamState::None);
        assert!(state_of(json!({}), disk).is_err());
    }
}

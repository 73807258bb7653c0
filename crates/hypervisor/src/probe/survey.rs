//! Finds out what this host can do: reads the facts, tries models under KVM until one is proven, remembers the proof.

use std::path::Path;

use super::decide::{Engine, NoEngine, Trial, decide, next_candidate};
use super::facts::HostFacts;
use super::record::{ProbeKey, Remembered};
use super::run::probe;
use super::{Accel, ProbeOutcome, ProbeRequest};
use crate::Qemu;

/// What was found, from which [`Survey::engine`] follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub facts: HostFacts,
    pub trials: Vec<Trial>,
}

impl Survey {
    /// Looks at this host. Proofs are remembered in `dir`; without one, everything is proven anew.
    pub async fn take(qemu: &Qemu, dir: Option<&Path>) -> Self {
        let facts = HostFacts::read();
        let mut remembered = dir.map(Remembered::load).unwrap_or_default();
        let mut trials = Vec::new();
        while let Some((model, cpu)) = next_candidate(&facts, &trials) {
            let request = ProbeRequest {
                qemu: qemu.system().to_owned(),
                accel: Accel::Kvm,
                cpu,
                nesting: facts.vendor.nesting(),
                deadline: if facts.is_guest() {
                    ProbeRequest::DEADLINE_NESTED
                } else {
                    ProbeRequest::DEADLINE
                },
            };
            let key = ProbeKey::new(&facts, qemu.said(), &request);
            let outcome =
                if remembered.contains(&key) { ProbeOutcome::Proven } else { probe(&request).await };
            tracing::info!(model, %outcome, "probed KVM");
            // A QEMU that was replaced meanwhile has proven nothing under the version that was asked before.
            if outcome == ProbeOutcome::Proven && !remembered.contains(&key) && qemu.is_current() {
                remembered.add(key);
                if let Some(Err(error)) = dir.map(|dir| remembered.store(dir)) {
                    tracing::warn!(%error, "cannot remember that KVM was proven");
                }
            }
            trials.push(Trial { model: model.to_owned(), outcome });
        }
        Self { facts, trials }
    }

    /// The engine for VMs that want the extensions, or for VMs that do not.
    pub fn engine(&self, nesting_wanted: bool) -> Result<Engine, NoEngine> {
        decide(&self.facts, &self.trials, nesting_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_host_gets_an_engine_whose_processor_runs_the_guest() {
        let qemu = match Qemu::find(None, None).await {
            Ok(qemu) => qemu,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let survey = Survey::take(&qemu, Some(dir.path())).await;
        let engine = survey.engine(true).unwrap();
        eprintln!("{:?}\n{engine:?}", survey.trials);
        let request = ProbeRequest {
            qemu: qemu.system().to_owned(),
            accel: engine.accel,
            cpu: engine.cpu(true),
            nesting: engine.nesting,
            deadline: ProbeRequest::DEADLINE_NESTED,
        };
        assert_eq!(probe(&request).await, ProbeOutcome::Proven);
        assert_eq!(Survey::take(&qemu, Some(dir.path())).await.engine(true).unwrap(), engine);
    }
}

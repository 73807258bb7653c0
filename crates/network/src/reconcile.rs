//! Reaching a state: read, plan, apply; undo all when a step fails.
//!
//! What does it is behind [`Host`], so that tests can put a simulated kernel there, or one that fails
//! at a chosen step.

use std::io;

use tracing::{debug, warn};

use crate::{
    desired::{Outcome, Problem},
    diff::{Step, diff},
    error::NetworkError,
    kernel::StepError,
    nft::NftError,
    state::{Rules, State},
};

/// The kernel may do more than it was asked for (an address that goes takes others along), so the
/// result is read again, and the rest done in another round.
const ROUNDS: usize = 4;

pub(crate) trait Host {
    async fn read(&mut self) -> io::Result<State>;
    async fn apply(&mut self, step: &Step) -> Result<(), StepError>;
    /// The rules in force, as text, when [`Host::read`] found them unknown.
    async fn saved_rules(&mut self) -> Result<Rules, StepError>;
}

/// Makes the host's state what `wanted` makes of it. On failure the former state is back.
pub(crate) async fn reach(
    host: &mut impl Host,
    wanted: impl Fn(&State) -> (State, Vec<Problem>),
) -> Result<Outcome, NetworkError> {
    let mut outcome = Outcome::default();
    let mut origin: Option<State> = None;
    for _ in 0..ROUNDS {
        let now = read(host).await?;
        let (goal, problems) = wanted(&now);
        let steps = diff(&now, &goal);
        outcome.problems = problems;
        // Rules that were loaded a moment ago and read as unknown: someone else changed theirs.
        let loads_only = steps.iter().all(|s| matches!(s, Step::LoadRules { .. }));
        if steps.is_empty() || (origin.is_some() && loads_only) {
            return Ok(outcome);
        }
        let before = match &mut origin {
            Some(before) => before,
            None => origin.insert(remember(host, &now, &steps).await?),
        };
        // Only what is changed is put back: the rest of the host's links are others' business.
        for (name, link) in
            now.links.iter().filter(|(name, link)| !link.is_ours() && goal.links.contains_key(*name))
        {
            before.links.entry(name.clone()).or_insert_with(|| link.clone());
        }
        for step in &steps {
            debug!(%step, "network");
            if let Err(error) = host.apply(step).await {
                return Err(undo(host, before, step, error).await);
            }
            outcome.changes += 1;
        }
    }
    let now = read(host).await?;
    if let Some(step) = diff(&now, &wanted(&now).0).first() {
        outcome.problems.push(Problem::Unsettled { next: step.to_string() });
    }
    Ok(outcome)
}

async fn read(host: &mut impl Host) -> Result<State, NetworkError> {
    host.read().await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => NetworkError::Permission,
        _ => NetworkError::Read { what: "the interfaces, addresses and routes", source },
    })
}

/// The state to come back to.
async fn remember(host: &mut impl Host, now: &State, steps: &[Step]) -> Result<State, NetworkError> {
    let mut before = now.clone();
    before.links.retain(|_, link| link.is_ours());
    if now.rules == Rules::Unknown && steps.iter().any(|s| matches!(s, Step::LoadRules { .. })) {
        before.rules = host.saved_rules().await.map_err(|e| classify("read the rules".into(), e))?;
    }
    Ok(before)
}

async fn undo(host: &mut impl Host, before: &State, failed: &Step, error: StepError) -> NetworkError {
    warn!(step = %failed, %error, "a change to the network failed and is being undone");
    let mut first = None;
    for _ in 0..ROUNDS {
        let steps = match host.read().await {
            Ok(now) => diff(&now, before),
            Err(error) => {
                first.get_or_insert(format!("can't read the network: {error}"));
                break;
            }
        };
        if steps.is_empty() {
            break;
        }
        for step in &steps {
            if let Err(error) = host.apply(step).await {
                warn!(%step, %error, "undo failed");
                first.get_or_insert(format!("can't {step}: {error}"));
            }
        }
        if first.is_some() {
            break;
        }
    }
    match first {
        None => classify(failed.to_string(), error),
        Some(undo) => NetworkError::Undo { step: failed.to_string(), reason: error.to_string(), undo },
    }
}

fn classify(step: String, error: StepError) -> NetworkError {
    match error {
        StepError::Nft(NftError::Tool(tool)) => {
            NetworkError::ToolMissing { program: tool.program, package: tool.package }
        }
        StepError::Kernel(e) if e.kind() == io::ErrorKind::PermissionDenied => NetworkError::Permission,
        other => NetworkError::Step { step, reason: other.to_string() },
    }
}

//! Proof that machines come back: their recovery points are booted where nothing can go wrong, and what came of it is kept.
//!
//! A proof says that a guest came up from exactly this point, and how long that took; it never says more. What is told of a
//! guest in it comes from the guest, so all of it is bounded.

use serde::{Deserialize, Serialize};

use super::{
    id::{JobId, PointId, RepositoryId},
    message::{Message, Warnings},
    run_state::RunState,
    script::{Command, CommandInvalid, SECONDS_MAX},
};
use crate::{path::VmPath, vm::VmId};

/// How many points one proof may boot.
pub const PROOF_POINTS_MAX: usize = 1000;
/// How many machines one proof may run at once.
pub const PROOF_PARALLEL_MAX: u32 = 16;
pub const CONSOLE_TEXT_CHARS_MAX: usize = 200;
/// How many TCP ports of one guest may be waited for.
pub const PORTS_MAX: usize = 8;
/// The longest that a job may leave a machine unproven, in hours: a year.
pub const HOURS_MAX: u32 = 24 * 366;

/// What shows that a guest is up, and for how long it is waited for. All that is asked for must come. Where neither the agent,
/// a text nor a port is asked for, the agent's first answer or a login prompt shows it, whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signs {
    /// The guest agent answers.
    pub agent: bool,
    /// This text is on the serial console.
    pub console: Option<String>,
    /// Each of these TCP ports answers.
    pub ports: Vec<u16>,
    /// A program of the guest, run by its agent once the guest is up, ends well.
    pub in_guest: Option<Command>,
    /// So does a program of the host.
    pub on_host: Option<Command>,
    /// From the start of the boot until the guest is up; programs have a time of their own.
    pub seconds_max: u32,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            agent: false,
            console: None,
            ports: Vec::new(),
            in_guest: None,
            on_host: None,
            seconds_max: 600,
        }
    }
}

/// Why nothing could be waited for like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignsInvalid {
    #[error("a text on the console has 1 to {CONSOLE_TEXT_CHARS_MAX} characters, and is of one line")]
    Console,
    #[error("at most {PORTS_MAX} TCP ports are waited for, each once and from 1 to 65535")]
    Ports,
    #[error("a guest has 1 to {SECONDS_MAX} seconds to come up; {0} were asked for")]
    Seconds(u32),
    #[error("a program cannot be run")]
    Program(#[source] CommandInvalid),
    #[error("a job proves each new point, or a machine every 1 to {HOURS_MAX} hours")]
    Hours,
}

impl Signs {
    /// Whether the agent must answer: a program of the guest is run by it.
    pub fn wants_agent(&self) -> bool {
        self.agent || self.in_guest.is_some()
    }

    /// Whether nothing in particular is asked for: the agent or a login prompt will do.
    pub fn is_any_up(&self) -> bool {
        !self.wants_agent() && self.console.is_none() && self.ports.is_empty()
    }

    pub fn validate(&self) -> Result<(), SignsInvalid> {
        if let Some(text) = &self.console
            && (text.trim().is_empty()
                || text.chars().count() > CONSOLE_TEXT_CHARS_MAX
                || text.contains(char::is_control))
        {
            return Err(SignsInvalid::Console);
        }
        let once = |(at, port): (usize, &u16)| *port != 0 && !self.ports[..at].contains(port);
        if self.ports.len() > PORTS_MAX || !self.ports.iter().enumerate().all(once) {
            return Err(SignsInvalid::Ports);
        }
        if self.seconds_max == 0 || self.seconds_max > SECONDS_MAX {
            return Err(SignsInvalid::Seconds(self.seconds_max));
        }
        if let Some(program) = &self.in_guest {
            program.validate_in_guest().map_err(SignsInvalid::Program)?;
        }
        if let Some(program) = &self.on_host {
            program.validate_on_host().map_err(SignsInvalid::Program)?;
        }
        Ok(())
    }
}

/// That a job proves what it saves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proving {
    pub signs: Signs,
    /// A machine is proven again after so many hours; `None`: with each run.
    pub every_hours: Option<u32>,
}

impl Proving {
    pub fn validate(&self) -> Result<(), SignsInvalid> {
        if self.every_hours.is_some_and(|hours| hours == 0 || hours > HOURS_MAX) {
            return Err(SignsInvalid::Hours);
        }
        self.signs.validate()
    }

    /// Whether a machine is to be proven that was proven last at a time.
    pub fn is_due(&self, last_ms: Option<u64>, now_ms: u64) -> bool {
        let (Some(hours), Some(last_ms)) = (self.every_hours, last_ms) else { return true };
        // A clock that was set back must not leave a machine unproven for ever.
        last_ms > now_ms || now_ms - last_ms >= u64::from(hours) * 3_600_000
    }
}

/// What came of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointProof {
    /// The machine's path then.
    pub machine: VmPath,
    #[serde(default)]
    pub machine_id: Option<VmId>,
    pub point: PointId,
    /// The id that the point was saved under, which stays when it is marked.
    pub identity: PointId,
    pub taken_at_ms: u64,
    pub state: RunState,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    /// From the start of the boot to the last sign: the time in which the machine would have been back.
    #[serde(default)]
    pub ready_ms: Option<u64>,
    /// What showed that the guest is up.
    #[serde(default)]
    pub seen: Option<Message>,
    /// Why it is not proven.
    #[serde(default)]
    pub reason: Option<Message>,
    #[serde(default)]
    pub warnings: Warnings,
    /// The last lines of the guest's console.
    #[serde(default)]
    pub console: Vec<Message>,
    /// Whether there is a picture of its screen.
    #[serde(default)]
    pub has_screen: bool,
}

/// Points that are proven together, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRun {
    /// Counts up by one for each proof of a host.
    pub number: u64,
    pub state: RunState,
    /// Who or what wanted it.
    pub cause: Message,
    #[serde(default)]
    pub job: Option<JobId>,
    pub repository: RepositoryId,
    #[serde(default)]
    pub signs: Signs,
    pub started_at_ms: u64,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    pub points: Vec<PointProof>,
}

impl ProofRun {
    /// What its points make of it.
    pub fn outcome(&self) -> RunState {
        let any = |state| self.points.iter().any(|point| point.state == state);
        if any(RunState::Failed) {
            RunState::Failed
        } else if any(RunState::Interrupted) || any(RunState::Waiting) || any(RunState::Running) {
            RunState::Interrupted
        } else if any(RunState::Cancelled) {
            RunState::Cancelled
        } else if any(RunState::SucceededWithWarnings) {
            RunState::SucceededWithWarnings
        } else {
            RunState::Succeeded
        }
    }

    /// Ends what has not ended.
    pub fn end(&mut self, left: RunState, now_ms: u64) {
        for point in self.points.iter_mut().filter(|point| !point.state.has_ended()) {
            point.state = left;
            point.ended_at_ms = Some(now_ms);
        }
        self.state = self.outcome();
        self.ended_at_ms = Some(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn point(state: RunState) -> PointProof {
        PointProof {
            machine: "web01".parse().unwrap(),
            machine_id: None,
            point: PointId::from_bytes([1; 32]),
            identity: PointId::from_bytes([1; 32]),
            taken_at_ms: 0,
            state,
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

    fn ended(states: &[RunState], left: RunState) -> RunState {
        let mut run = ProofRun {
            number: 1,
            state: RunState::Running,
            cause: "me".into(),
            job: None,
            repository: RepositoryId(Uuid::nil()),
            signs: Signs::default(),
            started_at_ms: 0,
            ended_at_ms: None,
            points: states.iter().map(|state| point(*state)).collect(),
        };
        run.end(left, 9);
        assert!(run.ended_at_ms == Some(9) && run.points.iter().all(|point| point.state.has_ended()));
        run.state
    }

    #[test]
    fn one_point_that_is_not_proven_makes_the_proof_fail() {
        use RunState::{Cancelled, Failed, Interrupted, Running, Succeeded, SucceededWithWarnings, Waiting};
        assert_eq!(ended(&[Succeeded, Succeeded], Interrupted), Succeeded);
        assert_eq!(ended(&[Succeeded, SucceededWithWarnings], Interrupted), SucceededWithWarnings);
        assert_eq!(ended(&[Succeeded, Failed, Cancelled], Interrupted), Failed);
        assert_eq!(ended(&[Succeeded, Running, Waiting], Interrupted), Interrupted);
        assert_eq!(ended(&[Succeeded, Waiting], Cancelled), Cancelled);
    }

    #[test]
    fn what_never_ends_or_says_nothing_is_refused() {
        let signs = Signs::default();
        assert_eq!(signs.validate(), Ok(()));
        for text in ["", " ", "a\nb", &"x".repeat(201)] {
            let signs = Signs { console: Some(text.to_owned()), ..signs.clone() };
            assert_eq!(signs.validate(), Err(SignsInvalid::Console), "{text}");
        }
        assert_eq!(Signs { ports: (1..=8).collect(), ..signs.clone() }.validate(), Ok(()));
        for ports in [vec![0], vec![22, 80, 22], (1..=9).collect()] {
            assert_eq!(Signs { ports, ..signs.clone() }.validate(), Err(SignsInvalid::Ports));
        }
        let stored: Signs = serde_json::from_str(r#"{"agent":true,"seconds_max":5}"#).unwrap();
        assert!(stored.agent && stored.ports.is_empty(), "of an older node");
        assert_eq!(Signs { seconds_max: 0, ..signs.clone() }.validate(), Err(SignsInvalid::Seconds(0)));
        let program = Command { program: "true".to_owned(), arguments: Vec::new(), seconds_max: 5 };
        assert_eq!(Signs { in_guest: Some(program.clone()), ..signs.clone() }.validate(), Ok(()));
        let on_host = Signs { on_host: Some(program), ..signs.clone() };
        assert!(matches!(on_host.validate(), Err(SignsInvalid::Program(CommandInvalid::Relative(_)))));
        let never = Proving { signs, every_hours: Some(0) };
        assert_eq!(never.validate(), Err(SignsInvalid::Hours));
    }

    #[test]
    fn a_machine_is_proven_again_when_its_time_has_come() {
        const HOUR_MS: u64 = 3_600_000;
        let each = Proving::default();
        let daily = Proving { every_hours: Some(24), ..Proving::default() };
        assert!(each.is_due(Some(5), 5));
        assert!(daily.is_due(None, 0) && daily.is_due(Some(0), 24 * HOUR_MS));
        assert!(!daily.is_due(Some(HOUR_MS), 24 * HOUR_MS));
        assert!(daily.is_due(Some(9 * HOUR_MS), HOUR_MS), "the clock was set back");
    }
}

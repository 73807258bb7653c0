//! The life of a run, and of each machine in it.
//!
//! ```text
//!              Begin               Succeed
//!   Waiting ───────────► Running ───────────────────► Succeeded
//!    │ │ │                │ │ │ └───────────────────► SucceededWithWarnings
//!    │ │ │      Fail      │ │ │  SucceedWithWarnings
//!    │ │ └────────────────┼─┼─┴─────────────────────► Failed
//!    │ │       Cancel     │ │            Fail
//!    │ └──────────────────┼─┴───────────────────────► Cancelled
//!    │        Interrupt   │
//!    └────────────────────┴─────────────────────────► Interrupted
//! ```
//!
//! What ended stays as it ended. Interrupted is what a node finds unfinished when it starts: nobody decided it.
//! Only [`admit`] says which step may come when. This module must never learn how anything is done.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunState {
    /// It is written down and has not begun: it waits for its turn.
    Waiting,
    Running,
    Succeeded,
    /// There is a recovery point of everything, but not all was as asked.
    SucceededWithWarnings,
    /// At least one thing that was asked for was not done.
    Failed,
    /// A person ended it.
    Cancelled,
    /// The node ended in the middle of it.
    Interrupted,
}

impl RunState {
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Running,
        Self::Succeeded,
        Self::SucceededWithWarnings,
        Self::Failed,
        Self::Cancelled,
        Self::Interrupted,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::SucceededWithWarnings => "SucceededWithWarnings",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Interrupted => "Interrupted",
        }
    }

    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }

    /// Whether what was asked for is there, with or without warnings.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Succeeded | Self::SucceededWithWarnings)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What can happen to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunStep {
    Begin,
    Succeed,
    SucceedWithWarnings,
    Fail,
    Cancel,
    Interrupt,
}

impl RunStep {
    pub const ALL: [Self; 6] =
        [Self::Begin, Self::Succeed, Self::SucceedWithWarnings, Self::Fail, Self::Cancel, Self::Interrupt];
}

/// A step came in a state that does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run is {state}; that cannot be followed by {step:?}")]
pub struct RunRefused {
    pub state: RunState,
    pub step: RunStep,
}

/// Where a step leads.
pub const fn admit(state: RunState, step: RunStep) -> Result<RunState, RunRefused> {
    use RunState::{Cancelled, Failed, Interrupted, Running, Succeeded, SucceededWithWarnings, Waiting};

    match (step, state) {
        (RunStep::Begin, Waiting) => Ok(Running),
        (RunStep::Succeed, Running) => Ok(Succeeded),
        (RunStep::SucceedWithWarnings, Running) => Ok(SucceededWithWarnings),
        // What waits can fail, too: its machine or its repository is gone when its turn comes.
        (RunStep::Fail, Waiting | Running) => Ok(Failed),
        (RunStep::Cancel, Waiting | Running) => Ok(Cancelled),
        (RunStep::Interrupt, Waiting | Running) => Ok(Interrupted),
        _ => Err(RunRefused { state, step }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_ended_stays_as_it_ended() {
        for state in RunState::ALL.into_iter().filter(|state| state.has_ended()) {
            for step in RunStep::ALL {
                assert_eq!(admit(state, step), Err(RunRefused { state, step }));
            }
        }
    }

    #[test]
    fn nothing_succeeds_that_did_not_begin() {
        for step in [RunStep::Succeed, RunStep::SucceedWithWarnings] {
            assert!(admit(RunState::Waiting, step).is_err());
        }
    }

    proptest! {
        /// Whatever happens in whatever order, a run begins once at most, ends once at most, and can always be ended.
        #[test]
        fn every_walk_stays_on_the_drawing(walk in prop::collection::vec(prop::sample::select(&RunStep::ALL[..]), 0..30)) {
            let mut state = RunState::Waiting;
            let (mut begun, mut ended) = (0, 0);
            for step in walk {
                if let Ok(after) = admit(state, step) {
                    prop_assert_ne!(after, state);
                    prop_assert_ne!(after, RunState::Waiting);
                    begun += u32::from(after == RunState::Running);
                    ended += u32::from(after.has_ended());
                    state = after;
                }
            }
            prop_assert!(begun <= 1 && ended <= 1);
            if !state.has_ended() {
                for step in [RunStep::Fail, RunStep::Cancel, RunStep::Interrupt] {
                    prop_assert!(admit(state, step).is_ok_and(RunState::has_ended));
                }
            }
        }
    }
}

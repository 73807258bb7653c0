//! The life of a virtual machine.
//!
//! ```text
//!                 Start                    Pause
//!        ┌──────────────────► Running ──────────────► Paused
//!        │   (Starting)       │ ▲ │  ▲   (Pausing)     │ │ │
//!        │                    │ │ │  └─────────────────┘ │ │
//!        │  ShutDown, TurnOff │ │ │       Resume         │ │
//!       Off ◄─────────────────┘ │ │      (Resuming)      │ │
//!      ▲ ▲ ▲     (Stopping)     │ │ Save                 │ │
//!      │ │ └────────────────────┼─┼──────────────────────┘ │
//!      │ │        TurnOff       │ ▼ (Saving)               │
//!      │ └──────────────────── Saved ◄─────────────────────┘
//!      │    RemoveSavedState    │            Save
//!      └────────────────────────┘
//!          Start from Saved goes back to Running (Starting)
//! ```
//!
//! The states in brackets last while an operation runs; the names are Hyper-V's. A machine whose
//! engine ended without being asked goes to Off with a reason. Only [`admit`] says what may be
//! done when; only the one task that owns a machine changes its state. This module must never learn
//! *how* anything is done.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmState {
    Off,
    Starting,
    Running,
    Stopping,
    Saving,
    Saved,
    Pausing,
    Paused,
    Resuming,
}

impl VmState {
    pub const ALL: [Self; 9] = [
        Self::Off,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Saving,
        Self::Saved,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
            Self::Saving => "Saving",
            Self::Saved => "Saved",
            Self::Pausing => "Pausing",
            Self::Paused => "Paused",
            Self::Resuming => "Resuming",
        }
    }

    /// Whether the machine's definition holds still: no operation runs.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Off | Self::Running | Self::Saved | Self::Paused)
    }

    /// Whether a QEMU process belongs to this state.
    pub const fn has_engine(self) -> bool {
        !matches!(self, Self::Off | Self::Saved)
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What can be asked of a machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Start,
    /// Ask the guest to shut down.
    ShutDown,
    /// Cut the power.
    TurnOff,
    /// Restart without asking the guest.
    Reset,
    Pause,
    Resume,
    /// Write memory and devices to disk and stop.
    Save,
    RemoveSavedState,
    /// A change that a guest would notice only at its next start: processors, memory, version.
    ModifyWhenOff,
    /// A change that is possible at any time: name, notes, adapters, disks on a hot-plug bus.
    Modify,
    Remove,
}

impl Operation {
    pub const ALL: [Self; 11] = [
        Self::Start,
        Self::ShutDown,
        Self::TurnOff,
        Self::Reset,
        Self::Pause,
        Self::Resume,
        Self::Save,
        Self::RemoveSavedState,
        Self::ModifyWhenOff,
        Self::Modify,
        Self::Remove,
    ];
}

/// An operation was asked for in a state that does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The operation cannot be performed while the virtual machine is in its current state.")]
pub struct Refused {
    pub state: VmState,
    pub operation: Operation,
}

/// What an admitted operation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Go through `during` and end in `after`.
    Change { during: VmState, after: VmState },
    /// Stay in this state.
    Stay,
    /// Nothing is left to do: the machine is already where the operation leads.
    Already,
}

/// Decides whether an operation may begin now.
pub fn admit(state: VmState, operation: Operation) -> Result<Admitted, Refused> {
    use Admitted::{Already, Change, Stay};
    use VmState::{Off, Paused, Pausing, Resuming, Running, Saved, Saving, Starting, Stopping};

    let stopping = Change { during: Stopping, after: Off };
    let admitted = match (operation, state) {
        (Operation::Start, Off | Saved) => Change { during: Starting, after: Running },
        (Operation::Start, Running) => Already,
        (Operation::ShutDown, Running) => stopping,
        (Operation::ShutDown | Operation::TurnOff, Off) => Already,
        // The way out of every state with an engine, a hung guest's shutdown included.
        (Operation::TurnOff, Running | Paused | Starting | Stopping | Pausing | Resuming | Saving) => {
            stopping
        }
        (Operation::Reset, Running | Paused) => Stay,
        (Operation::Pause, Running) => Change { during: Pausing, after: Paused },
        (Operation::Pause, Paused) => Already,
        (Operation::Resume, Paused) => Change { during: Resuming, after: Running },
        (Operation::Resume, Running) => Already,
        (Operation::Save, Running | Paused) => Change { during: Saving, after: Saved },
        (Operation::Save, Saved) => Already,
        (Operation::RemoveSavedState, Saved) => Change { during: Saved, after: Off },
        (Operation::ModifyWhenOff, Off) => Stay,
        (Operation::Modify, Off | Running | Paused | Saved) => Stay,
        (Operation::Remove, Off | Saved) => Stay,
        _ => return Err(Refused { state, operation }),
    };
    Ok(admitted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation() -> impl Strategy<Value = Operation> {
        proptest::sample::select(&Operation::ALL[..])
    }

    proptest! {
        /// Whatever is asked in whatever order, a machine never strays from the drawing, and power off always leads out.
        #[test]
        fn every_walk_stays_on_the_drawing(walk in proptest::collection::vec(operation(), 0..40)) {
            let mut state = VmState::Off;
            for operation in walk {
                if let Ok(Admitted::Change { during, after }) = admit(state, operation) {
                    prop_assert!(!during.is_settled() || operation == Operation::RemoveSavedState);
                    prop_assert!(after.is_settled());
                    state = after;
                }
                prop_assert!(state.is_settled());
            }
            if state.has_engine() {
                prop_assert_eq!(
                    admit(state, Operation::TurnOff),
                    Ok(Admitted::Change { during: VmState::Stopping, after: VmState::Off })
                );
            }
        }
    }

    #[test]
    fn a_processor_is_changed_only_on_a_machine_that_is_off() {
        for state in VmState::ALL {
            assert_eq!(admit(state, Operation::ModifyWhenOff).is_ok(), state == VmState::Off, "{state}");
        }
    }

    #[test]
    fn nothing_but_power_off_interrupts_a_running_operation() {
        for state in VmState::ALL.into_iter().filter(|s| !s.is_settled()) {
            for operation in Operation::ALL {
                assert_eq!(
                    admit(state, operation).is_ok(),
                    operation == Operation::TurnOff,
                    "{operation:?} in {state}"
                );
            }
        }
    }

    #[test]
    fn the_refusal_is_hyper_vs_sentence() {
        let refused = admit(VmState::Running, Operation::ModifyWhenOff).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "The operation cannot be performed while the virtual machine is in its current state."
        );
    }
}

//! What comes over a backup that is under way.

use std::{fs, thread::sleep, time::Duration};

use serde_json::Value;

use super::{
    After, REPOSITORIES, Torture, now_ms,
    plan::{During, Round},
};
use crate::nest::kill;

impl Torture {
    /// Begins a backup and lets the blow fall: how the run ended, and what the disks held after it, if that may be in the
    /// point.
    pub(super) fn under_fire(&mut self, round: &Round, runs: bool) -> (Value, Option<After>) {
        let in_order = round.during == During::WritesInOrder;
        if in_order {
            self.guest().begin_writing_in_order(round.number);
            self.guest().writes();
        }
        let number = self.begin_run(round.repository);
        if round.during == During::Writes || (round.late && !in_order) {
            self.is_saving(number);
            if runs && round.during != During::Nothing {
                self.guest().begin_writing();
            }
        }
        // Chance, and nothing that is waited for.
        sleep(Duration::from_millis(round.delay_ms));
        let at_ms = now_ms();
        match round.during {
            During::Nothing | During::Writes | During::WritesInOrder => {}
            During::NodeKilled => kill(self.nest.node_pid()),
            During::NodeStopped => drop(self.run(&["node", "stop"]).ok()),
            During::EngineKilled => self.kill_engine(),
            During::TurnedOff => self.turn_off(),
            During::Saved => drop(self.run(&["vm", "save", "P"]).ok()),
            During::Reset => {
                self.run(&["vm", "reset", "P"]).ok();
                self.guest().is_up();
            }
            During::Paused => {
                self.run(&["vm", "pause", "P"]).ok();
                sleep(Duration::from_millis(round.delay_ms));
                self.run(&["vm", "resume", "P"]).ok();
            }
            During::Started => self.start(),
            During::RepositoryAway => return (self.without_repository(round.repository, number), None),
            // It may have ended just before.
            During::Cancelled => drop(self.run(&["backup", "cancel", &number.to_string()])),
        }
        let run = self.end_of(number);
        let has_ended = matches!(round.during, During::EngineKilled | During::TurnedOff | During::Saved);
        let after = has_ended.then(|| After { at_ms, truth: self.truth_at_rest() });
        (run, after)
    }

    fn without_repository(&self, repository: usize, number: u64) -> Value {
        let (place, away) = (self.file(REPOSITORIES[repository]), self.file("away"));
        fs::rename(&place, &away).expect("moved away");
        let run = self.end_of(number);
        assert!(!place.exists(), "something was made where the repository had been: {run}");
        fs::rename(&away, &place).expect("moved back");
        run
    }
}

//! A machine that has an engine.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nestling_hypervisor::Machine;
use nestling_model::EngineKind;

use super::guest::GuestCache;
use crate::facts;

/// Over less than this, a share of the processors is noise.
const WINDOW: Duration = Duration::from_millis(500);

pub struct Running {
    pub machine: Machine,
    pub engine: EngineKind,
    meter: Mutex<Meter>,
    pub guest: GuestCache,
}

struct Meter {
    since: Instant,
    cpu_seconds: f64,
    percent: u32,
}

impl Running {
    pub fn new(machine: Machine, engine: EngineKind) -> Self {
        let cpu_seconds = machine.usage().map_or(0.0, |u| u.cpu_seconds);
        let meter = Mutex::new(Meter { since: Instant::now(), cpu_seconds, percent: 0 });
        Self { machine, engine, meter, guest: GuestCache::default() }
    }

    pub fn uptime_ms(&self) -> u64 {
        facts::process_age_ms(self.machine.pid()).unwrap_or(0)
    }

    /// The share of all the host's processors since it was last asked for. Nothing runs between questions.
    pub fn cpu_usage_percent(&self) -> u32 {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = meter.since.elapsed();
        if elapsed >= WINDOW {
            let cpu_seconds = self.machine.usage().map_or(meter.cpu_seconds, |u| u.cpu_seconds);
            meter.percent = percent(cpu_seconds - meter.cpu_seconds, elapsed, facts::logical_processors());
            meter.cpu_seconds = cpu_seconds;
            meter.since = Instant::now();
        }
        meter.percent
    }
}

fn percent(cpu_seconds: f64, elapsed: Duration, processors: u32) -> u32 {
    let share = cpu_seconds / elapsed.as_secs_f64() / f64::from(processors.max(1));
    (share * 100.0).round().clamp(0.0, 100.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_a_share_of_all_processors() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(1.0, second, 2), 50);
        assert_eq!(percent(2.1, second, 2), 100);
        assert_eq!(percent(-0.1, second, 2), 0);
        assert_eq!(percent(0.0, second, 0), 0);
    }
}

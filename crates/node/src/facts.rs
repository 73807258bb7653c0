//! What this host says of itself. Reading never fails: what cannot be read counts as absent or zero.

use std::{fs, path::Path};

/// One boot of the host.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Processors that this process may use.
pub fn logical_processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

pub fn memory() -> MemoryFacts {
    parse_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse_memory(text: &str) -> MemoryFacts {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or(0).saturating_mul(1024)
    };
    MemoryFacts { total_bytes: field("MemTotal"), available_bytes: field("MemAvailable") }
}

/// Bytes free for this user on the file system of a directory.
pub fn disk_free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How long a process has run.
pub fn process_age_ms(pid: u32) -> Option<u64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    process_age(&uptime, &stat)
}

/// Tells a process from every other one, also after the host has started anew; `None`: it has ended.
pub fn process_mark(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started_ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(format!("{}/{pid}/{started_ticks}", boot_id()))
}

fn process_age(uptime: &str, stat: &str) -> Option<u64> {
    // Ticks of /proc are a hundredth of a second on every Linux that runs here (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let uptime_seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    // The name may hold blanks and parentheses; field 22 is the twentieth after the last parenthesis.
    let started_ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let age_seconds = uptime_seconds - started_ticks / TICKS_PER_SECOND;
    Some((age_seconds.max(0.0) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(parse_memory(text), MemoryFacts { total_bytes: 1_024_000, available_bytes: 512_000 });
        assert_eq!(parse_memory("MemTotal: much\n"), MemoryFacts::default());
        assert!(memory().total_bytes > 0 && memory().available_bytes > 0);
    }

    #[test]
    fn a_processs_age_is_read_whatever_its_name() {
        let stat = format!("7 (a ) b) S {} 5000 0 0", "0 ".repeat(18).trim());
        assert_eq!(process_age("60.5 100.0", &stat), Some(10_500));
        assert_eq!(process_age("60.5", "7 (x"), None);
        assert!(process_age_ms(std::process::id()).unwrap() < 3_600_000);
        let mark = process_mark(std::process::id());
        assert!(mark.is_some() && mark == process_mark(std::process::id()) && mark != process_mark(1));
    }
}

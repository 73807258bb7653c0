//! A QEMU process, held by a descriptor: unlike a number, it can never come to mean another process.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nestling_model::VmId;
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::spec::RunDir;

/// What a QEMU has used since it started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no process has this number"))?;
        Ok(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// The living QEMU of this machine in this run directory. The command line says whose it is: the number in the pid
    /// file may long be another process's, and the file may be missing when the node died at the wrong moment.
    pub fn find(run: &RunDir, vm: VmId) -> Option<Self> {
        let noted = fs::read_to_string(run.pid()).ok().and_then(|text| text.trim().parse().ok());
        let all = || fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        noted.into_iter().chain(numbers).find_map(|pid| Self::open_if_ours(pid, run, vm))
    }

    fn open_if_ours(pid: u32, run: &RunDir, vm: VmId) -> Option<Self> {
        if !is_ours(pid, run, vm) {
            return None;
        }
        let process = Self::open(pid).ok()?;
        // Asked again: in between, the number may have changed hands.
        is_ours(pid, run, vm).then_some(process)
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn kill(&self) {
        // It may have ended already, which is what is wanted.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            tracing::debug!(%error, pid = self.pid(), "cannot signal QEMU");
        }
    }

    /// Waits for the end; how it ended is known only of a child.
    pub async fn ended(&self) -> io::Result<Option<WaitIdStatus>> {
        #[expect(unsafe_code, reason = "the safe way to register a descriptor is deprecated")]
        // SAFETY: the borrowed descriptor is always the same and stays open as long as the borrow.
        let watched = unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) }?;
        watched.readable().await?.retain_ready();
        Ok(waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap_or_default())
    }

    pub fn usage(&self) -> io::Result<Usage> {
        let dir = format!("/proc/{}", self.pid());
        let nonsense = || io::Error::new(io::ErrorKind::InvalidData, format!("{dir} makes no sense"));
        let stat = fs::read_to_string(format!("{dir}/stat"))?;
        let memory = fs::read_to_string(format!("{dir}/statm"))?;
        // The program's name, in brackets, may hold anything.
        let after_name = stat.rsplit_once(") ").ok_or_else(nonsense)?.1;
        let fields: Vec<u64> = after_name.split(' ').map(|f| f.parse().unwrap_or(0)).collect();
        let ticks =
            fields.get(11).zip(fields.get(12)).map(|(user, system)| user + system).ok_or_else(nonsense)?;
        let pages: u64 = memory.split(' ').nth(1).and_then(|f| f.parse().ok()).ok_or_else(nonsense)?;
        Ok(Usage {
            cpu_seconds: ticks as f64 / clock_ticks_per_second() as f64,
            resident_bytes: pages * page_size() as u64,
        })
    }
}

fn is_ours(pid: u32, run: &RunDir, vm: VmId) -> bool {
    // Empty for a process that has ended and was not yet collected.
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
    let has = |option: &str, value: &Path| {
        words.windows(2).any(|w| w[0] == option.as_bytes() && w[1] == value.as_os_str().as_encoded_bytes())
    };
    has("-uuid", Path::new(&vm.0.to_string())) && has("-pidfile", &run.pid())
}

//! What a reader's process gives up before it looks at a byte of a disk.
//!
//! What is left is to read and write the sockets that it was given, and to use memory, within limits. Anything else
//! ends it at once: a reader that was taken over by what it reads can only lie about that disk.

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{TargetArch, apply_filter_all_threads, compile_from_json};
use serde_json::{Value, json};

use crate::{ExploreError, Result};

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Addresses, of which the program itself takes some.
    pub address_bytes: u64,
    /// In all: what hangs in one request is ended by the client, long before.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { address_bytes: 512 << 20, cpu_seconds: 4 * 3600 }
    }
}

/// Without regard to arguments.
const ALLOWED: &[&str] = &[
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "write",
    "writev",
    "sendto",
    "sendmsg",
    "poll",
    "ppoll",
    "shutdown",
    "close",
    "getsockopt",
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "futex",
    "sched_yield",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "getrandom",
    "getpid",
    "gettid",
    "tgkill",
    "rt_sigprocmask",
    "rt_sigaction",
    "rt_sigreturn",
    "sigaltstack",
    "restart_syscall",
    "exit",
    "exit_group",
];
const PROT_EXEC: u32 = 4;
const SOL_SOCKET: u32 = 1;
const F_GETFD: u32 = 1;

pub fn confine(limits: &Limits) -> Result<()> {
    let failed = |what: String| ExploreError::WorkerStart { volume: "a disk".to_owned(), what };
    let limit = |resource, most: u64| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|e| failed(format!("a limit cannot be set: {e}")))
    };
    limit(Resource::As, limits.address_bytes)?;
    limit(Resource::Cpu, limits.cpu_seconds)?;
    limit(Resource::Nofile, 16)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nproc, 0)?;
    let dead = |e| failed(format!("it cannot be bound to its parent: {e}"));
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(dead)?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| failed(format!("privileges cannot be given up: {e}")))?;
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|e| failed(format!("system calls cannot be filtered on this processor: {e}")))?;
    let filters = compile_from_json(filter().to_string().as_bytes(), arch)
        .map_err(|e| failed(format!("the filter of system calls: {e}")))?;
    let filter =
        filters.get("worker").ok_or_else(|| failed("the filter of system calls is empty".to_owned()))?;
    apply_filter_all_threads(filter).map_err(|e| failed(format!("system calls cannot be filtered: {e}")))
}

fn filter() -> Value {
    let argument = |index: u32, op: Value, value: u32| json!([{"index": index, "type": "dword", "op": op, "val": value}]);
    let mut rules: Vec<Value> = ALLOWED.iter().map(|name| json!({ "syscall": name })).collect();
    // Memory is never made executable.
    for name in ["mmap", "mprotect"] {
        rules.push(json!({"syscall": name, "args": argument(2, json!({ "masked_eq": PROT_EXEC }), 0)}));
    }
    rules.push(json!({"syscall": "setsockopt", "args": argument(1, json!("eq"), SOL_SOCKET)}));
    rules.push(json!({"syscall": "fcntl", "args": argument(1, json!("eq"), F_GETFD)}));
    json!({"worker": {"mismatch_action": "kill_process", "match_action": "allow", "filter": rules}})
}

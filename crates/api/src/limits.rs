//! How long each call may take and how much its answer may hold.
//!
//! One table for the client and for the way into a machine, so that the two never disagree. Nodes inside
//! machines run under emulation: what takes milliseconds on a host takes seconds there, and the deadlines
//! leave room for that. The table must never ask who answers: a machine is trusted no more than the network.

use std::time::Duration;

use http::Method;

/// The largest answer that is not a stream, in bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// The longest line of a stream of JSON objects, in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// The largest request with a JSON body, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The largest file that may be copied into a guest, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 << 30;

/// What one call may take and bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// From the request to the answer's head.
    pub head_timeout: Duration,
    pub answer: Answer,
}

/// What kind of body the answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// At most [`BODY_BYTES_MAX`] in all, whole before the deadline.
    Whole,
    /// Bytes without end, taken only as fast as they are read.
    Endless,
}

const QUICK: Duration = Duration::from_secs(60);
const MACHINE: Duration = Duration::from_secs(330);
const DISK: Duration = Duration::from_secs(3600);
/// The longest that a program in a guest may run, and the time to say so.
const EXEC: Duration = Duration::from_secs(3600 + 60);

/// The limits of `method` on `path`, which is what follows `/v1/`.
pub fn of(method: &Method, path: &str) -> CallLimits {
    let parts: Vec<&str> = path.split('/').collect();
    // What matters is the call at the end of the path.
    let mut call = parts.as_slice();
    while let ["in", _, inner @ ..] = call {
        call = inner;
    }
    let whole = |head_timeout| CallLimits { head_timeout, answer: Answer::Whole };
    let endless = |head_timeout| CallLimits { head_timeout, answer: Answer::Endless };
    match (method.as_str(), call) {
        (_, ["events"]) | ("POST", ["vms", _, "console"]) => endless(QUICK),
        ("POST", ["images", _, "build"] | ["imports"] | ["vms", _, "export"]) => endless(QUICK),
        ("POST", ["vms", _, "guest", "exec"]) => whole(EXEC),
        ("PUT", ["vms", _, "guest", "files"]) | ("POST" | "PATCH", ["disks"]) | ("POST", ["images"]) => {
            whole(DISK)
        }
        ("POST", ["vms", _, "save" | "start" | "resume"]) => whole(DISK),
        ("POST" | "PATCH" | "DELETE", ["vms", ..]) | ("POST", ["host", "features", _]) => whole(MACHINE),
        ("GET", ["host", "requirements"]) | ("POST", ["loans", ..]) => whole(MACHINE),
        // A repository far away answers slowly, and a password takes a second to become a key.
        (_, ["repositories" | "points", ..])
        | ("GET", ["jobs", _, "plan"])
        | ("POST", ["mail-server", "test"])
        | ("POST", ["recoveries"] | ["proofs"] | ["instant-boots", ..]) => whole(MACHINE),
        _ => whole(QUICK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_inside_has_the_limits_of_what_is_asked() {
        for (method, path) in
            [(Method::POST, "vms/a/console"), (Method::POST, "vms/a/save"), (Method::GET, "vms")]
        {
            assert_eq!(of(&method, path), of(&method, &format!("in/L1/in/L2/{path}")), "{path}");
        }
        assert_eq!(of(&Method::GET, "in/a/events").answer, Answer::Endless);
    }

    #[test]
    fn a_path_of_nothing_but_levels_is_quick() {
        assert_eq!(of(&Method::GET, "in/a/in").head_timeout, QUICK);
        assert_eq!(of(&Method::GET, "").head_timeout, QUICK);
    }
}

//! Network namespaces for tests: one thread each, gone with it. No test ever touches the namespace
//! that the test process was started in.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Command, Output},
    sync::mpsc::{Sender, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{UnshareFlags, gettid, unshare_unsafe},
};

fn namespace_of(who: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{who}/ns/net")).ok()
}

/// Puts this thread into a fresh namespace, with the loopback on.
fn enter_fresh() {
    // SAFETY: only the network namespace of this thread changes; nothing shares memory with that.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    assert_isolated();
    sh("ip link set lo up");
}

/// The gate before every command: never in a namespace that others use.
fn assert_isolated() {
    let here = namespace_of("thread-self");
    assert!(here.is_some());
    // The process's other threads stayed where it was started. Whether the first process of the
    // machine may be looked at depends on our rights.
    assert_ne!(here, namespace_of("self"), "this thread is in the namespace of the test process");
    assert_ne!(here, namespace_of("1"), "this thread is in the machine's namespace");
}

/// Runs a test in its own namespace, on a runtime of one thread so that all it starts is there too.
/// Without root there are no namespaces: the test is skipped, and says so.
pub(super) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root for a network namespace of its own");
        return;
    }
    let body = move || {
        enter_fresh();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn output(script: &str) -> Output {
    assert_isolated();
    Command::new("sh").args(["-c", script]).output().unwrap()
}

/// Runs shell commands in this thread's namespace; they must succeed.
pub(super) fn sh(script: &str) -> String {
    let output = output(script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}{errors}");
    text
}

pub(super) fn succeeds(script: &str) -> bool {
    output(script).status.success()
}

/// Waits until `what` holds.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not within 15 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Another machine: a thread in its own namespace that does what it is told.
pub(super) struct Machine {
    jobs: Sender<Job>,
    thread_id: i32,
}

impl Machine {
    pub fn new() -> Self {
        let (jobs, work) = channel::<Job>();
        let (tell, told) = channel();
        thread::spawn(move || {
            enter_fresh();
            tell.send(gettid().as_raw_nonzero().get()).unwrap();
            while let Ok(job) = work.recv() {
                job();
            }
        });
        Self { jobs, thread_id: told.recv().unwrap() }
    }

    /// A machine whose interface `eth0` with the address `mac` is plugged into the tap `tap` of the
    /// calling thread's namespace, as QEMU would do it.
    pub fn on_tap(tap: &str, mac: &str) -> Self {
        let machine = Self::new();
        let host = open_tap(tap);
        let mac = mac.to_owned();
        let guest = machine.run(move || {
            let guest = open_tap("eth0");
            sh(&format!("ip link set eth0 address {mac} up"));
            guest
        });
        thread::spawn(move || pump(host, guest));
        machine
    }

    /// A machine at the other end of a new pair of interfaces: `here` and its `eth0`.
    pub fn on_veth(here: &str) -> Self {
        let machine = Self::new();
        sh(&format!(
            "ip link add {here} type veth peer name eth0 netns {}; ip link set {here} up",
            machine.thread_id
        ));
        machine.sh("ip link set eth0 up");
        machine
    }

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs
            .send(Box::new(move || {
                let _ = tell.send(job());
            }))
            .unwrap();
        told.recv().expect("the command failed on the other machine; see above")
    }

    pub fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || sh(&script))
    }

    pub fn succeeds(&self, script: &str) -> bool {
        let script = script.to_owned();
        self.run(move || succeeds(&script))
    }

    pub fn pings(&self, address: &str) -> bool {
        self.succeeds(&format!("ping -n -c 1 -W 1 {address}"))
    }
}

/// Opens a tap, making it when it is not there.
fn open_tap(name: &str) -> File {
    assert_isolated();
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    crate::tap::attach_for_test(&file, name).unwrap();
    file
}

/// Carries frames both ways until one end goes.
fn pump(mut a: File, mut b: File) {
    let mut frame = [0; 65536];
    loop {
        let ready = {
            let mut fds = [PollFd::new(&a, PollFlags::IN), PollFd::new(&b, PollFlags::IN)];
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut fds, Some(&second)).is_err() {
                return;
            }
            fds.map(|fd| fd.revents())
        };
        if ready.iter().any(|r| r.intersects(PollFlags::ERR | PollFlags::NVAL)) {
            return;
        }
        copy(ready[0], &mut a, &mut b, &mut frame);
        copy(ready[1], &mut b, &mut a, &mut frame);
    }
}

fn copy(flags: PollFlags, from: &mut File, to: &mut File, frame: &mut [u8]) {
    if flags.contains(PollFlags::IN)
        && let Ok(len) = from.read(frame)
    {
        // A tap that is off takes no frame; QEMU ignores that too.
        let _ = to.write(&frame[..len]);
    }
}

/// Holds a tap as QEMU does, without moving frames.
pub(super) fn hold_tap(name: &str) -> OwnedFd {
    open_tap(name).as_fd().try_clone_to_owned().unwrap()
}

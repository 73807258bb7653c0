//! What every story stands on: a host in a network namespace of its own, with a network "outside".
//!
//! A story's L0 is the real program with a home of its own. All that it starts dies with the story, and
//! nothing of the machine's own network is touched. Waits always have a deadline; on failure the story
//! shows what the node logged.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Emulated guests on a busy machine are slow; a broken one is hung. This tells them apart.
pub const GUEST_DEADLINE: Duration = Duration::from_secs(240);

/// The address of the router of the network outside.
pub const ROUTER: &str = "10.99.0.1";

/// A finished command: what it said, and whether it did what was asked.
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Panics with all that was said unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Panics unless the command failed; gives what it complained about.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.status, 0, "succeeded, stdout:\n{}", self.stdout);
        self.stderr
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A host, its home and its networks.
pub struct Nest {
    pub home: PathBuf,
    namespace: String,
    outside: String,
}

/// Where images, fixtures and homes of all stories are. Short, because socket paths are.
pub fn root() -> PathBuf {
    std::env::var_os("NESTLING_STORIES")
        .map_or_else(|| PathBuf::from("/var/tmp/nestling-stories"), PathBuf::from)
}

impl Nest {
    /// A host whose home is empty but for the images, which all stories share.
    pub fn new(name: &str) -> Self {
        let home = root().join(name);
        remove_home(&home);
        fs::create_dir_all(&home).expect("the home can be made");
        Self::at(name, home)
    }

    /// A host with a home that is there already.
    pub fn at(name: &str, home: PathBuf) -> Self {
        link_images(&home);
        let nest = Self { home, namespace: format!("ns-{name}"), outside: format!("ns-{name}-out") };
        nest.remove_namespaces();
        nest.make_namespaces();
        nest
    }

    fn make_namespaces(&self) {
        let (inside, outside) = (&self.namespace, &self.outside);
        for line in [
            format!("netns add {inside}"),
            format!("netns add {outside}"),
            format!("-n {inside} link set lo up"),
            format!("-n {outside} link set lo up"),
            format!("link add lan0 netns {inside} type veth peer name lan0 netns {outside}"),
            format!("-n {outside} addr add {ROUTER}/24 dev lan0"),
            format!("-n {outside} link set lan0 up"),
            format!("-n {inside} link set lan0 up"),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status().expect("ip runs");
            assert!(status.success(), "ip {line}");
        }
    }

    fn remove_namespaces(&self) {
        for namespace in [&self.namespace, &self.outside] {
            if Path::new("/run/netns").join(namespace).exists() {
                let _ = Command::new("ip").args(["netns", "del", namespace]).status();
            }
        }
    }

    /// The program, on this host.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_as(env!("CARGO_BIN_EXE_nestling"), args)
    }

    /// Another program with the environment of the host's commands.
    pub fn command_as<S: AsRef<OsStr>>(&self, runner: &str, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .args(runner.split(' '))
            .args(args)
            .env("NESTLING_HOME", &self.home)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        self.command(args).output().expect("nestling runs").into()
    }

    /// A line of PowerShell syntax.
    pub fn ps(&self, line: &str) -> Said {
        self.run(&["-c", line])
    }

    /// A program on this host that is not ours.
    pub fn host(&self, line: &str) -> Said {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(line.split(' '));
        command.output().expect("ip runs").into()
    }

    /// A program on the network outside.
    pub fn outside(&self, line: &str) -> Said {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.outside]).args(line.split(' '));
        command.output().expect("ip runs").into()
    }

    /// Asks again and again until `done` is content with the answer.
    #[track_caller]
    pub fn wait(&self, what: &str, deadline: Duration, args: &[&str], done: impl Fn(&Said) -> bool) -> Said {
        let end = Instant::now() + deadline;
        loop {
            let said = self.run(args);
            if done(&said) {
                return said;
            }
            assert!(
                Instant::now() < end,
                "no {what} after {deadline:?}; last answer {}:\n{}\n{}\n{}",
                said.status,
                said.stdout,
                said.stderr,
                self.tail()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a command succeeds.
    #[track_caller]
    pub fn wait_ok(&self, what: &str, args: &[&str]) -> String {
        self.wait(what, GUEST_DEADLINE, args, |said| said.status == 0).stdout
    }

    /// Builds an image unless it is there: outside the namespace, where packages can be fetched, by a node
    /// that does nothing else.
    pub fn image(&self, name: &str) {
        let builder = root().join("builder");
        fs::create_dir_all(&builder).expect("the builder's home can be made");
        link_images(&builder);
        let run = |args: &[&str]| -> Said {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nestling"));
            command
                .args(args)
                .env("NESTLING_HOME", &builder)
                .stdin(Stdio::null())
                .output()
                .expect("nestling runs")
                .into()
        };
        let built = run(&["image", "build", name]);
        run(&["node", "stop"]).ok();
        built.ok();
    }

    /// Process ids of this home: the node first, then machines.
    pub fn node_pid(&self) -> u32 {
        let node: serde_json::Value =
            serde_json::from_str(&self.run(&["--json", "node", "status"]).ok()).expect("status is JSON");
        u32::try_from(node["pid"].as_u64().expect("a pid")).expect("a pid fits")
    }

    pub fn engine_pids(&self) -> Vec<u32> {
        engine_pids(&self.home)
    }

    /// The end of the node's log, for a story that fails.
    pub fn tail(&self) -> String {
        let log = fs::read_to_string(self.home.join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the node's log ends:\n{}", self.tail());
        }
        kill_home(&self.home);
        self.remove_namespaces();
        // What a story that failed left behind is evidence.
        if !std::thread::panicking() {
            remove_home(&self.home);
        }
    }
}

/// All homes share one store of images.
fn link_images(home: &Path) {
    let images = root().join("images");
    fs::create_dir_all(&images).expect("the images' directory can be made");
    if !home.join("images").exists() {
        std::os::unix::fs::symlink(&images, home.join("images")).expect("the images can be linked");
    }
}

fn engine_pids(home: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(home.join("run")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| fs::read_to_string(e.path().join("pid")).ok())
        .filter_map(|pid| pid.trim().parse().ok())
        .collect()
}

/// Whether a process carries this home in its environment or arguments: a recycled pid must not be hit.
fn belongs(pid: u32, home: &Path) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let needle = home.as_os_str().as_encoded_bytes();
    [read("cmdline"), read("environ")].iter().any(|text| text.windows(needle.len()).any(|w| w == needle))
}

/// Ends every process of a home, as a power cut would.
pub fn kill_home(home: &Path) {
    let processes = fs::read_dir("/proc").expect("/proc is there");
    for pid in processes.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        if pid != std::process::id() && belongs(pid, home) {
            kill(pid);
        }
    }
}

/// `kill -9`, and waits until the process is gone.
pub fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
    let end = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_home(home: &Path) {
    if home.exists() {
        kill_home(home);
        let images = home.join("images");
        if images.is_symlink() {
            let _ = fs::remove_file(images);
        }
        fs::remove_dir_all(home).expect("an old home can be removed");
    }
}

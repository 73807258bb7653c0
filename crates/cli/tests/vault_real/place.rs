//! A directory with a repository, the images that were saved into it, and the programs that work on them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

pub const PASSWORD: &str = "correct horse";
pub const MIB: u64 = 1 << 20;

pub struct Place(tempfile::TempDir);

/// What a program said at its end.
pub struct Said {
    pub status: Option<i32>,
    pub data: String,
    pub talk: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status.code(), data: text(output.stdout), talk: text(output.stderr) }
    }
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{}{}", self.data, self.talk);
        self.data
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let line = self.ok();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    #[track_caller]
    pub fn failed(self, words: &[&str]) {
        assert_eq!(self.status, Some(1), "{}{}", self.data, self.talk);
        for word in words {
            assert!(self.talk.contains(word), "{word:?} is not in {:?}", self.talk);
        }
    }
}

impl Place {
    /// Without a repository.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub fn new() -> Self {
        let place = Self::empty();
        place.run("init repo").ok();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestling"));
        command.arg("vault").args(words.split_whitespace());
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.0.path())
            .env("NESTLING_HOME", self.path("home"))
            .env("NESTLING_VAULT_PASSWORD", PASSWORD)
            .env("NESTLING_VAULT_PASSWORD2", PASSWORD)
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", self.path("cache"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
    }

    #[track_caller]
    pub fn run(&self, words: &str) -> Said {
        self.command(words).output().expect("nestling runs").into()
    }

    pub fn start(&self, words: &str) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nestling runs")
    }

    /// Another program in this directory.
    pub fn other(&self, program: impl AsRef<Path>, words: &str) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(words.split_whitespace());
        self.prepare(&mut command);
        command
    }

    #[track_caller]
    pub fn run_other(&self, program: impl AsRef<Path>, words: &str) -> Said {
        self.other(program, words).output().expect("the program runs").into()
    }

    /// The ids of all points of a repository and the instants that they show, oldest first.
    #[track_caller]
    pub fn points(&self, repo: &str) -> Vec<(String, String)> {
        let listed = self.run(&format!("--json points {repo}")).ok();
        let field = |value: &Value, name: &str| value[name].as_str().expect("a text").to_owned();
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("an object");
        listed.lines().map(line).map(|v| (field(&v, "id"), field(&v, "time"))).collect()
    }

    /// Restores a point and compares it with what was saved.
    #[track_caller]
    pub fn assert_restores(&self, repo: &str, point: &str, image: &str) {
        self.run(&format!("restore {repo} {point} back.img --force")).ok();
        self.assert_same("back.img", image);
    }

    #[track_caller]
    pub fn assert_same(&self, one: &str, other: &str) {
        assert_eq!(self.digest(one), self.digest(other), "{one} and {other} differ");
    }

    fn digest(&self, name: &str) -> String {
        let said = self.run_other("sha256sum", name).ok();
        said.split_whitespace().next().expect("a digest").to_owned()
    }

    #[track_caller]
    pub fn verify(&self, repo: &str) {
        self.run(&format!("verify {repo} --all-data")).ok();
    }

    /// A sparse image: text, noise, holes; the same for the same seed.
    pub fn image(&self, name: &str, mebibytes: u64, seed: u64) {
        let file = File::create(self.path(name)).expect("a file");
        file.set_len(mebibytes * MIB + 1234).expect("a size");
        let mut random = Random(seed);
        for at in 0..mebibytes {
            let bytes = match random.below(4) {
                0 => continue,
                1 => random.bytes(MIB),
                _ => random.bytes(MIB).into_iter().map(|byte| b'a' + byte % 16).collect(),
            };
            file.write_all_at(&bytes, at * MIB).expect("written");
        }
    }

    /// A copy of an image with some changes, and a file that lists them.
    pub fn change(&self, from: &str, to: &str, changed: &str, random: &mut Random) {
        if from != to {
            let copied = self.run_other("cp", &format!("--sparse=always {from} {to}"));
            copied.ok();
        }
        let file = fs::OpenOptions::new().write(true).open(self.path(to)).expect("the file");
        let size = file.metadata().expect("its size").len();
        let mut ranges = Vec::new();
        for _ in 0..8 {
            let length = 4096 << random.below(8);
            let at = random.below((size - length) / 4096) * 4096;
            let bytes = if random.below(8) == 0 { vec![0; length as usize] } else { random.bytes(length) };
            file.write_all_at(&bytes, at).expect("written");
            ranges.push(serde_json::json!({ "offset": at, "length": length }));
        }
        fs::write(self.path(changed), Value::from(ranges).to_string()).expect("written");
    }
}

/// Numbers that look random and are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
        bytes
    }
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Says what a run did not look at, whether its output is captured or not.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Says what was measured.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A stock restic: the installed one, or the one that the environment names.
pub fn restic(test: &str) -> Option<PathBuf> {
    let program = std::env::var_os("NESTLING_VAULT_RESTIC").map_or_else(|| "restic".into(), PathBuf::from);
    if runs(&program, "version") {
        return Some(program);
    }
    skip(test, "restic is not installed");
    None
}

pub fn runs(program: &Path, argument: &str) -> bool {
    let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many files a directory of the repository has.
pub fn count(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

/// The first line that a process prints.
pub fn first_line(child: &mut Child) -> String {
    let mut out = child.stdout.take().expect("its output");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && out.read(&mut byte).is_ok_and(|read| read == 1) {
        line.push(byte[0]);
    }
    // Kept open, so that the process can go on printing.
    child.stdout = Some(out);
    String::from_utf8_lossy(&line).into_owned()
}

//! The program as a whole, without guests: exit statuses, what goes to which output, and how a node starts.
//!
//! These nodes have empty homes and define no network, so nothing of the machine is touched.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// A home whose node ends with the test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestling"));
        command.args(args).env("NESTLING_HOME", self.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Its status, what it wrote as data, and what it said.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        told(self.command(args).output().expect("nestling runs"))
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nestling runs")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.command(&["node", "stop"]).output();
    }
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("a status"), text(output.stdout), text(output.stderr))
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

#[test]
fn of_commands_that_start_at_once_all_find_the_same_node() {
    let home = Home::new();
    let commands: Vec<Child> = (0..6).map(|_| home.spawn(&["--json", "node", "start"])).collect();
    let pids: Vec<Value> = commands
        .into_iter()
        .map(|command| {
            let (status, data, said) = told(command.wait_with_output().expect("it ends"));
            assert_eq!(status, 0, "{said}");
            json(&data)["pid"].clone()
        })
        .collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");

    assert_eq!(home.run(&["node", "stop"]).0, 0);
    let (status, data, said) = home.run(&["node", "status"]);
    assert_eq!((status, data.as_str()), (1, ""));
    assert!(said.contains("no node answers") && said.contains("\nhint: "), "{said}");
}

#[test]
fn a_status_says_whether_all_some_or_nothing_was_done() {
    let home = Home::new();
    assert_eq!(home.run(&["vm", "create", "A", "--memory", "64MB"]), (0, String::new(), String::new()));
    assert_eq!(home.run(&["vm", "remove", "nowhere"]).0, 1);
    let (status, data, said) = home.run(&["--json", "vm", "remove", "A", "nowhere"]);
    assert_eq!(status, 3);
    assert_eq!(json(&data)["name"], "A");
    assert_eq!(json(&said)["code"], "not-found");
    assert_eq!(home.run(&["-c", "exit 7"]).0, 7);
    assert_eq!(home.run(&["-c", "Get-VM nowhere"]).0, 1);
}

#[test]
fn a_command_line_that_makes_no_sense_starts_nothing() {
    let home = Home::new();
    for args in [
        &["frobnicate"][..],
        &[],
        &["vm", "create", "a/b//c"],
        &["vm", "create", "A", "--memory", "much"],
        &["vm", "create", "A", "--append", "x"],
        &["vm", "set", "A"],
        &["-c", "Get-VM", "tree"],
        &["--json", "-c", "Get-VM"],
        &["--in", "A", "node"],
        &["nat", "create", "N", "10.0.0.0/24", "--dhcp", "10.0.0.5"],
    ] {
        let (status, data, said) = home.run(args);
        assert_eq!((status, data.as_str()), (2, ""), "{args:?}");
        assert!(!said.is_empty(), "{args:?}");
    }
    let (status, _, said) = home.run(&["--json", "vm", "frobnicate"]);
    assert_eq!((status, json(&said)["code"].as_str()), (2, Some("invalid")));
    assert!(!home.path().join("api.sock").exists());
}

#[test]
fn a_node_that_cannot_start_says_why_and_doctor_still_answers() {
    let home = Home::new();
    fs::write(home.path().join("nestling.db"), "this is no database, however much it looks like a file")
        .expect("damage");
    let (status, data, said) = home.run(&["vm", "list"]);
    assert_eq!((status, data.as_str()), (1, ""));
    assert!(said.contains("nestling.db"), "{said}");

    let (status, data, _) = home.run(&["doctor", "--json"]);
    assert_eq!(status, 1);
    let findings: Vec<Value> = data.lines().map(json).collect();
    assert_eq!(findings[0]["id"], "node");
    assert!(findings.iter().any(|f| f["id"] == "qemu"), "{data}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Home::new();
    assert_eq!(home.run(&["node", "start"]).0, 0);
    let mut child = home.spawn(&["-c", "while ($true) { 'a line' }"]);
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 7]).expect("a line");
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_script_is_a_file_or_standard_input() {
    let home = Home::new();
    let file = home.path().join("script.ps1");
    fs::write(&file, "\u{feff}1 + 1\r\n\u{201c}quoted\u{201d}\r\n").expect("a script");
    assert_eq!(home.run(&["-f", &file.display().to_string()]).1, "2\nquoted\n");
    let said = home.command(&["-f", "-"]).stdin(fs::File::open(&file).expect("the script")).output();
    assert_eq!(told(said.expect("nestling runs")).1, "2\nquoted\n");
    assert_eq!(home.run(&["-f", "/nonexistent.ps1"]).0, 1);
}

//! A job saves what fits its pattern by itself, again and again, and a second place has it all. Another one covers what has a
//! tag, and tells by mail how it went.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::nest::{Nest, Said};

const PASSWORD: &str = "correct horse";

struct Story {
    nest: Nest,
}

impl Story {
    /// Two repositories, two machines, and a job that saves them every minute from now on. One of them boots meanwhile.
    fn begin() -> Self {
        let nest = Nest::new("jobs");
        nest.image("pebble");
        let story = Self { nest };
        fs::write(story.file("password"), format!("{PASSWORD}\n")).expect("a file");
        for name in ["First", "Second"] {
            let (place, password) = (story.text(name), story.text("password"));
            story.nest.run(&["repository", "add", name, &place, "--password-file", &password]).ok();
        }
        for name in ["web1", "web2"] {
            let disk = story.text(&format!("{name}.qcow2"));
            story.nest.run(&["vm", "create", name, "--image", "pebble"]).ok();
            story.nest.run(&["disk", "create", &disk, "--size", "64MB"]).ok();
            story.nest.run(&["vm", "drive", "add", name, &disk]).ok();
        }
        story.make_job();
        story.nest.run(&["vm", "start", "web1"]).ok();
        story.nest.wait_ok("agent", &["vm", "exec", "web1", "--", "test", "-b", "/dev/vda"]);
        story
    }

    fn make_job(&self) {
        let args = ["job", "create", "Webs", "--vm", "web*", "--repository", "First", "--crash-consistent"];
        let more = ["--copy-to", "Second", "--parallel", "2", "--schedule", "every minute", "--disabled"];
        self.nest.run(&[&args[..], &more].concat()).ok();
        let plan: Value =
            serde_json::from_str(&self.nest.run(&["--json", "job", "dry-run", "Webs"]).ok()).expect("a plan");
        assert_eq!(
            (&plan["machines"][0]["vm"], &plan["machines"][1]["vm"]),
            (&"web1".into(), &"web2".into()),
            "{plan}"
        );
        self.nest.run(&["job", "enable", "Webs"]).ok();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.nest.home.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn scribble(&self, megabytes: u32) {
        let line = format!("dd if=/dev/urandom of=/dev/vda bs=1M count={megabytes} conv=fsync 2>&1");
        self.nest.run(&["vm", "exec", "web1", "--", "sh", "-c", &line]).ok();
    }

    fn objects(said: &str) -> Vec<Value> {
        said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    /// The runs of a job that have ended, oldest first, as soon as there are so many.
    fn runs(&self, job: &str, count: usize) -> Vec<Value> {
        let ended = |said: &Said| {
            let runs = Self::objects(&said.stdout);
            runs.iter().filter(|run| run["ended_at_ms"].is_u64()).count() >= count
        };
        let history = ["--json", "job", "history", job];
        let said = self.nest.wait("run", Duration::from_secs(150), &history, ended);
        let mut runs = Self::objects(&said.stdout);
        runs.reverse();
        runs
    }

    /// Stock restic finds nothing wrong, and so many snapshots.
    fn check_by_restic(&self, name: &str, count: usize) {
        let restic = |args: &[&str]| -> String {
            let mut command = Command::new("restic");
            command.args(args).args(["--no-cache", "--repo"]).arg(self.file(name));
            let said: Said = command.env("RESTIC_PASSWORD", PASSWORD).output().expect("restic runs").into();
            said.ok()
        };
        restic(&["check", "--read-data"]);
        let snapshots: Value = serde_json::from_str(&restic(&["snapshots", "--json"])).expect("a list");
        assert_eq!(snapshots.as_array().map(Vec::len), Some(count), "{name}: {snapshots}");
    }
}

#[test]
fn a_job_saves_what_fits_and_copies_it() {
    let story = Story::begin();
    let nest = &story.nest;
    // By itself, at the next full minute; the one that a person asks for reads what changed since.
    let first = &story.runs("Webs", 1)[0];
    assert_eq!((&first["state"], &first["causes"][0]), (&"Succeeded".into(), &"schedule".into()), "{first}");
    nest.run(&["job", "set", "Webs", "--clear", "schedule"]).ok();
    nest.wait("rest", Duration::from_secs(60), &["--json", "job", "show", "Webs"], |said| {
        said.stdout.contains("\"running\":null")
    });
    story.scribble(1);
    let said = nest.run(&["job", "run", "Webs"]);
    assert!(said.status == 0 && said.stdout.contains("web1@"), "{}\n{}", said.stdout, said.stderr);
    let runs = story.runs("Webs", 2);
    let last = runs.last().expect("a run");
    assert_eq!(last["state"], "Succeeded", "{last}");
    for machine in last["machines"].as_array().expect("machines") {
        assert_eq!(machine["disks"][0]["reading"], "Changes", "{machine}");
    }
    let read = last["machines"][0]["disks"][0]["read_bytes"].as_u64().expect("a number");
    assert!((1 << 20..=2 << 20).contains(&read), "{read}");
    let number = last["number"].to_string();
    let log = nest.run(&["backup", "log", &number]).ok();
    assert!(log.contains("web1: recovery point") && log.contains("copied to 'Second'"), "{log}");

    // An administrator sees the same in PowerShell's words.
    let shown = nest.ps("Get-VMBackupJob Webs | ForEach-Object { $_.LastResult; $_.CopyTo }").ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["Succeeded", "Second"]);
    let read = nest.ps("(Get-VMBackupRun -JobName Webs -Newest 1).Machines[0].Disks[0].ReadBytes").ok();
    assert!(read.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0), "{read}");
    for name in ["First", "Second"] {
        story.check_by_restic(name, 2 * runs.len());
    }
}

/// A real mail server on the host, behind STARTTLS, a name and a password.
struct MailServer {
    child: Child,
    dir: PathBuf,
    port: String,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(dir: &Path, line: &str) {
    let said: Said =
        Command::new("openssl").args(line.split(' ')).current_dir(dir).output().expect("openssl runs").into();
    said.ok();
}

impl MailServer {
    fn start(nest: &Nest) -> Self {
        let dir = nest.home.join("mail");
        fs::create_dir(&dir).expect("a directory");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let extensions = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
        openssl(
            &dir,
            &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=CA {extensions}"),
        );
        openssl(&dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
        fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
        let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
        openssl(&dir, &format!("x509 -req -in server.csr {by} -out server.pem"));
        fs::write(dir.join("password"), "hunter2\n").expect("a file");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/tests/mail_server.py");
        let at = |name: &str| dir.join(name).into_os_string();
        let args = [
            script.into(),
            dir.clone().into_os_string(),
            "starttls".into(),
            at("server.pem"),
            at("server.key"),
            "nest".into(),
            "hunter2".into(),
        ];
        // The distribution's own, which has the package.
        let mut command = nest.command_as("/usr/bin/python3", args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut port).expect("a port");
        Self { child, dir, port: port.trim().to_owned() }
    }

    /// The mail of a number, as soon as it is there.
    fn mail(&self, number: u32) -> Value {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(text) = fs::read_to_string(self.dir.join(format!("{number}.json"))) {
                return serde_json::from_str(&text).expect("an object");
            }
            assert!(Instant::now() < end, "mail {number} has not come");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_job_covers_what_has_its_tag_and_tells_by_mail() {
    let nest = Nest::new("mail");
    let server = MailServer::start(&nest);
    let text = |name: &str| nest.home.join(name).display().to_string();
    let (at, ca, password) =
        (format!("127.0.0.1:{}", server.port), text("mail/ca.pem"), text("mail/password"));
    let known = ["mail", "set", "--server", &at, "--from", "nest@example.org", "--user", "nest"];
    nest.run(&[&known[..], &["--password-file", &password, "--ca", &ca]].concat()).ok();
    assert!(!nest.run(&["--json", "mail", "show"]).ok().contains("hunter2"));
    nest.run(&["mail", "test", "me@example.org"]).ok();
    assert_eq!(server.mail(1)["to"][0], "me@example.org");

    nest.run(&["repository", "add", "First", &text("First"), "--password-file", &password]).ok();
    nest.run(&["vm", "create", "m1", "--new-disk", "16MB", "--tag", "Nightly"]).ok();
    nest.run(&["vm", "create", "m2", "--new-disk", "16MB"]).ok();
    let told = ["--mail", "admin@example.org", "--mail-on", "success,warnings,failure"];
    nest.run(&[&["job", "create", "Told", "--tag", "nightly", "--crash-consistent"], &told[..]].concat())
        .ok();
    let covered = || {
        let said = nest.run(&["--json", "job", "dry-run", "Told"]).ok();
        let plan: Value = serde_json::from_str(&said).expect("a plan");
        let machines = plan["machines"].as_array().expect("machines").clone();
        assert!(machines.iter().all(|machine| machine["named_by"] == "tag:nightly"), "{plan}");
        machines.iter().filter_map(|machine| machine["vm"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(covered(), ["m1"]);
    nest.run(&["vm", "set", "m2", "--tag", "NIGHTLY"]).ok();
    assert_eq!(covered(), ["m1", "m2"]);
    nest.run(&["job", "run", "Told"]).ok();
    let mail = server.mail(2);
    assert_eq!(
        (&mail["to"][0], &mail["user"], &mail["tls"]),
        (&"admin@example.org".into(), &"nest".into(), &true.into())
    );
    let data = mail["data"].as_str().expect("a text");
    for words in
        ["Subject: Told succeeded on ", "m1: succeeded in ", "m2: succeeded in ", "nestling backup log 1"]
    {
        assert!(data.contains(words), "{words}: {data}");
    }

    // A server that is away makes a warning, and no backup fail.
    nest.run(&["vm", "set", "m1", "--untag", "nightly"]).ok();
    assert_eq!(covered(), ["m2"]);
    drop(server);
    nest.run(&["job", "run", "Told"]).ok();
    let show = ["--json", "backup", "show", "2"];
    let said = nest
        .wait("warning", Duration::from_secs(120), &show, |said| said.stdout.contains("could not be sent"));
    let run: Value = serde_json::from_str(&said.stdout).expect("a run");
    assert_eq!(
        (&run["state"], run["machines"].as_array().map(Vec::len)),
        (&"Succeeded".into(), Some(1)),
        "{run}"
    );
    assert!(run["warnings"][0].as_str().is_some_and(|why| why.starts_with("admin@example.org")), "{run}");
}

//! A server with PostgreSQL and MariaDB is backed up while both are written to: what a program was told is committed is in each
//! point, and logs are cut only when the point is there.
//!
//! `NESTLING_STORIES_INCREMENTALS` says how many increments there are: 2 if it is not set, the last of which meets a node that
//! is killed while it cuts logs.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::nest::{Nest, Said, kill, root};

/// systemd and two databases under emulation take their time.
const SERVER_DEADLINE: Duration = Duration::from_secs(420);
const STEP_DEADLINE: Duration = Duration::from_secs(120);
/// Each writes row after row, and says which one is committed.
const LOAD: &str = r#"
runuser -u postgres -- psql -q -c 'CREATE DATABASE load' && runuser -u postgres -- psql -q -d load -c 'CREATE TABLE t (n bigint PRIMARY KEY)'
mariadb -e 'CREATE DATABASE load_; CREATE TABLE load_.t (n BIGINT PRIMARY KEY) ENGINE=InnoDB; CREATE TABLE load_.m (n BIGINT PRIMARY KEY) ENGINE=MyISAM'
rows() { n=0; while :; do n=$((n + 1)); echo "$1" | sed "s/%/$n/g"; sleep 0.05; done; }
rows 'INSERT INTO t VALUES (%) RETURNING n;' | stdbuf -oL runuser -u postgres -- psql -qAtX -d load > /run/acked.postgresql 2>&1 &
rows 'INSERT INTO t VALUES (%); INSERT INTO m VALUES (%); SELECT %;' | mariadb -NBn -D load_ > /run/acked.mariadb 2>&1 &
printf '#!/bin/sh\necho cut >> /run/cuts\nsleep 5\n' > /usr/local/bin/cutting; chmod 755 /usr/local/bin/cutting
"#;
/// Both begin a new log, and the older ones are complete.
const ROTATE: &str = "mariadb -e 'FLUSH BINARY LOGS'; runuser -u postgres -- psql -qAtX -c 'SELECT pg_switch_wal()'; \
                      until [ -n \"$(ls /var/lib/postgresql/archive)\" ]; do sleep 0.2; done";
const LOGS: &str = "cd /var/lib/mysql; ls mysql-bin.0*; ls /var/lib/postgresql/archive";

/// The last rows that were told to be committed: PostgreSQL's and MariaDB's.
type Acked = [u64; 2];

struct Story {
    nest: Nest,
    out: PathBuf,
}

impl Story {
    fn begin() -> Self {
        let nest = Nest::new("applications");
        nest.image("database");
        let out = root().join("applications-out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out).expect("a directory");
        let path = |name: &str| nest.home.join(name).display().to_string();
        fs::write(path("password"), "correct horse\n").expect("a file");
        fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
        nest.run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]).ok();
        nest.run(&["vm", "create", "DB", "--image", "database", "--processors", "2", "--start"]).ok();
        let asks = "mariadb -e 'SELECT 1' && cd / && runuser -u postgres -- psql -c 'SELECT 1'";
        nest.wait("databases", SERVER_DEADLINE, &["vm", "exec", "DB", "--", "sh", "-c", asks], |said| {
            said.status == 0
        });
        let story = Self { nest, out };
        story.guest(&format!("cd /; ({LOAD}) < /dev/null > /run/load.log 2>&1"));
        story.acked_after([0, 0]);
        story
    }

    fn guest(&self, line: &str) -> String {
        self.nest.run(&["vm", "exec", "DB", "--", "sh", "-c", line]).ok()
    }

    /// What is committed by now; both have gone on since.
    fn acked_after(&self, before: Acked) -> Acked {
        let tail = "for name in postgresql mariadb; do tail -n 1 /run/acked.$name; done";
        let numbers = |said: &Said| -> Acked {
            let mut lines = said.stdout.lines().map(|line| line.trim().parse().unwrap_or(0));
            [lines.next().unwrap_or(0), lines.next().unwrap_or(0)]
        };
        let more = |said: &Said| numbers(said).iter().zip(before).all(|(now, before)| *now > before);
        numbers(&self.nest.wait("rows", STEP_DEADLINE, &["vm", "exec", "DB", "--", "sh", "-c", tail], more))
    }

    fn logs(&self) -> Vec<String> {
        self.guest(LOGS).lines().map(str::to_owned).collect()
    }

    fn backup(&self, more: &[&str]) -> Value {
        let args = ["--json", "backup", "run", "DB", "--application-consistent", "--or-fail"];
        serde_json::from_str(&self.nest.run(&[&args[..], more].concat()).ok()).expect("a run")
    }

    /// Begins a run that is to be met in its middle, and waits for a stage of it.
    fn begun(&self, stage: &str, more: &[&str]) -> String {
        let number = self.backup(&[&["--detach"], more].concat())["number"].to_string();
        self.nest.wait(stage, STEP_DEADLINE, &["--json", "backup", "show", &number], |said| {
            let run: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
            run["progress"]["stage"] == stage
        });
        number
    }

    fn get(&self, point: &str, paths: &[&str]) {
        let volumes = self.nest.run(&["--json", "recover", "ls", point]).ok();
        let volumes = volumes.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        let volume =
            volumes.into_iter().find(|volume| volume["label"] == "nestling-debian").expect("a volume");
        let place = volume["place"].as_str().expect("a place");
        for path in paths {
            let into = self.out.join(path);
            let into = into.parent().expect("a directory");
            fs::create_dir_all(into).expect("a directory");
            self.nest
                .run(&["recover", "get", point, &format!("{place}{path}"), &into.display().to_string()])
                .ok();
        }
    }

    /// A program that came out of a point, as the owner of a directory, with the point's own libraries and users.
    fn program(&self, program: &str, owner: &Path) -> Command {
        let libraries = self.out.join("usr/lib/x86_64-linux-gnu");
        let owner = fs::metadata(owner).expect("it is there");
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-ec", "mount --bind \"$1\" /etc/passwd; shift; exec setpriv \"$@\"", "sh"])
            .arg(self.out.join("etc/passwd"))
            .args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())])
            .arg("--clear-groups")
            .arg(libraries.join("ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(libraries)
            .arg(self.out.join(program))
            .current_dir("/");
        command
    }

    /// All rows up to the last one are there, and the last one is one that was told or a later one.
    fn has_all(&self, point: &str, acked: Acked) {
        let data = ["var/lib/postgresql", "var/lib/mysql"];
        for directory in data {
            let _ = fs::remove_dir_all(self.out.join(directory));
        }
        self.get(point, &data);
        let rows = [self.postgresql(), self.mariadb()];
        for ((count, last), acked) in rows.into_iter().zip(acked) {
            assert!(count == last && last >= acked, "{point}: {count} rows up to {last}, told {acked}");
        }
    }

    /// The server recovers and answers: how many rows there are, and the last.
    fn postgresql(&self) -> (u64, u64) {
        let version = first_of(&self.out.join("usr/lib/postgresql"));
        let data = self.out.join(format!("var/lib/postgresql/{version}/main"));
        let config = self.out.join("empty.conf");
        fs::write(&config, "").expect("a file");
        let mut server = self
            .program(&format!("usr/lib/postgresql/{version}/bin/postgres"), &data)
            .args(["--single", "-D"])
            .arg(&data)
            .arg("-c")
            .arg(format!("config_file={}", config.display()))
            .args(["-c", "archive_mode=off", "load"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv runs");
        let query = b"SELECT 'rows ' || count(*) || ' ' || max(n) || ' end' AS answer FROM t\n";
        std::io::Write::write_all(&mut server.stdin.take().expect("a pipe"), query).expect("it listens");
        let said: Said = server.wait_with_output().expect("it ends").into();
        let log = said.stderr.clone();
        let text = said.ok();
        let answer = text.split("rows ").nth(1).and_then(|rest| rest.split(" end").next());
        numbers(answer.unwrap_or_else(|| panic!("{text}\n{log}")))
    }

    fn mariadb(&self) -> (u64, u64) {
        let data = self.out.join("var/lib/mysql");
        let socket = data.join("story.sock");
        let path = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let log = self.out.join("mariadb.log");
        let mut server = Server(
            self.program("usr/sbin/mariadbd", &data)
                .args([
                    "--no-defaults",
                    "--skip-grant-tables",
                    "--skip-networking",
                    "--tmpdir=/tmp",
                    "--log-bin=mysql-bin",
                ])
                .args([
                    path("datadir", &data),
                    path("socket", &socket),
                    path("basedir", &self.out.join("usr")),
                ])
                .args([path("pid-file", &data.join("story.pid"))])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).expect("a file"))
                .spawn()
                .expect("setpriv runs"),
        );
        let deadline = Instant::now() + STEP_DEADLINE;
        let said = loop {
            let query = "SELECT CONCAT(COUNT(*), ' ', MAX(n)) FROM load_.t; CHECK TABLE load_.m";
            let mut client = self.program("usr/bin/mariadb", &data);
            let client = client.args(["--no-defaults", "-NB", "-e", query]).arg(path("socket", &socket));
            let said: Said = client.output().expect("setpriv runs").into();
            let log = || fs::read_to_string(&log).unwrap_or_default();
            if said.status == 0 {
                break said.stdout;
            }
            assert!(server.0.try_wait().expect("it can be asked").is_none(), "{}", log());
            assert!(Instant::now() < deadline, "{}\n{}", said.stderr, log());
            std::thread::sleep(Duration::from_millis(200));
        };
        drop(server);
        let (rows, checked) = said.split_once('\n').expect("two answers");
        // It has no log of its own: it is whole only because nothing wrote to it at the instant.
        assert!(checked.trim_end().ends_with("status\tOK"), "{said}");
        numbers(rows)
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.out);
    }
}

fn first_of(directory: &Path) -> String {
    let mut entries = fs::read_dir(directory).expect("a directory");
    entries.next().expect("a version").expect("an entry").file_name().to_string_lossy().into_owned()
}

fn numbers(text: &str) -> (u64, u64) {
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or_else(|_| panic!("{text}")));
    (words.next().expect("a count"), words.next().expect("a row"))
}

fn point_of(run: &Value) -> String {
    let machine = &run["machines"][0];
    assert_eq!(machine["consistency"], "Application", "{run}");
    machine["point"].as_str().expect("a point").to_owned()
}

#[test]
fn databases_lose_nothing_and_logs_go_only_when_the_point_is_there() {
    let count = std::env::var("NESTLING_STORIES_INCREMENTALS").ok().and_then(|n| n.parse().ok());
    let increments: usize = count.unwrap_or(2).max(2);
    let story = Story::begin();
    let mut acked = story.acked_after([0, 0]);
    let full = story.backup(&[]);
    let mut points = vec![(point_of(&full), acked)];
    acked = story.acked_after(acked);

    // A node that dies before the point is there cuts nothing, and both databases go on.
    story.guest(ROTATE);
    let logs = story.logs();
    story.nest.run(&["repository", "set", "R", "--upload-limit", "100KB"]).ok();
    let number = story.begun("saving", &["--cut-logs"]);
    kill(story.nest.node_pid());
    let run = story.nest.run(&["--json", "backup", "show", &number]).ok();
    assert!(run.contains("Interrupted"), "{run}");
    acked = story.acked_after(acked);
    let left = story.logs();
    assert!(logs.iter().all(|log| left.contains(log)), "{logs:?}\n{left:?}");
    story.nest.run(&["repository", "set", "R", "--upload-limit", "0"]).ok();

    for _ in 1..increments {
        story.guest(ROTATE);
        let logs = story.logs();
        acked = story.acked_after(acked);
        let run = story.backup(&["--cut-logs", "--application", "postgresql", "--application", "mariadb"]);
        assert_eq!(run["machines"][0]["disks"][0]["reading"], "Changes", "{run}");
        points.push((point_of(&run), acked));
        let left = story.logs();
        // The first of each kind: MariaDB's are listed first, and PostgreSQL's names are digits alone.
        let archived = logs.iter().find(|log| log.starts_with('0')).expect("an archived log");
        assert!(!left.contains(&logs[0]) && !left.contains(archived), "{logs:?}\n{left:?}");
        assert!(
            left.iter().any(|log| log.starts_with("mysql-bin")),
            "the log that is written stays: {left:?}"
        );
    }

    // One that dies while it cuts them is followed by one that does it.
    story.guest(ROTATE);
    acked = story.acked_after(acked);
    let number =
        story.begun("cutting logs", &["--cut-logs", "--guest-after-durable", "/usr/local/bin/cutting"]);
    let cuts = ["vm", "exec", "DB", "--", "wc", "-l", "/run/cuts"];
    story.nest.wait("program", STEP_DEADLINE, &cuts, |said| said.stdout.starts_with('1'));
    kill(story.nest.node_pid());
    story.nest.wait("program again", STEP_DEADLINE, &cuts, |said| said.stdout.starts_with('2'));
    let log = story.nest.run(&["backup", "log", &number]).ok();
    assert!(log.contains("the next node cuts logs"), "{log}");
    let newest = story.nest.run(&["--json", "backup", "points", "DB"]).ok();
    let newest: Value = serde_json::from_str(newest.lines().next().expect("a point")).expect("a point");
    points.push((newest["id"].as_str().expect("an id").to_owned(), acked));
    assert_eq!(points.len(), increments + 1);

    story.nest.run(&["vm", "turn-off", "DB"]).ok();
    let programs = [
        "etc/passwd",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/postgresql",
        "usr/share/postgresql",
        "usr/sbin/mariadbd",
        "usr/bin/mariadb",
    ];
    story.get(&points[0].0, &programs);
    for (point, acked) in &points {
        story.has_all(point, *acked);
    }
}

//! Programs that are run in a guest around a backup: the ready-made ones for databases, and those that a job names.
//!
//! The guest is not believed: what its programs say is cut, goes into the run's log and is handed back to the same guest later, and
//! nowhere else. Each has its time; one that takes longer is left alone, for the agent has no way to end it.

use std::time::Duration;

use nestling_hypervisor::agent::{Agent, AgentError, ExecOutcome, ExecRequest};
use nestling_model::protection::{
    Application, Command,
    consistency::{NOTE_BYTES_MAX, NOTES_MAX},
};
use tokio::time::{Instant, sleep, timeout};

use crate::protection::log::RunLog;

const POSTGRESQL: &str = include_str!("postgresql.sh");
const MARIADB: &str = include_str!("mariadb.sh");
/// The exit status with which a ready-made program says that its application does not run there.
const ABSENT: i64 = 66;
/// How long a server has to write out what it holds, and to let commits be held back.
const CHECKPOINT_SECONDS: u32 = 240;
const LOCK_SECONDS: u32 = 30;
/// How long commits are held back when nobody lets them go. A freeze takes at most a minute, and what is prepared for it less.
const HOLD_SECONDS: u32 = 120;
/// More than that, for a slow guest to begin and end a program.
const GRACE_SECONDS: u32 = 60;
const RELEASE_SECONDS: u32 = 30;
const CUT_SECONDS: u32 = 300;
/// An agent that is frozen refuses to run anything; it is asked again so long.
const REFUSED_PATIENCE: Duration = Duration::from_secs(60);
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// What is kept of what a program says.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
const REASON_CHARS_MAX: usize = 200;

/// Where programs are run, and where what they say is written.
pub struct Guest<'a> {
    pub agent: Agent,
    pub log: &'a RunLog,
    /// The machine's name, for the log.
    pub path: String,
}

impl Guest<'_> {
    pub fn say(&self, line: &str) {
        self.log.say(&format!("{}: in the guest: {line}", self.path));
    }
}

/// A program to run in a guest.
pub struct Program {
    /// For people.
    name: String,
    request: ExecRequest,
}

/// What came of a program that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With what it noted.
    Done(Vec<String>),
    /// What it is for does not run in the guest.
    Absent,
}

impl Program {
    pub fn own(command: &Command) -> Self {
        let request = ExecRequest {
            path: command.program.clone(),
            args: command.arguments.clone(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(command.seconds_max.into()),
        };
        Self { name: format!("the program {}", command.program), request }
    }

    /// `None` for an application that nothing ready-made is known for.
    fn ready_made(
        application: &Application,
        verb: &str,
        arguments: Vec<String>,
        seconds: u32,
    ) -> Option<Self> {
        let (name, text) = match application {
            Application::PostgreSql { .. } => ("PostgreSQL", POSTGRESQL),
            Application::MariaDb { .. } => ("MariaDB", MARIADB),
            Application::Vss { .. } | Application::Found { .. } => return None,
        };
        let words = ["-s", "--", verb].into_iter().map(str::to_owned);
        let request = ExecRequest {
            path: "/bin/sh".to_owned(),
            args: words.chain(arguments).collect(),
            env: Vec::new(),
            stdin: text.as_bytes().to_vec(),
            timeout: Duration::from_secs((seconds + GRACE_SECONDS).into()),
        };
        Some(Self { name: format!("the step \"{verb}\" of {name}"), request })
    }

    pub fn prepare(application: &Application) -> Option<Self> {
        let (seconds, hold) = match application {
            Application::MariaDb { .. } => (LOCK_SECONDS, vec![HOLD_SECONDS.to_string()]),
            _ => (CHECKPOINT_SECONDS, Vec::new()),
        };
        let arguments = std::iter::once(seconds.to_string()).chain(hold).collect();
        Self::ready_made(application, "prepare", arguments, seconds)
    }

    /// `None` if nothing of it is held.
    pub fn release(application: &Application) -> Option<Self> {
        if !matches!(application, Application::MariaDb { .. }) {
            return None;
        }
        Self::ready_made(application, "release", Vec::new(), RELEASE_SECONDS)
    }

    /// `None` if no logs are to be cut.
    pub fn cut(application: &Application, notes: &[String]) -> Option<Self> {
        let before = match application {
            Application::PostgreSql { cut_archive: Some(directory), .. } => vec![directory.clone()],
            Application::PostgreSql { cut_logs: true, cut_archive: None } => vec![String::new()],
            Application::MariaDb { cut_logs: true } => Vec::new(),
            _ => return None,
        };
        if notes.is_empty() {
            return None;
        }
        let arguments = before.into_iter().chain(notes.iter().cloned()).collect();
        Self::ready_made(application, "cut", arguments, CUT_SECONDS)
    }

    /// Runs it to its end. Why it failed, as a sentence.
    pub async fn run(self, guest: &Guest<'_>) -> Result<Ended, String> {
        let Self { name, request } = self;
        guest.say(&name);
        let outcome = patiently(&guest.agent, request)
            .await
            .map_err(|error| format!("{name} failed in the guest: {error}"))?;
        let (said, complained) = (text(&outcome.stdout), text(&outcome.stderr));
        for line in said.lines().chain(complained.lines()).filter(|line| !line.trim().is_empty()) {
            guest.say(line);
        }
        match (outcome.exit_code, outcome.signal) {
            (Some(0), _) => notes(&said).map(Ended::Done).map_err(|why| format!("{name}: {why}")),
            (Some(ABSENT), _) => Ok(Ended::Absent),
            (code, signal) => {
                let how = match (code, signal) {
                    (Some(code), _) => format!("exit status {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "no exit status".to_owned(),
                };
                let why: String =
                    complained.lines().last().unwrap_or_default().chars().take(REASON_CHARS_MAX).collect();
                let why = if why.is_empty() { how } else { format!("{why} ({how})") };
                Err(format!("{name} failed in the guest: {why}"))
            }
        }
    }
}

/// Asks again while the agent refuses, which it does as long as it is frozen.
async fn patiently(agent: &Agent, request: ExecRequest) -> Result<ExecOutcome, AgentError> {
    let deadline = Instant::now() + REFUSED_PATIENCE;
    let after = request.timeout + Duration::from_secs(GRACE_SECONDS.into());
    loop {
        let asked = timeout(after, agent.exec(request.clone())).await;
        match asked.unwrap_or(Err(AgentError::StillRuns { after })) {
            Err(AgentError::Refused { reason, .. })
                if reason.contains("frozen") && Instant::now() < deadline =>
            {
                sleep(REFUSED_PAUSE).await;
            }
            done => return done,
        }
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output.get(..OUTPUT_BYTES_MAX).unwrap_or(output)).into_owned()
}

/// The lines that are to be kept.
fn notes(said: &str) -> Result<Vec<String>, String> {
    let notes: Vec<String> =
        said.lines().filter_map(|line| line.strip_prefix("note ")).map(str::to_owned).collect();
    let is_bad =
        |note: &String| note.is_empty() || note.len() > NOTE_BYTES_MAX || note.contains(char::is_control);
    if notes.len() > NOTES_MAX || notes.iter().any(is_bad) {
        return Err("what it notes makes no sense".to_owned());
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command as Process};

    use super::*;

    #[test]
    fn notes_are_few_short_and_harmless() {
        assert_eq!(notes("a\nnote log.3 /var/lib\nnotes\n").unwrap(), ["log.3 /var/lib"]);
        assert!(notes("note ").is_err() && notes("note a\u{1b}[31m").is_err());
        assert!(notes(&format!("note {}", "x".repeat(NOTE_BYTES_MAX + 1))).is_err());
        assert!(notes(&"note x\n".repeat(NOTES_MAX + 1)).is_err());
    }

    #[test]
    fn logs_are_cut_only_where_that_is_asked_for_and_something_was_noted() {
        let noted = ["x.1".to_owned()];
        let maria = |cut_logs| Application::MariaDb { cut_logs };
        assert!(Program::cut(&maria(false), &noted).is_none() && Program::cut(&maria(true), &[]).is_none());
        assert_eq!(Program::cut(&maria(true), &noted).unwrap().request.args, ["-s", "--", "cut", "x.1"]);
        let archive = Some("/archive".to_owned());
        let postgres = Application::PostgreSql { cut_logs: false, cut_archive: archive };
        assert_eq!(
            Program::cut(&postgres, &noted).unwrap().request.args,
            ["-s", "--", "cut", "/archive", "x.1"]
        );
    }

    /// Runs a function of a ready-made program here, with nothing of it that asks a server.
    fn part(text: &str, line: &str) -> std::process::Output {
        let (functions, _) = text.split_once("\nverb=").unwrap();
        Process::new("sh").args(["-c", &format!("{functions}\n{line}")]).output().unwrap()
    }

    #[test]
    fn an_archive_is_cut_before_a_log_whatever_its_timeline_and_nothing_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, data) = (dir.path().join("archive"), dir.path().join("data"));
        fs::create_dir_all(&archive).unwrap();
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        let (old, new) = ("00000001000000020000000A", "00000002000000020000000B");
        let goes = [old.to_owned(), format!("{old}.gz"), format!("{old}.partial")];
        let stays = [
            new.to_owned(),
            "00000001000000020000000B.zst".to_owned(),
            "00000002.history".to_owned(),
            format!("{old}.00000028.backup"),
            format!("{old}.old"),
            format!("{}x", &old[1..]),
        ];
        for name in goes.iter().chain(&stays) {
            fs::write(archive.join(name), "").unwrap();
        }
        let cut = |place: &std::path::Path, first: &str| {
            part(POSTGRESQL, &format!("data='{}'; cut_one '{}' '{first}'", data.display(), place.display()))
        };
        let said = cut(&archive, new);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert!(String::from_utf8_lossy(&said.stdout).contains("3 logs before"), "{said:?}");
        let mut left: Vec<String> =
            fs::read_dir(&archive).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = stays.to_vec();
        expected.sort();
        assert_eq!(left, expected);

        fs::write(data.join("pg_wal").join(old), "").unwrap();
        std::os::unix::fs::symlink(data.join("pg_wal"), dir.path().join("link")).unwrap();
        for (place, first) in [
            (data.join("pg_wal"), new),
            (dir.path().join("link"), new),
            (data.clone(), new),
            (dir.path().join("none"), new),
            (archive.clone(), "x"),
            (archive, "00000002000000020000000b"),
        ] {
            assert!(!cut(&place, first).status.success(), "{}", place.display());
        }
        assert!(data.join("pg_wal").join(old).exists());
    }

    #[test]
    fn an_archive_is_found_in_the_servers_own_words() {
        let found = |command: &str| {
            let said = part(POSTGRESQL, &format!("data=/d; ask() {{ echo '{command}'; }}; archive_of"));
            (said.status.success(), String::from_utf8(said.stdout).unwrap().trim().to_owned())
        };
        for (command, directory) in [
            ("cp %p /mnt/wal/%f", "/mnt/wal"),
            ("test ! -f /a/%f && cp %p \"/a/%f\"", "/a"),
            ("gzip < %p > /mnt/wal/%f.gz", "/mnt/wal"),
            ("(disabled)", ""),
            ("", ""),
        ] {
            assert_eq!(found(command), (true, directory.to_owned()), "{command}");
        }
        for unclear in ["pgbackrest archive-push %p", "cp %p wal/%f"] {
            assert!(!found(unclear).0, "{unclear}");
        }
    }

    /// A client that does what MariaDB's does: it answers, and ends when nothing more is said to it.
    #[test]
    fn commits_are_held_back_until_they_are_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let client = dir.path().join("client");
        let answers = "#!/bin/sh\ncase \"$*\" in *-e*) echo 10.11.6-MariaDB ;; *) read -r line\n\
                       case $line in *BLOCK_COMMIT*) printf 'at\\nbin.000007\\t328\\t\\t\\nheld\\n' ;; esac; cat >/dev/null ;; esac\n";
        fs::write(&client, answers).unwrap();
        fs::set_permissions(&client, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let place = dir.path().join("place");
        let run = |line: &str| {
            let stubs = format!(
                "place='{}'; runs() {{ :; }}; client() {{ program='{}'; }}",
                place.display(),
                client.display()
            );
            let said = part(MARIADB, &format!("{stubs}; {line}"));
            (said.status.success(), format!("{said:?}"))
        };
        let (good, said) = run("prepare 5 60");
        assert!(good && said.contains("note bin.000007"), "{said}");
        assert!(place.join("held").exists());
        let (good, said) = run("release");
        assert!(good && said.contains("commits go on"), "{said}");
        assert!(!place.exists());
        assert!(run("release").0, "nothing is held");
        // Nobody came in time.
        assert!(run("prepare 5 0").0);
        crate::testing::wait(|| !place.join("held").exists());
        let (good, said) = run("release");
        assert!(!good && said.contains("not held back"), "{said}");
        fs::write(&client, "#!/bin/sh\ncase \"$*\" in *-e*) echo 8.0.36 ;; *) echo denied; exit 1 ;; esac\n")
            .unwrap();
        let (good, said) = run("prepare 5 60");
        assert!(!good && said.contains("could not be held back: denied"), "{said}");
    }
}

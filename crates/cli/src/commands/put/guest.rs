//! What is done in the guest, by programs that its agent runs. Everything that they say is the guest's claim.

use std::{io::Cursor, sync::Arc, time::Duration};

use nestling_api::{
    Client, ClientError,
    v1::{ErrorBody, ErrorCode, Exec},
};
use tokio::time::sleep;

use super::target::Folder;
use crate::{
    failure::{Failure, Result, body_of},
    text,
};

const PROBE: &str = include_str!("probe.sh");
const CHECK: &str = include_str!("check.sh");
const BEGIN: &str = include_str!("begin.sh");
const KEEP: &str = include_str!("keep.sh");
/// The one who began it is there: what unpacks goes on waiting. Arguments: all folders that are wanted still.
const WANT: &str = "for dir in \"$@\"; do : > \"$dir/alive\"; done";
const SEND: &str = include_str!("send.sh");
const FINISH: &str = include_str!("finish.sh");
const MOVE: &str = include_str!("move.sh");
const STOP: &str = include_str!("stop.sh");

/// How a program is run in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    seconds: u32,
    /// It does no harm when it is run once more, whatever became of it before.
    may_repeat: bool,
}

/// For what looks, and for what a slow disk has to take.
const LOOK: Turn = Turn { seconds: 300, may_repeat: true };
const WORK: Turn = Turn { seconds: 3600, may_repeat: true };
/// While the guest is held still for a backup its agent refuses everything; that is over soon.
const STILL_SECONDS: u32 = 30;
/// Of what a guest says, in a message.
const SAID_CHARS_MAX: usize = 2000;

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub status: i64,
    pub stdout: String,
    pub stderr: String,
}

/// The inside of a guest.
pub trait Inside {
    async fn run(&self, script: &str, arguments: Vec<String>, input: String, turn: Turn) -> Result<Said>;
    async fn write(&self, path: &str, content: Vec<u8>) -> Result;
}

/// A guest, through the agent in it.
pub struct Guest {
    pub client: Client,
    pub vm: String,
}

impl Guest {
    /// Whether files can be put into it.
    pub async fn check(&self) -> Result {
        let guest = self.client.guest(&self.vm).await.map_err(asked)?;
        let os = guest.os.unwrap_or_default();
        if is_windows(&os) {
            let said =
                format!("'{}' runs {}: files are not put back into Windows yet", self.vm, text::clean(&os));
            return Err(Failure::new(ErrorCode::Invalid, said)
                .hint("take them out with `nestling recover get`, and copy them there"));
        }
        Ok(())
    }
}

fn is_windows(os: &str) -> bool {
    os.to_lowercase().contains("windows")
}

/// What can be done about an agent that does not do what it is asked.
fn asked(error: ClientError) -> Failure {
    let mut body: ErrorBody = body_of(error);
    if body.hint.is_none() {
        body.hint = if body.code == ErrorCode::GuestAbsent {
            Some(
                "start qemu-guest-agent in the guest; or take the files out here with `nestling recover get`"
                    .to_owned(),
            )
        } else if body.message.contains("refused guest-") {
            Some("its configuration has to allow guest-exec, guest-exec-status and guest-file-*".to_owned())
        } else {
            None
        };
    }
    Failure::Error(body)
}

/// Whether the guest was only held still. Of a program that `may_repeat` it does not matter whether it had begun.
fn is_held_still(error: &ClientError, may_repeat: bool) -> bool {
    let message = &error.message;
    let is_still = message.contains("frozen state") || message.contains("disabled for this instance");
    is_still && message.contains("refused guest-") && (may_repeat || message.contains("refused guest-exec: "))
}

impl Inside for Guest {
    async fn run(&self, script: &str, arguments: Vec<String>, input: String, turn: Turn) -> Result<Said> {
        let named = ["-c", script, "nestling-put"].map(str::to_owned);
        let exec = Exec {
            program: "sh".to_owned(),
            arguments: named.into_iter().chain(arguments).collect(),
            input,
            timeout_seconds: Some(turn.seconds),
        };
        let mut tries = 0;
        let result = loop {
            match self.client.exec(&self.vm, &exec).await {
                Err(error) if tries < STILL_SECONDS && is_held_still(&error, turn.may_repeat) => tries += 1,
                result => break result.map_err(asked)?,
            }
            sleep(Duration::from_secs(1)).await;
        };
        let status = result.exit_code.unwrap_or_else(|| 128 + result.signal.unwrap_or_default());
        Ok(Said { status, stdout: result.stdout, stderr: result.stderr })
    }

    async fn write(&self, path: &str, content: Vec<u8>) -> Result {
        let content: Arc<[u8]> = content.into();
        let mut tries = 0;
        loop {
            match self.client.copy_file(&self.vm, path, Cursor::new(Arc::clone(&content))).await {
                Err(error) if tries < STILL_SECONDS && is_held_still(&error, true) => tries += 1,
                result => return result.map_err(asked),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tar {
    Gnu,
    /// Of busybox, or of others: without attributes.
    Plain,
}

/// What there is on the way to a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probed {
    /// Something on the way is no folder.
    pub is_blocked: bool,
    /// So many of the last names are not there.
    pub missing: usize,
    /// The folder, or the name that is to come into it, is there.
    pub is_there: bool,
    pub is_writable: bool,
    pub tar: Option<Tar>,
    pub has_gzip: bool,
    pub free_bytes: Option<u64>,
    /// A link on the way that belongs to somebody else.
    pub led: Option<String>,
    /// The innermost folder that is there, without links.
    pub base: Option<Folder>,
    /// The innermost folder from which files can be renamed to there, and on the way to which nobody but root can change a name.
    pub safe: Option<Folder>,
}

impl Probed {
    fn parse(text: &str) -> Self {
        let mut probed = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "blocked" => probed.is_blocked = true,
                "missing" => probed.missing = value.parse().unwrap_or_default(),
                "there" => probed.is_there = true,
                "writable" => probed.is_writable = true,
                "tar" => probed.tar = Some(if value == "gnu" { Tar::Gnu } else { Tar::Plain }),
                "gzip" => probed.has_gzip = true,
                "led" => probed.led = Some(value.to_owned()),
                "base" => probed.base = Folder::parse(value).ok(),
                "safe" => probed.safe = Folder::parse(value).ok(),
                "df" => probed.free_bytes = free_bytes(value),
                _ => {}
            }
        }
        probed
    }

    /// What unpacks standard input.
    pub fn unpack(&self) -> String {
        let tar = match self.tar {
            // Its clock may be behind that of the machine that was backed up.
            Some(Tar::Gnu) => {
                "tar -x -p --numeric-owner --xattrs --xattrs-include='*' --warning=no-timestamp -f -"
            }
            _ => "tar -x -p -f -",
        };
        if self.has_gzip { format!("gzip -dc | {tar}") } else { tar.to_owned() }
    }
}

/// From the last line that `df -Pk` says: what stands before the percentage. A file system without a size is one in memory, and
/// tells nothing of what it takes.
fn free_bytes(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percent = words.iter().position(|word| word.ends_with('%')).filter(|at| *at >= 3)?;
    let number = |at: usize| words[at].parse::<u64>().ok();
    number(percent - 3).filter(|total| *total > 0)?;
    number(percent - 1)?.checked_mul(1024)
}

/// What is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clashes {
    /// A letter as `check.sh` has it, and a path below the folder that was looked at.
    pub some: Vec<String>,
    pub count: u64,
}

impl Clashes {
    fn parse(text: &str) -> Self {
        let mut clashes = Self::default();
        for line in text.lines() {
            match line.strip_prefix("count=") {
                Some(count) => clashes.count = count.parse().unwrap_or(1),
                None if clashes.some.len() < 20 && !line.is_empty() => clashes.some.push(line.to_owned()),
                None => {}
            }
        }
        clashes.count = clashes.count.max(clashes.some.len() as u64);
        clashes
    }

    pub fn add(&mut self, more: Self) {
        self.count = self.count.saturating_add(more.count);
        self.some.extend(more.some);
        self.some.truncate(20);
    }

    /// Why nothing is put back.
    pub fn failure(&self, base: &Folder) -> Failure {
        let mut said = Vec::new();
        let mut may_be_replaced = true;
        for clash in &self.some {
            let (why, path) = clash.split_at_checked(1).unwrap_or_default();
            let why = match why {
                "d" => " (no folder, which it was)",
                "f" => " (a folder, which it was not)",
                _ => "",
            };
            may_be_replaced &= why.is_empty();
            said.push(format!("{}{why}", base.child(path)));
        }
        if self.count > said.len() as u64 {
            said.push(format!("and {} more", self.count - said.len() as u64));
        }
        let failure = Failure::new(
            ErrorCode::Exists,
            format!("these are there already in the guest: {}", said.join(", ")),
        );
        match may_be_replaced {
            true => failure.hint("--overwrite replaces files"),
            false => failure
                .hint("a folder and what is none do not replace each other: take one away, or give --to"),
        }
    }
}

fn failed(doing: &str, said: &Said) -> Failure {
    let why = if said.stderr.trim().is_empty() { &said.stdout } else { &said.stderr };
    // In one line: the guest shall not seem to say what this program says.
    let why = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let why: String = why.chars().take(SAID_CHARS_MAX).collect();
    let why = if why.is_empty() { format!("it ended with {}", said.status) } else { why };
    Failure::new(ErrorCode::Failed, format!("{doing} in the guest: {why}"))
}

fn done(doing: &str, said: Said) -> Result<Said> {
    if said.status == 0 { Ok(said) } else { Err(failed(doing, &said)) }
}

pub async fn probe(guest: &impl Inside, folder: &Folder, name: &str) -> Result<Probed> {
    let arguments = vec![folder.path(), name.to_owned()];
    let said = guest.run(PROBE, arguments, String::new(), LOOK).await?;
    Ok(Probed::parse(&done("can't look", said)?.stdout))
}

/// `lines` as `check.sh` takes them.
pub async fn check(guest: &impl Inside, base: &Folder, overwrite: bool, lines: String) -> Result<Clashes> {
    let arguments = vec![base.path(), flag(overwrite)];
    let said = guest.run(CHECK, arguments, lines, LOOK).await?;
    Ok(Clashes::parse(&done("can't look", said)?.stdout))
}

fn flag(is_set: bool) -> String {
    u8::from(is_set).to_string()
}

/// Makes the folder `work` in `beside`, and starts what unpacks there.
pub async fn begin(guest: &impl Inside, beside: &Folder, work: &str, probed: &Probed) -> Result {
    let arguments = vec![beside.path(), work.to_owned(), KEEP.to_owned(), probed.unpack()];
    let said = guest.run(BEGIN, arguments, String::new(), Turn { may_repeat: false, ..LOOK }).await?;
    done("can't make a folder", said).map(drop)
}

/// Gives a piece to what unpacks in `work`; `works` are wanted still.
pub async fn send(guest: &impl Inside, number: u64, work: &str, works: &[String], piece: Vec<u8>) -> Result {
    guest.write(&format!("{work}/part"), piece).await?;
    let mut arguments = vec![number.to_string(), work.to_owned()];
    arguments.extend(works.iter().cloned());
    let said = guest.run(SEND, arguments, String::new(), WORK).await?;
    match said.status {
        0 => Ok(()),
        // It says why when it is asked how it ended.
        3 => finish(guest, work, number, "", Vec::new()).await.map(drop),
        4 => Err(gone()),
        _ => Err(failed("can't unpack", &said)),
    }
}

fn gone() -> Failure {
    Failure::new(ErrorCode::Failed, "what unpacked the files in the guest has been ended there")
}

/// They are wanted still, though nothing comes for a while.
pub async fn want(guest: &impl Inside, works: &[String]) -> Result {
    let said = guest.run(WANT, works.to_vec(), String::new(), LOOK).await?;
    done("can't say that more is to come", said).map(drop)
}

/// All pieces are there. Gives what the unpacking warned of.
pub async fn finish(
    guest: &impl Inside,
    work: &str,
    last: u64,
    unpack: &str,
    broken: Vec<String>,
) -> Result<String> {
    let mut arguments = vec![work.to_owned(), last.to_string(), unpack.to_owned()];
    arguments.extend(broken);
    let said = guest.run(FINISH, arguments, String::new(), WORK).await?;
    match said.status {
        0 => Ok(said.stderr.chars().take(SAID_CHARS_MAX).collect()),
        4 => Err(gone()),
        _ => Err(failed("can't unpack", &said)),
    }
}

/// How the moving ended.
pub enum Moved {
    Done,
    Clashes(Clashes),
    /// Something is in its place, and something is not.
    Half(Failure),
}

pub async fn place(guest: &impl Inside, work: &str, base: &Folder, overwrite: bool) -> Result<Moved> {
    let arguments = vec![work.to_owned(), base.path(), flag(overwrite)];
    let said = match guest.run(MOVE, arguments, String::new(), Turn { may_repeat: false, ..WORK }).await {
        Ok(said) => said,
        // It may have begun, and go on without being watched.
        Err(failure) => return Ok(Moved::Half(failure.hint(format!(
            "the files may be in their places, or get there still: when {work} is gone from the guest, they are"
        )))),
    };
    match said.status {
        0 => Ok(Moved::Done),
        7 => Ok(Moved::Clashes(Clashes::parse(&said.stdout))),
        8 => Ok(Moved::Half(
            failed("can't move everything to its place", &said)
                .hint(format!("what is not in its place yet is in {work}/stage/tree in the guest")),
        )),
        _ => Err(failed("can't move anything to its place", &said)),
    }
}

pub async fn stop(guest: &impl Inside, works: Vec<String>) -> Result {
    let said = guest.run(STOP, works, String::new(), LOOK).await?;
    done("can't clear away what was brought", said).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_read() {
        let probed = Probed::parse(
            "missing=2\nwritable=1\ntar=gnu\ngzip=1\nnonsense\ndf=/dev/vda1 100 60 40 60% /with a blank",
        );
        let expected = Probed {
            missing: 2,
            is_writable: true,
            tar: Some(Tar::Gnu),
            has_gzip: true,
            free_bytes: Some(40 << 10),
            ..Probed::default()
        };
        assert_eq!(probed, expected);
        for nothing in ["", "rootfs 0 0 0 0% /", "a b", "99%", "a b c 99%"] {
            assert_eq!(free_bytes(nothing), None, "{nothing}");
        }
        assert!(is_windows("Microsoft Windows Server 2022") && is_windows("mswindows"));
        assert!(!is_windows("Debian GNU/Linux 12 (bookworm)") && !is_windows(""));
    }

    #[test]
    fn a_guest_that_is_held_still_is_waited_for() {
        let error = |message: &str| ClientError {
            code: ErrorCode::Failed,
            message: format!("'P': the guest agent refused {message}"),
            hint: None,
            object: None,
        };
        let begun = error(
            "guest-exec-status: Command guest-exec-status has been disabled: the agent is in frozen state",
        );
        assert!(is_held_still(&begun, true) && !is_held_still(&begun, false));
        let not_begun = error("guest-exec: The command guest-exec has been disabled for this instance");
        assert!(is_held_still(&not_begun, false));
        assert!(!is_held_still(&error("guest-file-write: No space left on device"), true));
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let clashes = Clashes::parse("ea/b\nfc\ncount=30\n");
        let Failure::Error(error) = clashes.failure(&Folder(vec!["etc".into()])) else { panic!("an error") };
        assert_eq!(
            error.message,
            "these are there already in the guest: /etc/a/b, /etc/c (a folder, which it was not), and 28 more"
        );
        assert!(error.hint.is_some_and(|hint| hint.contains("--to")));
        assert_eq!(Clashes::parse("count=0\n"), Clashes::default());
    }
}

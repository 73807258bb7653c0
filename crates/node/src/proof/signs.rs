//! What shows that a guest is up, and what shows that it will not be.
//!
//! All of it comes from the guest. It can make its own proof fail or succeed by lies, and nothing else: what it says is bounded,
//! and whoever calls has a deadline.

use std::time::Duration;

use nestling_hypervisor::{Machine, agent::ExecRequest};
use nestling_model::protection::{Command, Message, Signs};
use tokio::time::sleep;

use super::cables::Cables;

const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The longest line of a console that is looked at.
const LINE_BYTES_MAX: usize = 4096;
/// Kept of a console at the end.
const LINES_KEPT: usize = 12;
/// What firmware, boot loaders and kernels say when there is no way on.
const DEAD_ENDS: [&str; 5] = [
    "No bootable device",
    "No bootable option or device was found",
    "Kernel panic - not syncing",
    "grub rescue>",
    "(initramfs)",
];

/// Waits until a guest is up: what showed it, or why it never will be. May wait for ever.
pub async fn up(machine: &Machine, signs: &Signs, cables: Option<&mut Cables>) -> Result<String, String> {
    let wanted = match &signs.console {
        Some(text) => Wanted::Text(text),
        None if signs.is_any_up() => Wanted::Login,
        None => Wanted::Nothing,
    };
    let says = console_says(machine, wanted);
    let agent = async {
        match signs.wants_agent() || signs.is_any_up() {
            true => Some(agent_answers(machine).await),
            false => None,
        }
    };
    let ports = async {
        match cables {
            Some(cables) => Some(cables.answered(machine).await),
            None => None,
        }
    };
    let rest = async { Ok(tokio::join!(agent, ports)) };
    let all = async {
        let words = if signs.console.is_some() {
            let ((agent, ports), said) = tokio::try_join!(rest, says)?;
            [agent, Some(said), ports]
        } else {
            // The console has a login prompt, or dead ends alone.
            tokio::select! {
                said = says => [Some(said?), None, None],
                rest = rest => rest.map(|(agent, ports)| [agent, None, ports])?,
            }
        };
        Ok(words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    };
    tokio::select! {
        up = all => up,
        exit = machine.exited() => Err(format!("it ended by itself: {}", exit.reason)),
    }
}

async fn agent_answers(machine: &Machine) -> String {
    let agent = machine.agent();
    while agent.ping().await.is_err() {
        sleep(LOOK_INTERVAL).await;
    }
    "the guest agent answered".to_owned()
}

async fn console_says(machine: &Machine, wanted: Wanted<'_>) -> Result<String, String> {
    let mut view = machine.console().attach();
    let mut reader = Reader::new(wanted);
    let mut found = reader.read(&view.recent);
    loop {
        if let Some(found) = found {
            return found;
        }
        match view.next().await {
            Some(bytes) => found = reader.read(&bytes),
            // The machine has ended, which is told elsewhere.
            None => std::future::pending().await,
        }
    }
}

/// What is looked for on a console.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Text(&'a str),
    Login,
    /// Dead ends alone.
    Nothing,
}

/// Reads a console as it comes, in pieces that begin and end anywhere.
struct Reader<'a> {
    wanted: Wanted<'a>,
    line: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(wanted: Wanted<'a>) -> Self {
        Self { wanted, line: Vec::new() }
    }

    fn read(&mut self, bytes: &[u8]) -> Option<Result<String, String>> {
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    let found = self.judge();
                    self.line.clear();
                    if found.is_some() {
                        return found;
                    }
                }
                _ if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        // A prompt has no end of its line.
        self.judge()
    }

    fn judge(&self) -> Option<Result<String, String>> {
        let line = plain(&self.line);
        match self.wanted {
            Wanted::Text(text) if line.contains(text) => {
                return Some(Ok(format!("\"{text}\" came on the console")));
            }
            Wanted::Login if line.trim_end().ends_with("login:") => {
                return Some(Ok("a login prompt came".to_owned()));
            }
            _ => {}
        }
        let dead = DEAD_ENDS.iter().any(|end| line.contains(end));
        dead.then(|| Err(format!("it does not come up: {}", line.trim())))
    }
}

/// Without what moves and colours.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
            continue;
        }
        // A sequence goes on to its first letter; a single one has one character more.
        if chars.next_if_eq(&'[').is_some() {
            while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
        } else {
            chars.next();
        }
    }
    plain
}

/// The last of what a guest wrote, for people.
pub fn last_lines(bytes: &[u8]) -> Vec<Message> {
    let text = plain(bytes);
    let lines = text.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty());
    let all: Vec<Message> = lines.map(Message::from).collect();
    all[all.len().saturating_sub(LINES_KEPT)..].to_vec()
}

/// Runs a program in the guest, which must end well.
pub async fn run_in_guest(machine: &Machine, program: &Command) -> Result<(), String> {
    let request = ExecRequest {
        path: program.program.clone(),
        args: program.arguments.clone(),
        env: Vec::new(),
        stdin: Vec::new(),
        timeout: Duration::from_secs(program.seconds_max.into()),
    };
    let name = &program.program;
    let done = machine.agent().exec(request).await;
    let done = done.map_err(|error| format!("the program {name} could not be run in the guest: {error}"))?;
    if done.exit_code == Some(0) {
        return Ok(());
    }
    let said = last_lines(if done.stderr.is_empty() { &done.stdout } else { &done.stderr });
    let said = said.last().map(|line| format!(": {line}")).unwrap_or_default();
    Err(match done.exit_code {
        Some(code) => format!("the program {name} failed in the guest with status {code}{said}"),
        None => format!("the program {name} was killed in the guest{said}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(wanted: Wanted<'_>, pieces: &[&str]) -> Option<Result<String, String>> {
        let mut reader = Reader::new(wanted);
        pieces.iter().find_map(|piece| reader.read(piece.as_bytes()))
    }

    #[test]
    fn a_login_prompt_is_one_however_it_comes() {
        for pieces in [
            &["Debian GNU/Linux 12 web ttyS0\r\n\r\nweb lo", "gin", ": "][..],
            &["web login: [ 9.1] a late word of the kernel", "\r\nweb login: "],
            &["\u{1b}[1mweb login:\u{1b}[0m "],
        ] {
            assert!(matches!(read(Wanted::Login, pieces), Some(Ok(_))), "{pieces:?}");
        }
        for pieces in [&["Last login: Mon Jan 1\r\n"][..], &["login", "\r\n:"], &["web login: x\r\n"]] {
            assert_eq!(read(Wanted::Nothing, pieces), None);
        }
        assert_eq!(read(Wanted::Login, &["Last login: Mon Jan 1\r\n"]), None);
    }

    #[test]
    fn a_dead_end_is_told_at_once_and_in_the_guests_words() {
        let said = "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        let found = read(Wanted::Nothing, &[said]).unwrap().unwrap_err();
        assert!(found.ends_with("Unable to mount root fs"), "{found}");
        assert!(matches!(read(Wanted::Text("up"), &["No bootable device."]), Some(Err(_))));
        assert!(matches!(read(Wanted::Text("pebble: up"), &["x pebble:", " up 1.1 s\n"]), Some(Ok(_))));
    }

    #[test]
    fn the_last_lines_are_short_and_harmless() {
        let text: String = (0..40).map(|n| format!("line {n}\r\n")).collect();
        let lines = last_lines((text + "\u{1b}[31mred\u{7}").as_bytes());
        assert_eq!((lines.len(), lines[0].as_str()), (LINES_KEPT, "line 29"));
        assert_eq!(lines[LINES_KEPT - 1].as_str(), "red\u{fffd}");
    }

    proptest! {
        /// What a guest writes, in whatever pieces, is read in bounded memory.
        #[test]
        fn any_bytes_are_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50)) {
            let mut reader = Reader::new(Wanted::Login);
            for piece in &pieces {
                let _ = reader.read(piece);
                prop_assert!(reader.line.len() <= LINE_BYTES_MAX);
            }
            prop_assert!(last_lines(&pieces.concat()).len() <= LINES_KEPT);
        }
    }
}

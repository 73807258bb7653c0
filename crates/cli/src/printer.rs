//! The one place from which the program speaks: data to standard output, talk to standard error.
//!
//! What is said can be read without colour. With `--json` data and errors are JSON objects, one a line, and
//! nothing else appears. It must never decide what to say.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use nestling_api::v1::ErrorBody;
use serde::Serialize;

use crate::{
    failure::{Failure, Result},
    text,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Red => "1;31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Cyan => "36",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Printer {
    json: bool,
    colour_out: bool,
    colour_err: bool,
    err_is_terminal: bool,
}

impl Printer {
    pub fn new(json: bool) -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || env::var_os("TERM").is_some_and(|v| v == "dumb");
        let err_is_terminal = io::stderr().is_terminal();
        Self {
            json,
            colour_out: !plain && io::stdout().is_terminal(),
            colour_err: !plain && err_is_terminal,
            err_is_terminal,
        }
    }

    /// Whether data and errors are wanted as JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether colour is seen and wanted.
    pub fn is_coloured(self) -> bool {
        self.colour_out
    }

    /// Text to standard output, as it is.
    pub fn data(self, text: &str) -> Result {
        self.bytes(text.as_bytes())
    }

    /// Bytes to standard output, as they are.
    pub fn bytes(self, bytes: &[u8]) -> Result {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| output_failure(&e))
    }

    /// Text of a program in a guest to standard error, as it is.
    pub fn error_bytes(self, bytes: &[u8]) {
        // Nobody is left to be told when standard error is gone.
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// One object a line.
    pub fn objects<'a, T: Serialize + 'a>(self, objects: impl IntoIterator<Item = &'a T>) -> Result {
        let mut lines = Vec::new();
        for object in objects {
            serde_json::to_writer(&mut lines, object).map_err(|e| output_failure(&e.into()))?;
            lines.push(b'\n');
        }
        self.bytes(&lines)
    }

    /// The object as JSON when that is wanted, else the text that `human` makes.
    pub fn show<T: Serialize>(self, object: &T, human: impl FnOnce(&T) -> String) -> Result {
        if self.json { self.objects([object]) } else { self.data(&human(object)) }
    }

    /// The objects as JSON, one a line, when that is wanted, else the text that `human` makes.
    pub fn list<T: Serialize>(self, objects: &[T], human: impl FnOnce(&[T]) -> String) -> Result {
        if self.json { self.objects(objects) } else { self.data(&human(objects)) }
    }

    /// After a change: the object as JSON when that is wanted, else silence.
    pub fn changed<T: Serialize>(self, object: &T) -> Result {
        if self.json { self.objects([object]) } else { Ok(()) }
    }

    /// A sentence for the user. Not with `--json`, where programs listen.
    pub fn talk(self, sentence: &str) {
        if !self.json {
            self.error_bytes(format!("{sentence}\n").as_bytes());
        }
    }

    pub fn warning(self, sentence: &str) {
        self.talk(&format!("{} {}", self.paint_err(Colour::Yellow, "warning:"), text::clean(sentence)));
    }

    /// Why something failed, and what to do next.
    pub fn error(self, error: &ErrorBody) {
        if self.json {
            if let Ok(mut line) = serde_json::to_vec(error) {
                line.push(b'\n');
                self.error_bytes(&line);
            }
            return;
        }
        let mut said = format!("{} {}\n", self.paint_err(Colour::Red, "error:"), text::clean(&error.message));
        if let Some(hint) = &error.hint {
            said.push_str(&format!("\n{} {}\n", self.paint_err(Colour::Cyan, "hint:"), text::clean(hint)));
        }
        self.error_bytes(said.as_bytes());
    }

    /// Whether what is said is read as it comes.
    pub fn talks_to_terminal(self) -> bool {
        self.err_is_terminal
    }

    /// Colours a word of the data, where that is seen.
    pub fn paint(self, colour: Colour, word: &str) -> String {
        if self.colour_out { painted(colour, word) } else { word.to_owned() }
    }

    fn paint_err(self, colour: Colour, word: &str) -> String {
        if self.colour_err { painted(colour, word) } else { word.to_owned() }
    }

    /// Tells how far something long has come.
    pub fn progress(self) -> Progress {
        Progress { printer: self, drawn: false, last: String::new() }
    }
}

fn painted(colour: Colour, word: &str) -> String {
    format!("\x1b[{}m{word}\x1b[0m", colour.code())
}

fn output_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::BrokenPipe;
    }
    Failure::new(nestling_api::v1::ErrorCode::Failed, format!("can't write the output: {error}"))
}

/// A bar on a terminal, plain lines otherwise; nothing with `--json`.
pub struct Progress {
    printer: Printer,
    drawn: bool,
    last: String,
}

impl Progress {
    pub fn step(&mut self, done: u32, total: u32, message: &str) {
        if self.printer.err_is_terminal {
            let share = f64::from(done.min(total)) / f64::from(total.max(1));
            self.say(Some(share), &format!("{done}/{total} {message}"));
        } else {
            self.say(None, &format!("[{done}/{total}] {message}"));
        }
    }

    /// What is done, as a share where that is known, and in words.
    pub fn show(&mut self, share: Option<f64>, words: &str) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
        let percent = share.map(|share| (share.clamp(0.0, 1.0) * 100.0) as u32);
        self.say(share, &percent.map_or_else(|| words.to_owned(), |percent| format!("{percent}% {words}")));
    }

    fn say(&mut self, share: Option<f64>, words: &str) {
        let words = text::clean(words);
        if self.printer.json || (words == self.last && !self.printer.err_is_terminal) {
            return;
        }
        if self.printer.err_is_terminal {
            // Cut to the line: a bar that wraps could not be drawn over.
            let line: String = format!("{}{words}", bar(share)).chars().take(width() - 1).collect();
            self.printer.error_bytes(format!("\r\x1b[K{line}").as_bytes());
            self.drawn = true;
        } else {
            self.printer.talk(&words);
        }
        self.last = words;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.printer.error_bytes(b"\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(share: Option<f64>) -> String {
    const CELLS: usize = 24;
    let Some(share) = share else { return String::new() };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and CELLS"
    )]
    let full = (share.clamp(0.0, 1.0) * CELLS as f64) as usize;
    format!("[{}{}] ", "#".repeat(full), "-".repeat(CELLS - full))
}

/// Columns of the terminal; 120 where there is none.
pub fn width() -> usize {
    [rustix::stdio::stdout(), rustix::stdio::stderr()]
        .into_iter()
        .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns >= 20)
        .unwrap_or(120)
}

//! The interactive prompt: a line editor with history, completion and lines that go on.

use std::{borrow::Cow, fs, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use nestling_api::{Client, v1::ErrorCode};
use nestling_model::VmName;
use nestling_shell::{
    frame::Registry,
    lang::{Source, parse},
};
use reedline::{
    ColumnarMenu, Completer, CompletionResult, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder,
    PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal, Span, Suggestion,
    ValidationResult, Validator, default_emacs_keybindings,
};

use crate::failure::{Failure, Result};

const HISTORY_LINES_MAX: usize = 10_000;
const MENU: &str = "completion";

pub struct Prompt {
    /// Absent only while a line is read.
    editor: Option<Reedline>,
}

impl Prompt {
    pub fn new(home: &Path, registry: Arc<Registry<Client>>, coloured: bool) -> Self {
        let mut keys = default_emacs_keybindings();
        keys.add_binding(
            KeyModifiers::NONE,
            KeyCode::Tab,
            ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu(MENU.to_owned()), ReedlineEvent::MenuNext]),
        );
        let menu = Box::new(ColumnarMenu::default().with_name(MENU));
        let mut editor = Reedline::create()
            .with_completer(Box::new(Names { registry }))
            .with_menu(ReedlineMenu::EngineCompleter(menu))
            .with_quick_completions(true)
            .with_partial_completions(true)
            .with_ansi_colors(coloured)
            .with_validator(Box::new(Whole))
            .with_edit_mode(Box::new(Emacs::new(keys)));
        // A history that can't be kept is no reason to refuse to work.
        if let Ok(history) = history(&home.join("history")) {
            editor = editor.with_history(Box::new(history));
        }
        Self { editor: Some(editor) }
    }

    /// The next line, or none when the user has done enough.
    pub async fn read(&mut self, client: &Client) -> Result<Option<String>> {
        let hosts: Vec<&str> = client.hosts().iter().map(VmName::as_str).collect();
        let words = Words { host: hosts.join("/") };
        loop {
            let Some(mut editor) = self.editor.take() else { return Ok(None) };
            let words = words.clone();
            let read = tokio::task::spawn_blocking(move || {
                let signal = editor.read_line(&words);
                (editor, signal)
            });
            let (editor, signal) = read.await.map_err(|e| Failure::new(ErrorCode::Failed, e.to_string()))?;
            self.editor = Some(editor);
            match signal {
                Ok(Signal::Success(line)) => return Ok(Some(line)),
                Ok(Signal::CtrlD) => return Ok(None),
                Ok(_) => {}
                Err(error) => {
                    return Err(Failure::new(ErrorCode::Failed, format!("can't read the terminal: {error}")));
                }
            }
        }
    }
}

/// The lines of earlier sessions, which are nobody else's business: a password may be among them.
fn history(path: &Path) -> reedline::Result<FileBackedHistory> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    FileBackedHistory::with_file(HISTORY_LINES_MAX, path.to_owned())
}

/// Lines that end too early go on.
struct Whole;

impl Validator for Whole {
    fn validate(&self, line: &str) -> ValidationResult {
        match parse(&Source::new(line, None)) {
            Err(error) if error.incomplete => ValidationResult::Incomplete,
            _ => ValidationResult::Complete,
        }
    }
}

/// Completes cmdlets and their parameters.
struct Names {
    registry: Arc<Registry<Client>>,
}

impl Completer for Names {
    fn complete(&mut self, line: &str, position: usize) -> CompletionResult {
        let found = self.registry.complete(line, position, &[]);
        let span = Span::new(found.start, position);
        let suggest = |value| Suggestion { value, span, append_whitespace: true, ..Suggestion::default() };
        CompletionResult::fresh(found.candidates.into_iter().map(suggest).collect::<Vec<_>>())
    }
}

/// `PS NESTLING> `, or `[L1]: PS> ` in a session inside L1.
#[derive(Clone)]
struct Words {
    host: String,
}

impl reedline::Prompt for Words {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        if self.host.is_empty() { "PS NESTLING".into() } else { format!("[{}]: PS", self.host).into() }
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        "> ".into()
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        ">> ".into()
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        format!("(search: {}) ", search.term).into()
    }
}

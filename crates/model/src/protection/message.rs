//! Sentences that are kept with a run.
//!
//! They may come from a guest, a tool or a server far away, so they are made harmless and short when they are made:
//! what happened is always written down, however it was said.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest message, in characters.
pub const MESSAGE_CHARS_MAX: usize = 500;
/// How many warnings are kept; what comes after is only counted.
pub const WARNINGS_MAX: usize = 100;

/// One line without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Message(String);

impl Message {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        let harmless = |c: char| match c {
            _ if c.is_whitespace() => ' ',
            // Bidirectional overrides can make a text look like another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            _ if c.is_control() => '\u{fffd}',
            _ => c,
        };
        let mut chars = text.trim().chars().map(harmless);
        let mut line: String = chars.by_ref().take(MESSAGE_CHARS_MAX).collect();
        if chars.next().is_some() {
            line.pop();
            line.push('…');
        }
        Self(line)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Message> for String {
    fn from(message: Message) -> Self {
        message.0
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Warnings, the first of them word for word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredWarnings")]
pub struct Warnings {
    messages: Vec<Message>,
    /// How many more there were.
    left_out: u64,
}

#[derive(Deserialize)]
struct StoredWarnings {
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    left_out: u64,
}

impl From<StoredWarnings> for Warnings {
    fn from(stored: StoredWarnings) -> Self {
        let mut warnings = Self { messages: Vec::new(), left_out: stored.left_out };
        stored.messages.into_iter().for_each(|message| warnings.push(message));
        warnings
    }
}

impl Warnings {
    pub fn push(&mut self, message: impl Into<Message>) {
        if self.messages.len() < WARNINGS_MAX {
            self.messages.push(message.into());
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    pub const fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn warnings_are_counted_where_they_are_too_many() {
        let mut warnings = Warnings::default();
        (0..WARNINGS_MAX + 5).for_each(|number| warnings.push(format!("warning {number}")));
        assert_eq!((warnings.messages().len(), warnings.left_out()), (WARNINGS_MAX, 5));
        let stored = serde_json::to_string(&warnings).unwrap();
        assert_eq!(serde_json::from_str::<Warnings>(&stored).unwrap(), warnings);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_harmless_line(text in any::<String>()) {
            let message = Message::from(text.as_str());
            prop_assert!(message.as_str().chars().count() <= MESSAGE_CHARS_MAX);
            prop_assert!(!message.as_str().contains(char::is_control));
            prop_assert_eq!(Message::from(message.as_str().to_owned()), message);
        }
    }

    #[test]
    fn a_long_text_says_that_it_was_longer() {
        let message = Message::from("x".repeat(600));
        assert_eq!(message.as_str().chars().count(), MESSAGE_CHARS_MAX);
        assert!(message.as_str().ends_with('…'));
    }
}

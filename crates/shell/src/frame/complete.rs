//! Completion of what a user began to type: commands, parameters, the values of enumerations, variables.

use super::cmdlet::Context;
use super::parameter::Kind;
use super::registry::Registry;
use crate::lang::chars::{is_dash, is_double_quote, is_single_quote};

/// What may stand in place of the text from `start` to the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Byte offset in the line.
    pub start: usize,
    pub candidates: Vec<String>,
}

impl<C: Context> Registry<C> {
    /// Completes the word before the cursor (a byte offset). `variables` are the names known.
    pub fn complete(&self, line: &str, cursor: usize, variables: &[String]) -> Completion {
        let before = line.get(..cursor).unwrap_or(line);
        let segment_start = last_command_start(before);
        let segment = &before[segment_start..];
        let word_start = segment
            .rfind(|c: char| c.is_whitespace() || c == ',')
            .map_or(0, |at| at + segment[at..].chars().next().map_or(0, char::len_utf8));
        let word = &segment[word_start..];
        let start = segment_start + word_start;
        let earlier: Vec<&str> = segment[..word_start].split_whitespace().collect();
        let candidates = if let Some(name) = word.strip_prefix('$') {
            let names = variables.iter().filter(|variable| begins(variable, name));
            names.map(|variable| format!("${variable}")).collect()
        } else if earlier.is_empty() {
            self.complete_command(word).into_iter().map(str::to_owned).collect()
        } else if word.starts_with(is_dash) {
            let name = word.trim_start_matches(is_dash);
            self.complete_parameter(earlier[0], name).into_iter().map(|name| format!("-{name}")).collect()
        } else {
            self.complete_value(earlier[0], earlier[earlier.len() - 1], word)
        };
        Completion { start, candidates }
    }

    /// Names of commands that begin so.
    pub fn complete_command(&self, start: &str) -> Vec<&'static str> {
        let names = self.cmdlets().into_iter().map(|cmdlet| cmdlet.name);
        names.filter(|name| !start.is_empty() && begins(name, start)).collect()
    }

    /// Names of the command's parameters that begin so; both without the dash.
    pub fn complete_parameter(&self, command: &str, start: &str) -> Vec<&'static str> {
        let Some(cmdlet) = self.find(command) else { return Vec::new() };
        cmdlet.all_parameters().map(|parameter| parameter.name).filter(|name| begins(name, start)).collect()
    }

    fn complete_value(&self, command: &str, parameter: &str, start: &str) -> Vec<String> {
        let Some(cmdlet) = self.find(command) else { return Vec::new() };
        let members = match cmdlet.parameter(parameter.trim_start_matches(is_dash)).map(|p| p.kind) {
            Some(Kind::Enum(members) | Kind::Enums(members)) => members.members,
            Some(Kind::Bool) => &[("$true", 1), ("$false", 0)],
            _ => &[],
        };
        members.iter().map(|(name, _)| (*name).to_owned()).filter(|name| begins(name, start)).collect()
    }
}

/// Where the command that the cursor is in begins: after the last separator outside quotes.
fn last_command_start(text: &str) -> usize {
    let mut start = 0;
    let mut quote: Option<fn(char) -> bool> = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(ends) if ends(c) => quote = None,
            Some(_) => {}
            None if is_single_quote(c) => quote = Some(is_single_quote),
            None if is_double_quote(c) => quote = Some(is_double_quote),
            None if matches!(c, '|' | ';' | '(' | '{' | '\n' | '=' | '&') => start = at + 1,
            None => {}
        }
    }
    start + text[start..].len() - text[start..].trim_start().len()
}

fn begins(name: &str, start: &str) -> bool {
    name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

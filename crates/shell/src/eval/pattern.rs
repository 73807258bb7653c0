//! Patterns: the wildcards of `-like` and of names, and the regular expressions of `-match`, `-replace`, `-split`.

use super::operators::check_text;
use crate::frame::{Category, ErrorRecord};
use crate::lang::ast::{BinaryOp, CaseRule, Comparison};
use crate::value::{Hashtable, Value};
use regex::{Captures, Regex, RegexBuilder};

type Result<T> = std::result::Result<T, ErrorRecord>;

#[derive(Clone, Debug)]
enum Piece {
    Any,
    One,
    Char(char),
    Set(Vec<(char, char)>),
}

/// A pattern of `*`, `?` and `[a-z]`, in time proportional to text times pattern.
#[derive(Clone, Debug)]
pub struct Wildcard {
    pieces: Vec<Piece>,
    exact_case: bool,
}

impl Wildcard {
    /// A pattern that ignores case.
    pub fn new(pattern: &str) -> Self {
        Self::with_case(pattern, false)
    }

    /// Whether a text is a pattern at all rather than a plain name.
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    pub(crate) fn with_case(pattern: &str, exact_case: bool) -> Self {
        let folded = if exact_case { pattern.to_owned() } else { pattern.to_lowercase() };
        let mut chars = folded.chars();
        let mut pieces = Vec::new();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Any,
                '?' => Piece::One,
                '`' => Piece::Char(chars.next().unwrap_or('`')),
                '[' => match chars.as_str().split_once(']') {
                    Some((set, rest)) if !set.is_empty() => {
                        chars = rest.chars();
                        Piece::Set(ranges(set))
                    }
                    _ => Piece::Char('['),
                },
                c => Piece::Char(c),
            });
        }
        Self { pieces, exact_case }
    }

    pub fn matches(&self, text: &str) -> bool {
        let folded = if self.exact_case { text.to_owned() } else { text.to_lowercase() };
        let text: Vec<char> = folded.chars().collect();
        let (mut at, mut piece) = (0, 0);
        // Where to go on when the text after the last star does not fit.
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            let fits = match self.pieces.get(piece) {
                Some(Piece::Any) => {
                    retry = Some((piece, at));
                    piece += 1;
                    continue;
                }
                Some(Piece::One) => true,
                Some(Piece::Char(c)) => *c == text[at],
                Some(Piece::Set(set)) => set.iter().any(|(from, to)| (*from..=*to).contains(&text[at])),
                None => false,
            };
            if fits {
                (at, piece) = (at + 1, piece + 1);
            } else if let Some((star, from)) = retry {
                retry = Some((star, from + 1));
                (at, piece) = (from + 1, star + 1);
            } else {
                return false;
            }
        }
        self.pieces[piece..].iter().all(|piece| matches!(piece, Piece::Any))
    }
}

fn ranges(set: &str) -> Vec<(char, char)> {
    let chars: Vec<char> = set.chars().collect();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if at + 2 < chars.len() && chars[at + 1] == '-' {
            ranges.push((chars[at], chars[at + 2]));
            at += 3;
        } else {
            ranges.push((chars[at], chars[at]));
            at += 1;
        }
    }
    ranges
}

/// A regular expression; one that needs look-around or back references is refused by the engine's own words.
pub(super) fn regex(pattern: &str, exact: bool) -> Result<Regex> {
    RegexBuilder::new(pattern).case_insensitive(!exact).build().map_err(|error| {
        let message = format!("The regular expression pattern {pattern} is not valid. {error}");
        ErrorRecord::new(Category::InvalidOperation, "RuntimeException", "InvalidRegularExpression", message)
    })
}

/// The groups of a successful `-match` on a single text.
pub(super) fn matches_of(op: BinaryOp, subject: &Value, pattern: &Value) -> Option<Hashtable> {
    let BinaryOp::Compare(Comparison::Match, case) = op else { return None };
    if matches!(subject, Value::Array(_)) {
        return None;
    }
    let regex = regex(&pattern.to_text(), case == CaseRule::Exact).ok()?;
    let text = subject.to_text();
    let captures = regex.captures(&text)?;
    let mut groups = Hashtable::default();
    for (index, name) in regex.capture_names().enumerate() {
        let Some(group) = captures.get(index) else { continue };
        let key = name.map_or(Value::Int(index as i64), Value::from);
        groups.insert(key, Value::from(group.as_str()));
    }
    Some(groups)
}

pub(super) fn replace(left: &Value, right: Value, case: CaseRule) -> Result<Value> {
    let mut arguments = right.into_items().into_iter();
    let (pattern, replacement) = (arguments.next(), arguments.next());
    if arguments.next().is_some() {
        return Err(ErrorRecord::runtime(
            "BadReplaceArgument",
            "The -replace operator takes a pattern and a replacement.",
        ));
    }
    let regex = regex(&pattern.unwrap_or_default().to_text(), case == CaseRule::Exact)?;
    let replacement = replacement.unwrap_or_default().to_text();
    let one = |value: &Value| replace_in(&regex, &value.to_text(), &replacement).map(Value::String);
    match left {
        Value::Array(items) => items.iter().map(one).collect::<Result<_>>().map(Value::Array),
        single => one(single),
    }
}

fn replace_in(regex: &Regex, text: &str, replacement: &str) -> Result<String> {
    let mut result = String::new();
    let mut end = 0;
    for captures in regex.captures_iter(text) {
        let whole = captures.get_match();
        result.push_str(&text[end..whole.start()]);
        expand(&captures, replacement, &mut result);
        end = whole.end();
        check_text(result.len())?;
    }
    result.push_str(&text[end..]);
    Ok(result)
}

/// `$1`, `${name}`, `$&` and `$$` in a replacement, as .NET has them.
fn expand(captures: &Captures<'_>, replacement: &str, result: &mut String) {
    let mut rest = replacement;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, length) = match braced {
            Some((name, _)) => (name, name.len() + 2),
            None if digits > 0 => (&after[..digits], digits),
            None if after.starts_with('&') => ("0", 1),
            None => {
                result.push('$');
                rest = after.strip_prefix('$').unwrap_or(after);
                continue;
            }
        };
        let group = match name.parse::<usize>() {
            Ok(index) if index < captures.len() => Some(captures.get(index)),
            Ok(_) => None,
            Err(_) => captures.name(name).map(Some),
        };
        match group {
            Some(found) => result.push_str(found.map_or("", |m| m.as_str())),
            // A group that the pattern does not have is text.
            None => result.push_str(&rest[at..=at + length]),
        }
        rest = &after[length..];
    }
    result.push_str(rest);
}

pub(super) fn split(left: Value, right: Value, case: CaseRule) -> Result<Value> {
    let mut arguments = right.into_items().into_iter();
    let pattern = arguments.next().unwrap_or_default().to_text();
    let limit = match arguments.next() {
        Some(limit) => {
            limit.to_int().map_err(|error| ErrorRecord::runtime("BadSplitArgument", error.to_string()))?
        }
        None => 0,
    };
    if arguments.next().is_some() || limit < 0 {
        let message = "The -split operator takes a pattern and a positive number of parts.";
        return Err(ErrorRecord::runtime("BadSplitArgument", message));
    }
    let limit = usize::try_from(limit).unwrap_or(0);
    let regex = regex(&pattern, case == CaseRule::Exact)?;
    let mut parts = Vec::new();
    for item in left.into_items() {
        split_text(&regex, &item.to_text(), limit, &mut parts);
    }
    Ok(Value::Array(parts))
}

/// Parts between matches, with what the pattern's groups caught in between, as .NET splits.
fn split_text(regex: &Regex, text: &str, limit: usize, parts: &mut Vec<Value>) {
    let mut start = 0;
    for (count, captures) in (1..).zip(regex.captures_iter(text)) {
        if limit > 0 && count >= limit {
            break;
        }
        let whole = captures.get_match();
        parts.push(Value::from(&text[start..whole.start()]));
        parts.extend(captures.iter().skip(1).flatten().map(|group| Value::from(group.as_str())));
        start = whole.end();
    }
    parts.push(Value::from(&text[start..]));
}

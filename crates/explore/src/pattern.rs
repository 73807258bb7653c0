//! Patterns for names: `*` is any bytes, `?` one character, everything else itself.
//!
//! Matching goes back only to the last `*`, so no pattern takes longer than its length times the name's.

use std::str::FromStr;

use crate::{ExploreError, FileName, Result, dos::same_name};

const LENGTH_MAX: usize = 1024;

/// What names are to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    parts: Vec<Part>,
    ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// One character, or a byte that is none.
    One(Vec<u8>),
    AnyOne,
    AnyMany,
}

impl NamePattern {
    /// Without regard to case, as far as names are UTF-8.
    #[must_use]
    pub fn ignoring_case(self) -> Self {
        Self { ignore_case: true, ..self }
    }

    #[must_use]
    pub fn matches(&self, name: &FileName) -> bool {
        let name = characters(name.as_bytes());
        let (mut at, mut part) = (0, 0);
        // Where to go on when the last star takes one character more.
        let mut star = None;
        while at < name.len() {
            match self.parts.get(part) {
                Some(Part::AnyMany) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(wanted) if self.is_one(wanted, name[at]) => (at, part) = (at + 1, part + 1),
                _ => {
                    let Some((place, taken)) = star else { return false };
                    star = Some((place, taken + 1));
                    (at, part) = (taken + 1, place + 1);
                }
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::AnyMany)
    }

    fn is_one(&self, part: &Part, character: &[u8]) -> bool {
        match part {
            Part::AnyOne => true,
            Part::AnyMany => false,
            Part::One(wanted) if self.ignore_case => same_name(wanted, character),
            Part::One(wanted) => wanted == character,
        }
    }
}

/// Characters, and bytes that are none.
fn characters(name: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(first) = rest.chars().next() {
            let (character, after) = rest.split_at(first.len_utf8());
            found.push(character.as_bytes());
            rest = after;
        }
        found.extend(chunk.invalid().chunks(1));
    }
    found
}

impl FromStr for NamePattern {
    type Err = ExploreError;

    /// From text that is escaped as names are; a star or a question mark that is meant is written `\x2a` or `\x3f`.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > LENGTH_MAX {
            return Err(ExploreError::invalid(text, "a pattern has between 1 and 1024 bytes"));
        }
        let mut parts = Vec::new();
        for piece in text.split_inclusive(['*', '?']) {
            let (plain, wild) = match piece.strip_suffix('*') {
                Some(plain) => (plain, Some(Part::AnyMany)),
                None => match piece.strip_suffix('?') {
                    Some(plain) => (plain, Some(Part::AnyOne)),
                    None => (piece, None),
                },
            };
            let plain: FileName = plain.parse()?;
            parts.extend(characters(plain.as_bytes()).into_iter().map(|one| Part::One(one.to_vec())));
            parts.extend(wild);
        }
        Ok(Self { parts, ignore_case: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "ü", true),
            ("??", "ü", false),
            ("a\\x2a", "a*", true),
            ("a\\x2a", "ab", false),
            ("*a*a*a*a*a*a*a*b", &"a".repeat(250), false),
        ] {
            let parsed: NamePattern = pattern.parse().expect("a pattern");
            assert_eq!(parsed.matches(&FileName::from(name.as_bytes())), expected, "{pattern} {name}");
        }
        let pattern: NamePattern = "*.TXT".parse().expect("a pattern");
        assert!(!pattern.matches(&FileName::from(&b"a.txt"[..])));
        assert!(pattern.ignoring_case().matches(&FileName::from(&b"\xff.txt"[..])));
        assert!("".parse::<NamePattern>().is_err() && "\\".parse::<NamePattern>().is_err());
    }
}

//! Words that people put on machines, to choose many at once.
//!
//! A tag is compared without regard to case and kept as written. Its characters are few, so that it can stand in a selector, a
//! rule or a command line as it is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::Pattern;

pub const TAG_CHARS_MAX: usize = 64;
/// How many tags one machine may have.
pub const TAGS_MAX: usize = 64;

/// Why a text is no tag, or a machine cannot have its tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("a tag can't be empty")]
    Empty,
    #[error("a tag has at most {TAG_CHARS_MAX} characters; this one has {0}")]
    TooLong(usize),
    #[error("the tag \"{0}\" has characters that no tag has; a tag is made of letters, digits and - _ . :")]
    Forbidden(String),
    #[error("the tag \"{0}\" can't be added and removed at once")]
    Both(Tag),
    #[error("a virtual machine has at most {TAGS_MAX} tags; it would have {0}")]
    TooMany(usize),
    #[error("a virtual machine has the tag \"{0}\" twice")]
    Twice(Tag),
}

fn is_tag_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')
}

fn check(text: &str, also: &[char]) -> Result<(), TagError> {
    let chars = text.chars().count();
    if chars == 0 {
        return Err(TagError::Empty);
    }
    if chars > TAG_CHARS_MAX {
        return Err(TagError::TooLong(chars));
    }
    if text.chars().all(|c| is_tag_char(c) || also.contains(&c)) {
        Ok(())
    } else {
        Err(TagError::Forbidden(crate::shown(text, TAG_CHARS_MAX)))
    }
}

/// A text that stands for tags, in which `*` and `?` stand for other text.
pub fn tag_pattern(text: &str) -> Result<Pattern, TagError> {
    check(text, &['*', '?'])?;
    // What may be in a tag may be in any name.
    text.parse().map_err(|_| TagError::Forbidden(text.to_owned()))
}

/// A word that people put on machines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form under which two tags are the same tag.
    pub fn key(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        check(text, &[]).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(text: String) -> Result<Self, TagError> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Tag {}

/// What a machine's tags become, in their order. A tag that is there stays as it is written; one that is not there can be
/// removed.
pub fn retagged(before: &[Tag], add: &[Tag], remove: &[Tag]) -> Result<Vec<Tag>, TagError> {
    if let Some(both) = add.iter().find(|tag| remove.contains(tag)) {
        return Err(TagError::Both(both.clone()));
    }
    let mut after: Vec<Tag> = before.iter().filter(|tag| !remove.contains(tag)).cloned().collect();
    for tag in add {
        if !after.contains(tag) {
            after.push(tag.clone());
        }
    }
    after.sort_by_cached_key(Tag::key);
    check_tags(&after).map(|()| after)
}

/// Whether a machine can have these tags.
pub fn check_tags(tags: &[Tag]) -> Result<(), TagError> {
    if tags.len() > TAGS_MAX {
        return Err(TagError::TooMany(tags.len()));
    }
    match tags.iter().enumerate().find(|(number, tag)| tags[..*number].contains(tag)) {
        Some((_, twice)) => Err(TagError::Twice(twice.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(texts: &[&str]) -> Vec<Tag> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_tag_is_a_word() {
        for good in ["prod", "tier:1", "a.b-c_d", "Büro", &"x".repeat(64)] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        assert_eq!("Prod".parse::<Tag>(), "pROD".parse());
        assert_eq!("".parse::<Tag>(), Err(TagError::Empty));
        assert_eq!("é".repeat(65).parse::<Tag>(), Err(TagError::TooLong(65)));
        for bad in ["a b", "a,b", "a/b", "a*", "a?", "a\n", "a=b", "\u{202e}a", " "] {
            assert!(matches!(bad.parse::<Tag>(), Err(TagError::Forbidden(_))), "{bad:?}");
        }
        assert!(tag_pattern("web-*.?").unwrap().matches("WEB-1.x"));
        assert!(tag_pattern("a b").is_err() && tag_pattern("").is_err());
    }

    #[test]
    fn tags_come_and_go() {
        let before = tags(&["prod", "web"]);
        assert_eq!(
            retagged(&before, &tags(&["Gold", "PROD"]), &tags(&["WEB", "none"])),
            Ok(tags(&["gold", "prod"]))
        );
        assert_eq!(
            retagged(&before, &tags(&["PROD"]), &[]).unwrap()[0].as_str(),
            "prod",
            "as it was written"
        );
        assert_eq!(
            retagged(&before, &tags(&["a"]), &tags(&["A"])),
            Err(TagError::Both("a".parse().unwrap()))
        );
        let many: Vec<Tag> = (0..63).map(|number| format!("t{number}").parse().unwrap()).collect();
        assert_eq!(retagged(&many, &tags(&["one"]), &[]).unwrap().len(), 64);
        assert_eq!(retagged(&many, &tags(&["one", "two"]), &[]), Err(TagError::TooMany(65)));
        assert_eq!(check_tags(&tags(&["a", "b", "A"])), Err(TagError::Twice("a".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn what_is_a_tag_is_a_pattern_of_itself_and_of_nothing_else(text in "[-a-c_.:*? ]{0,5}", other in "[-a-c_.:]{1,5}") {
            if let Ok(tag) = text.parse::<Tag>() {
                let pattern = tag_pattern(&text).unwrap();
                prop_assert!(pattern.matches(tag.as_str()));
                prop_assert_eq!(pattern.matches(&other), tag == other.parse().unwrap());
            }
        }
    }
}

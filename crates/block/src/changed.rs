//! Which parts of a disk changed: a set of ranges, and the file in which others tell it.
//!
//! The file is a JSON array of objects with exactly two members, in bytes:
//!
//! ```json
//! [ { "offset": 0, "length": 65536 }, { "offset": 1048576, "length": 4096 } ]
//! ```
//!
//! Order does not matter, and what overlaps is merged. Anything else is refused, other members too: the lists of
//! `nbdinfo --json --map=qemu:dirty-bitmap:NAME` and `qemu-img map --output=json` also tell what did *not* change or
//! where data lie, and taking those for changes, or the other way round, would spoil a backup. They are turned into
//! this with one line, `jq '[.[] | select(.type == 1) | {offset, length}]'` for nbdinfo.
//!
//! A part that is named without need costs time; one that is missing costs data. So whatever is doubtful is an
//! error, never left out.

use std::{fmt, io::Read, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

use crate::JsonObject;

/// No more than this are taken from one file.
pub const CHANGED_MAX: usize = 1 << 22;
/// Nor is more of it read.
pub const CHANGED_FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ChangedError {
    #[error("the list of changed extents cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the list of changed extents is larger than {} MiB", CHANGED_FILE_BYTES_MAX >> 20)]
    TooLarge,
    #[error("the list of changed extents is not an array of {{\"offset\": n, \"length\": n}}: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "the changed extent of {length} bytes at byte {offset} is not inside the disk's {size_bytes} bytes"
    )]
    OutOfRange { offset: u64, length: u64, size_bytes: u64 },
}

/// A set of bytes of a disk as ranges: sorted, none empty, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtentSet {
    ranges: Vec<Range<u64>>,
}

impl ExtentSet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether any byte of `range` is in it.
    #[must_use]
    pub fn touches(&self, range: Range<u64>) -> bool {
        let first = self.ranges.partition_point(|own| own.end <= range.start);
        !range.is_empty() && self.ranges.get(first).is_some_and(|own| own.start < range.end)
    }

    /// Its part inside `range`, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|own| own.end <= range.start);
        self.ranges[first..]
            .iter()
            .map(move |own| own.start.max(range.start)..own.end.min(range.end))
            .take_while(|part| !part.is_empty())
    }

    /// Adds a range. Cheap at the end, and never more than a walk.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|own| own.end < range.start);
        let after = first + self.ranges[first..].partition_point(|own| own.start <= range.end);
        let merged = self.ranges[first..after]
            .iter()
            .fold(range, |all, own| all.start.min(own.start)..all.end.max(own.end));
        self.ranges.splice(first..after, [merged]);
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).cloned().collect()
    }

    /// What is in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let both = a.start.max(b.start)..a.end.min(b.end);
            let left_ends_first = a.end <= b.end;
            if !both.is_empty() {
                ranges.push(both);
            }
            if left_ends_first {
                left.next();
            } else {
                right.next();
            }
        }
        Self { ranges }
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut cuts = other.ranges.iter().peekable();
        for own in &self.ranges {
            let mut start = own.start;
            while let Some(cut) = cuts.peek().filter(|cut| cut.start < own.end) {
                if cut.end > own.start && cut.start > start {
                    ranges.push(start..cut.start);
                }
                start = start.max(cut.end);
                if cut.end > own.end {
                    break;
                }
                cuts.next();
            }
            if start < own.end {
                ranges.push(start..own.end);
            }
        }
        Self { ranges }
    }

    /// Every block of `block_bytes` that it touches, whole; the last one ends with the disk.
    #[must_use]
    pub fn align(&self, block_bytes: u64, size_bytes: u64) -> Self {
        let block = block_bytes.max(1);
        self.ranges
            .iter()
            .map(|range| {
                let end = range.end.checked_next_multiple_of(block).unwrap_or(u64::MAX);
                range.start / block * block..end.min(size_bytes.max(range.end))
            })
            .collect()
    }

    /// Reads the file format above, for a disk of this size.
    pub fn parse(json: &[u8], size_bytes: u64) -> Result<Self, ChangedError> {
        let Listed(entries) = serde_json::from_slice(json)?;
        for entry in &entries {
            let Entry { offset, length } = *entry;
            if offset.checked_add(length).is_none_or(|end| end > size_bytes) {
                return Err(ChangedError::OutOfRange { offset, length, size_bytes });
            }
        }
        Ok(entries.into_iter().map(|entry| entry.offset..entry.offset + entry.length).collect())
    }

    /// Reads the file format above from an open file.
    pub fn read(file: impl Read, size_bytes: u64) -> Result<Self, ChangedError> {
        let mut json = Vec::new();
        file.take(CHANGED_FILE_BYTES_MAX + 1).read_to_end(&mut json)?;
        if json.len() as u64 > CHANGED_FILE_BYTES_MAX {
            return Err(ChangedError::TooLarge);
        }
        Self::parse(&json, size_bytes)
    }

    /// Writes the file format above.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entries: Vec<String> = self
            .ranges
            .iter()
            .map(|range| format!("{{\"offset\": {}, \"length\": {}}}", range.start, range.end - range.start))
            .collect();
        format!("[{}]\n", entries.join(",\n"))
    }
}

impl FromIterator<Range<u64>> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut all: Vec<Range<u64>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        // Sorted first: a hostile order would make one insertion after the other quadratic.
        all.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self { ranges: merged }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    offset: u64,
    length: u64,
}

/// A bounded array.
struct Listed(Vec<Entry>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Listed, A::Error> {
                let mut entries = Vec::new();
                while let Some(JsonObject(entry)) = items.next_element()? {
                    if entries.len() == CHANGED_MAX {
                        return Err(A::Error::custom(format!("more than {CHANGED_MAX} extents")));
                    }
                    entries.push(entry);
                }
                Ok(Listed(entries))
            }
        }
        from.deserialize_seq(Entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64;

    /// The same set, bit by bit.
    fn bits(set: &ExtentSet) -> Vec<bool> {
        (0..SIZE + 16).map(|at| set.ranges().iter().any(|range| range.contains(&at))).collect()
    }

    fn is_normal(set: &ExtentSet) -> bool {
        set.ranges().iter().all(|range| !range.is_empty())
            && set.ranges().windows(2).all(|two| two[0].end < two[1].start)
    }

    fn combine(a: &ExtentSet, b: &ExtentSet, rule: impl Fn(bool, bool) -> bool) -> Vec<bool> {
        bits(a).into_iter().zip(bits(b)).map(|(a, b)| rule(a, b)).collect()
    }

    prop_compose! {
        fn ranges()(pairs in prop::collection::vec((0..SIZE, 0..12u64), 0..12)) -> Vec<Range<u64>> {
            pairs.into_iter().map(|(start, length)| start..(start + length).min(SIZE)).collect()
        }
    }

    proptest! {
        #[test]
        fn sets_do_what_bits_do(left in ranges(), right in ranges(), block in 1..9u64) {
            let a: ExtentSet = left.iter().cloned().collect();
            let b: ExtentSet = right.into_iter().collect();
            let mut inserted = ExtentSet::new();
            for range in &left {
                inserted.insert(range.clone());
            }
            prop_assert_eq!(&inserted, &a);
            for (set, expected) in [
                (a.union(&b), combine(&a, &b, |a, b| a || b)),
                (a.intersect(&b), combine(&a, &b, |a, b| a && b)),
                (a.subtract(&b), combine(&a, &b, |a, b| a && !b)),
            ] {
                prop_assert!(is_normal(&set), "{:?}", set);
                prop_assert_eq!(bits(&set), expected);
            }
            let aligned = a.align(block, SIZE);
            prop_assert!(is_normal(&aligned));
            for at in 0..SIZE {
                let first = at / block * block;
                let expected = a.touches(first..(first + block).min(SIZE));
                prop_assert_eq!(aligned.touches(at..at + 1), expected);
            }
            for range in b.ranges() {
                let part: ExtentSet = a.within(range.clone()).collect();
                prop_assert_eq!(part, a.intersect(&std::iter::once(range.clone()).collect()));
            }
            prop_assert_eq!(a.bytes(), bits(&a).into_iter().filter(|bit| *bit).count() as u64);
            prop_assert_eq!(ExtentSet::parse(a.to_json().as_bytes(), SIZE).expect("its own text"), a);
        }

        #[test]
        fn rubbish_is_refused_or_read(text in r#"[\[\]{}",:a-z0-9 ]{0,60}"#) {
            let _ = ExtentSet::parse(text.as_bytes(), SIZE);
        }
    }

    #[test]
    fn a_pair_of_numbers_is_no_extent() {
        // Other programs may mean start and end by it.
        for text in ["[[0, 1]]", r#"[{"offset": 0, "length": 1}, [4, 8]]"#] {
            assert!(ExtentSet::parse(text.as_bytes(), 64).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_doubtful_is_refused() {
        for text in [
            r#"[{"offset": 0, "length": 65}]"#,
            r#"[{"offset": 18446744073709551615, "length": 2}]"#,
            r#"[{"offset": 0, "length": 1, "type": 0}]"#,
            r#"[{"start": 0, "length": 1}]"#,
            r#"[{"offset": 0}]"#,
            r#"[{"offset": -1, "length": 1}]"#,
            r#"{"offset": 0, "length": 1}"#,
            r#"[{"offset": 0, "length": 1}] []"#,
            "",
        ] {
            assert!(ExtentSet::parse(text.as_bytes(), 64).is_err(), "{text}");
        }
        let set = ExtentSet::parse(br#"[{"offset": 8, "length": 8}, {"offset": 0, "length": 8}]"#, 64);
        assert_eq!(set.expect("good").ranges(), std::slice::from_ref(&(0..16)));
    }
}

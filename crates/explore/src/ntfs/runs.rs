//! Lists of clusters, as NTFS encodes them: lengths, and steps from the last place.

use crate::bytes::u8_at;

/// Clusters of a stream that lie one behind the other, or are a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Of the stream.
    pub(super) first: u64,
    pub(super) clusters: u64,
    /// On the volume; None is a hole.
    pub(super) place: Option<u64>,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first + self.clusters
    }
}

/// No volume has more clusters.
const CLUSTERS_MAX: u64 = 1 << 52;

/// None when it makes no sense. There is at most one run for each two bytes.
pub(super) fn decode(mapping: &[u8], first: u64) -> Option<Vec<Run>> {
    let mut found = Vec::new();
    let (mut at, mut first, mut place) = (0, first, 0_u64);
    loop {
        let head = u8_at(mapping, at);
        if head == 0 {
            return Some(found);
        }
        let (length_bytes, step_bytes) = (usize::from(head & 0xf), usize::from(head >> 4));
        let clusters = number(mapping, at + 1, length_bytes)?.cast_unsigned();
        let step = number(mapping, at + 1 + length_bytes, step_bytes)?;
        at += 1 + length_bytes + step_bytes;
        let end = first.checked_add(clusters).filter(|end| *end <= CLUSTERS_MAX)?;
        if clusters == 0 {
            return None;
        }
        let run = if step_bytes == 0 {
            None
        } else {
            place = place.checked_add_signed(step).filter(|place| *place < CLUSTERS_MAX)?;
            Some(place)
        };
        found.push(Run { first, clusters, place: run });
        first = end;
    }
}

/// Little-endian, with a sign.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<i64> {
    if length > 8 {
        return None;
    }
    let bytes = bytes.get(at..at + length)?;
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..length].copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}

/// The run with a cluster.
pub(super) fn find(runs: &[Run], cluster: u64) -> Option<Run> {
    let index = runs.partition_point(|run| run.end() <= cluster);
    runs.get(index).copied().filter(|run| run.first <= cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_both_ways_and_holes_have_none() {
        let mapping = [0x21, 3, 0x00, 0x01, 0x01, 5, 0x11, 2, 0xf0, 0];
        let runs = decode(&mapping, 10).expect("runs");
        let expected = [
            Run { first: 10, clusters: 3, place: Some(256) },
            Run { first: 13, clusters: 5, place: None },
            Run { first: 18, clusters: 2, place: Some(240) },
        ];
        assert_eq!(runs, expected);
        assert_eq!(find(&runs, 13), Some(expected[1]));
        assert_eq!((find(&runs, 9), find(&runs, 20)), (None, None));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            &[0x11, 0, 5, 0][..],
            &[0x11, 3, 0x80, 0],
            &[0x19],
            &[0x91, 1],
            &[0x18, 255, 255, 255, 255, 255, 255, 255, 127, 1],
        ] {
            assert_eq!(decode(bad, 0), None, "{bad:?}");
        }
        assert_eq!(decode(&[], 0), Some(Vec::new()));
    }
}

//! How points and disks are called as folders and files.

use nestling_vault::{Point, format::Timestamp};

/// The link to a machine's newest point.
pub(crate) const LATEST: &str = "latest";
/// Of a time as RFC 3339 writes it, what stands before fractions of a second and the zone.
const TIME_CHARACTERS: usize = "2026-11-26T22:00:22".len();

/// The folder of a point: its time in UTC to the second, so that the order of names is that of times, and its id as
/// `vault points` shows it.
pub(crate) fn point_name(point: &Point) -> String {
    named(point.snapshot.time, &point.short_id())
}

/// For a point whose short name another one has.
pub(crate) fn long_point_name(point: &Point) -> String {
    named(point.snapshot.time, &point.id.to_string())
}

fn named(time: Timestamp, id: &str) -> String {
    let text = time.to_utc().to_string();
    let time = text.get(..TIME_CHARACTERS).unwrap_or(&text);
    format!("{time}Z-{id}")
}

pub(crate) fn disk_file(disk: &str) -> String {
    format!("{disk}.raw")
}

/// The folder that a machine's folder stands in. None: it is the root, called by nothing.
pub(crate) fn parent(folder: &str) -> Option<&str> {
    match folder.rsplit_once('/') {
        Some((parent, _)) => Some(parent),
        None => (!folder.is_empty()).then_some(""),
    }
}

/// The folder of that name in another one.
pub(crate) fn child(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_point_is_called_by_its_time_and_id() {
        for (text, name) in [
            ("2026-11-26T22:00:22.128987569Z", "2026-11-26T22:00:22Z-8d93ead8"),
            ("2026-11-26T22:00:22+02:00", "2026-11-26T20:00:22Z-8d93ead8"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z-8d93ead8"),
        ] {
            assert_eq!(named(time(text), "8d93ead8"), name);
        }
    }

    #[test]
    fn folders_have_parents_up_to_the_root() {
        assert_eq!((parent("Lab/Web01"), parent("Lab"), parent("")), (Some("Lab"), Some(""), None));
        assert_eq!(child(&child("", "Lab"), "Web01"), "Lab/Web01");
    }

    proptest! {
        #[test]
        fn a_child_has_its_parent(folder in "[a-z]{1,3}(/[a-z]{1,3}){0,3}", name in "[a-z]{1,3}") {
            let below = child(&folder, &name);
            prop_assert_eq!(parent(&below), Some(folder.as_str()));
        }
    }
}

//! Changing what a point is tagged with: pins, protection, tags.
//!
//! A snapshot is never changed: another one takes its place, is durable first, and names the ones before (`replaces`) and
//! the first of all (`original`, as restic does it). Whoever stops in between leaves both, and [`Point::is_version_of`]
//! tells which one counts. Nothing here may ever leave the point without a snapshot, not even in the eyes of a prune
//! that looks through the repository meanwhile: while one runs, the old snapshot is left for a later run to remove.

use std::sync::Arc;

use crate::{
    SnapshotId, VaultError,
    format::{Timestamp, snapshot::Snapshot},
    job::Job,
    lock::{RepositoryLock, held},
    point::{DAMAGED_TAG, Point, REPLACES, TAG},
    repo::{Identity, Repository, is_not_found},
    retention::{Candidate, PIN_TAG, PROTECT_TAG},
};

const TAG_BYTES_MAX: usize = 200;
const TAGS_MAX: usize = 1000;
/// Older versions that a snapshot names; there are more than one or two only when a prune runs for long.
const REPLACES_MAX: usize = 1000;

/// One change. Several are made in order, as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retag {
    /// It stays until it is unpinned.
    Pin,
    Unpin,
    /// It stays until then. Only ever prolongs; to shorten, take the protection away first.
    ProtectUntil(Timestamp),
    Unprotect,
    Add(String),
    Remove(String),
}

/// Whether people may give and take this tag.
pub fn check_tag(tag: &str) -> Result<(), VaultError> {
    let why = match tag {
        "" => "it is empty",
        TAG | DAMAGED_TAG => "this program uses it itself",
        PIN_TAG => "it has an operation of its own: pin and unpin",
        _ if tag.starts_with(PROTECT_TAG) => "it has an operation of its own: protect and unprotect",
        _ if tag.len() > TAG_BYTES_MAX => "it is longer than 200 bytes",
        _ if tag.contains(',') || tag.chars().any(char::is_control) => "it has a comma or control characters",
        _ if tag.trim() != tag => "it begins or ends with a space",
        _ => return Ok(()),
    };
    let shown: String = tag.chars().take(80).collect();
    Err(VaultError::Invalid(format!("{shown:?} cannot be given or taken as a tag: {why}")))
}

/// The tags of a point after `changes`.
fn changed(point: &Point, changes: &[Retag]) -> Result<Vec<String>, VaultError> {
    let mut tags = point.snapshot.tags.clone();
    for change in changes {
        match change {
            Retag::Pin => add(&mut tags, PIN_TAG),
            Retag::Unpin => tags.retain(|tag| tag != PIN_TAG),
            Retag::ProtectUntil(until) => {
                let so_far = Point { snapshot: Snapshot { tags, ..point.snapshot.clone() }, ..point.clone() };
                if let Some(longer) = Candidate::of(&so_far).protected_until.filter(|time| time > until) {
                    return Err(VaultError::Protected {
                        point: format!("{}@{}", point.name, point.short_id()),
                        why: format!("it is protected until {longer}, which is later"),
                    });
                }
                tags = so_far.snapshot.tags;
                tags.retain(|tag| !tag.starts_with(PROTECT_TAG));
                tags.push(format!("{PROTECT_TAG}{}", until.to_utc()));
            }
            Retag::Unprotect => tags.retain(|tag| !tag.starts_with(PROTECT_TAG)),
            Retag::Add(tag) => {
                check_tag(tag)?;
                add(&mut tags, tag);
            }
            Retag::Remove(tag) => {
                check_tag(tag)?;
                tags.retain(|known| known != tag);
            }
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(VaultError::Invalid(format!("{}: more than 1000 tags", point.id)));
    }
    Ok(tags)
}

/// `new` as a snapshot that stands in the place of `old` and of all that are `older`. It names all that are there, so
/// that their order of removal does not matter.
pub(crate) fn in_place_of(mut new: Snapshot, old: &Point, older: &[SnapshotId]) -> Snapshot {
    let replaces: Vec<String> =
        older.iter().chain([&old.id]).rev().take(REPLACES_MAX).map(SnapshotId::to_string).collect();
    new.original = Some(old.identity());
    new.other.insert(REPLACES.to_owned(), replaces.into());
    new
}

fn add(tags: &mut Vec<String>, tag: &str) {
    if !tags.iter().any(|known| known == tag) {
        tags.push(tag.to_owned());
    }
}

impl Repository {
    /// Changes the tags of a point. The point as it is then: under a new id, unless nothing changed.
    pub fn retag(
        self: &Arc<Self>,
        point: &Point,
        changes: &[Retag],
        who: &Identity,
        job: &Job,
    ) -> Result<Point, VaultError> {
        self.check_writable()?;
        let tags = changed(point, changes)?;
        if tags == point.snapshot.tags {
            return Ok(point.clone());
        }
        let lock = RepositoryLock::shared(self, who)?;
        let new = self.replace(point, Snapshot { tags, ..point.snapshot.clone() }, &lock, who, job)?;
        lock.check()?;
        Ok(new)
    }

    /// Puts `new` in the place of a point. The caller holds `lock`.
    pub(crate) fn replace(
        &self,
        old: &Point,
        new: Snapshot,
        lock: &RepositoryLock,
        who: &Identity,
        job: &Job,
    ) -> Result<Point, VaultError> {
        match self.snapshot(&old.id) {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => return Err(VaultError::NoSuchPoint(old.id.to_string())),
            Err(error) => return Err(error),
        }
        let (_, before) = self.versions(job)?;
        let before = before.iter().filter(|other| other.is_version_of(old)).map(|other| other.id);
        let new = in_place_of(new, old, &before.collect::<Vec<_>>());
        let id = self.put_snapshot_under(&|| lock.check(), &new)?;
        let point = Point::of(id, new)
            .ok_or_else(|| VaultError::Invalid(format!("{}: what is to replace it is no point", old.id)))?;
        let (current, older) = self.versions(job)?;
        // Two that replace the same point see each other here, whoever was first. One with another tree is what
        // another program wrote from it, and a point of its own.
        let is_rival = |other: &&Point| {
            other.id != id && other.is_version_of(&point) && other.snapshot.tree == point.snapshot.tree
        };
        if let Some(rival) = current.iter().find(is_rival) {
            self.remove_snapshot(&id)?;
            return Err(VaultError::Invalid(format!(
                "point {} of {} has another version, {}: another program changes it at this moment; try again, \
                 and if both are still there then, forget one of them",
                old.id, old.name, rival.id
            )));
        }
        let older: Vec<SnapshotId> =
            older.iter().filter(|other| other.is_version_of(&point)).map(|other| other.id).collect();
        // Our lock stands, so a prune that begins from now on lists the new snapshot.
        let is_pruning = |h: &crate::lock::Held| h.lock.exclusive && h.session() != lock.session();
        if !held(self, who)?.iter().any(is_pruning) {
            for id in older {
                self.remove_snapshot(&id)?;
            }
        }
        Ok(point)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing::{MIB, Place};

    fn one(place: &Place) -> Point {
        place.save_at("a", &place.disk(MIB), 1);
        place.points("a").pop().expect("a point")
    }

    fn count_of(place: &Place) -> usize {
        place.repository.snapshots(&Job::default()).expect("snapshots").len()
    }

    fn retag(place: &Place, point: &Point, changes: &[Retag]) -> Point {
        place.repository.retag(point, changes, &place.who, &Job::default()).expect("changed")
    }

    #[test]
    fn tags_change_and_the_point_stays_the_same() {
        let place = Place::new();
        let first = one(&place);
        let pinned = retag(&place, &first, &[Retag::Pin, Retag::Add("gold".into())]);
        assert_ne!(pinned.id, first.id);
        assert_eq!(pinned.snapshot.tags, [TAG, PIN_TAG, "gold"]);
        let again = retag(&place, &pinned, &[Retag::Unpin, Retag::Remove("gold".into())]);
        assert_eq!(again.snapshot.tags, [TAG]);
        assert_eq!((again.snapshot.original, again.snapshot.tree), (Some(first.id), first.snapshot.tree));
        assert_eq!(count_of(&place), 1);
        assert_eq!(retag(&place, &again, &[Retag::Unpin]).id, again.id, "nothing changed");
        let name = "a".parse().expect("a name");
        let found = place.repository.find_point(&name, Some(&first.short_id()), &Job::default());
        assert_eq!(found.expect("by its first id").id, again.id);
        let error = place.repository.retag(&pinned, &[Retag::Unpin], &place.who, &Job::default());
        assert!(matches!(error, Err(VaultError::NoSuchPoint(_))), "{error:?}");
    }

    #[test]
    fn a_crash_in_between_leaves_one_point() {
        let place = Place::new();
        let first = one(&place);
        let file = place.file_of(&first.id);
        let second = retag(&place, &first, &[Retag::Pin]);
        let second_file = place.file_of(&second.id);
        let third = retag(&place, &second, &[Retag::Add("x".into())]);
        // Both older versions are there again, as if neither removal had happened.
        place.put(&file);
        place.put(&second_file);
        assert_eq!(count_of(&place), 3);
        let points = place.points("a");
        assert_eq!(points.iter().map(|p| p.id).collect::<Vec<_>>(), [third.id]);
        let third_file = place.file_of(&third.id);
        let fourth = retag(&place, &third, &[Retag::Unpin]);
        assert_eq!(count_of(&place), 1, "what was left is swept");
        // Forgetting does not bring an older version back.
        place.put(&third_file);
        let now = "2026-12-01T00:00:00Z".parse().expect("a time");
        let job = Job::default();
        let plan = place.repository.forget_plan_of(&[fourth.id], now, &job).expect("a plan");
        place.repository.forget(&plan, now, &place.who, &job).expect("forgotten");
        assert_eq!(count_of(&place), 0);
    }

    #[test]
    fn wherever_a_change_is_cut_off_there_is_one_point() {
        for count in 0.. {
            let place = Place::new();
            let first = one(&place);
            let outcome = place.fused(count).retag(&first, &[Retag::Pin], &place.who, &Job::default());
            place.repository.unlock(true, &place.who).expect("unlocked");
            let [point] = &place.points("a")[..] else { panic!("{count}: one point") };
            assert_eq!(point.identity(), first.id);
            assert!(outcome.is_err() || point.snapshot.tags.contains(&PIN_TAG.to_owned()));
            let pinned = retag(&place, point, &[Retag::Pin, Retag::Add("x".into())]);
            assert_eq!((count_of(&place), place.points("a")[0].id), (1, pinned.id));
            if outcome.is_ok() {
                return;
            }
        }
    }

    #[test]
    fn two_at_once_do_not_lose_a_pin() {
        let place = Place::new();
        let first = one(&place);
        let file = place.file_of(&first.id);
        let pinned = retag(&place, &first, &[Retag::Pin]);
        place.put(&file);
        let error = place.repository.retag(&first, &[Retag::Add("x".into())], &place.who, &Job::default());
        assert!(error.is_err(), "{error:?}");
        assert_eq!(place.points("a").iter().map(|p| p.id).collect::<Vec<_>>(), [pinned.id]);
    }

    #[test]
    fn what_another_program_rewrote_is_a_point_beside_ours() {
        let (place, job) = (Place::new(), Job::default());
        let first = one(&place);
        place.save_at("b", &place.disk(2 * MIB), 1);
        let tree = place.points("b")[0].snapshot.tree;
        let rewritten = Snapshot { original: Some(first.id), tree, ..first.snapshot.clone() };
        let rewritten = place.repository.put_snapshot(&rewritten).expect("as restic does it");
        let ids = |place: &Place| place.points("a").iter().map(|point| point.id).collect::<HashSet<_>>();
        assert_eq!(ids(&place), [first.id, rewritten].into());
        let ours = retag(&place, &first, &[Retag::Pin]);
        assert_eq!(ids(&place), [ours.id, rewritten].into());
        let theirs = place.points("a").into_iter().find(|point| point.id == rewritten).expect("theirs");
        let theirs = retag(&place, &theirs, &[Retag::Add("x".into())]);
        assert_eq!(ids(&place), [ours.id, theirs.id].into());
        let now = "2026-12-01T00:00:00Z".parse().expect("a time");
        let plan = place.repository.forget_plan_of(&[theirs.id], now, &job).expect("a plan");
        place.repository.forget(&plan, now, &place.who, &job).expect("forgotten");
        assert_eq!(ids(&place), [ours.id].into());
    }

    #[test]
    fn while_a_prune_looks_the_old_snapshot_stays() {
        let place = Place::new();
        let first = one(&place);
        let job = Job::default();
        let plan = place.repository.prune_plan(Default::default(), &place.who, &job).expect("a plan");
        let second = retag(&place, &first, &[Retag::Pin]);
        let third = retag(&place, &second, &[Retag::Add("x".into())]);
        assert_eq!(count_of(&place), 3);
        assert_eq!(place.points("a").iter().map(|p| p.id).collect::<Vec<_>>(), [third.id]);
        drop(plan);
        place.repository.remove_snapshot(&second.id).expect("removed in any order");
        assert_eq!(place.points("a").iter().map(|p| p.id).collect::<Vec<_>>(), [third.id]);
        retag(&place, &third, &[Retag::Unpin]);
        assert_eq!(count_of(&place), 1);
    }

    #[test]
    fn tags_of_our_own_and_strange_ones_are_refused() {
        let place = Place::new();
        let first = one(&place);
        for tag in ["", "nestling", "pin", "damaged", "protect-until=x", "a,b", "a\n", " a", &"a".repeat(201)]
        {
            for change in [Retag::Add(tag.to_owned()), Retag::Remove(tag.to_owned())] {
                assert!(changed(&first, &[change]).is_err(), "{tag:?}");
            }
        }
        let at = |text: &str| Retag::ProtectUntil(text.parse().expect("a time"));
        let (near, far) = (at("2027-01-01T01:00:00+01:00"), at("2028-01-01T00:00:00Z"));
        let tags = changed(&first, &[near.clone(), far.clone()]).expect("prolonged");
        assert_eq!(tags, [TAG, "protect-until=2028-01-01T00:00:00Z"]);
        assert!(changed(&first, &[far.clone(), near.clone()]).is_err());
        let tags = changed(&first, &[far, Retag::Unprotect, near]).expect("shortened");
        assert_eq!(tags, [TAG, "protect-until=2027-01-01T00:00:00Z"]);
    }
}

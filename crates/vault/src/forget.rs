//! Forgetting points: by rules or by name, first as a plan that can be read, then as the act.
//!
//! A plan names snapshots by their content, so it never removes what somebody pinned after it was made: the pinned point
//! is another snapshot. It must never name a point that is pinned or protected, and forgetting frees nothing by
//! itself: prune does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::{
    PointName, SnapshotId, VaultError,
    format::Timestamp,
    job::Job,
    lock::RepositoryLock,
    point::Point,
    repo::{Identity, Repository},
    retention::{Candidate, Reason, Retention, decide},
};

/// What becomes of one point. Without a reason to stay, it goes.
#[derive(Debug, Clone)]
pub struct PlannedPoint {
    pub point: Point,
    pub reasons: Vec<Reason>,
}

impl PlannedPoint {
    pub fn goes(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// The points of one machine that were looked at, newest first.
#[derive(Debug, Clone)]
pub struct PlannedMachine {
    pub name: PointName,
    pub points: Vec<PlannedPoint>,
}

/// What is to be forgotten, and why the rest stays.
#[derive(Debug, Clone, Default)]
pub struct ForgetPlan {
    pub machines: Vec<PlannedMachine>,
}

impl ForgetPlan {
    /// The points that go.
    pub fn going(&self) -> impl Iterator<Item = &Point> {
        let all = self.machines.iter().flat_map(|machine| &machine.points);
        all.filter(|planned| planned.goes()).map(|planned| &planned.point)
    }
}

impl fmt::Display for ForgetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for machine in &self.machines {
            writeln!(f, "{}", machine.name)?;
            for planned in &machine.points {
                let (id, time) = (planned.point.short_id(), planned.point.snapshot.time);
                let reasons: Vec<String> = planned.reasons.iter().map(Reason::to_string).collect();
                match planned.goes() {
                    true => writeln!(f, "  {id}  {time}  goes")?,
                    false => writeln!(f, "  {id}  {time}  stays: {}", reasons.join(", "))?,
                }
            }
        }
        Ok(())
    }
}

impl Repository {
    /// What the rules say of one machine's points, or of all machines', each by itself. Changes nothing.
    pub fn forget_plan(
        &self,
        name: Option<&PointName>,
        rules: &Retention,
        now: Timestamp,
        job: &Job,
    ) -> Result<ForgetPlan, VaultError> {
        rules.check()?;
        let points = self.points(name, job)?;
        let by_id = by_id(&points);
        let mut candidates: BTreeMap<&PointName, Vec<Candidate>> = BTreeMap::new();
        for point in &points {
            candidates.entry(&point.name).or_default().push(Candidate::of(point));
        }
        let machine = |(name, candidates): (&PointName, Vec<Candidate>)| {
            let planned = decide(&candidates, rules, now).into_iter().filter_map(|decision| {
                let point = (*by_id.get(&decision.id)?).clone();
                Some(PlannedPoint { point, reasons: decision.reasons })
            });
            PlannedMachine { name: name.clone(), points: planned.collect() }
        };
        Ok(ForgetPlan { machines: candidates.into_iter().map(machine).collect() })
    }

    /// A plan that removes these points and no others. Refused as a whole when one of them is pinned or protected.
    pub fn forget_plan_of(
        &self,
        ids: &[SnapshotId],
        now: Timestamp,
        job: &Job,
    ) -> Result<ForgetPlan, VaultError> {
        let points = self.points(None, job)?;
        let (by_id, mut planned) = (by_id(&points), HashSet::new());
        let mut machines: BTreeMap<&PointName, Vec<PlannedPoint>> = BTreeMap::new();
        for id in ids {
            let point = *by_id.get(id).ok_or_else(|| VaultError::NoSuchPoint(id.to_string()))?;
            check_free(point, now)?;
            if planned.insert(*id) {
                let planned = PlannedPoint { point: point.clone(), reasons: Vec::new() };
                machines.entry(&point.name).or_default().push(planned);
            }
        }
        let machines = machines.into_iter();
        let machines = machines.map(|(name, points)| PlannedMachine { name: name.clone(), points });
        Ok(ForgetPlan { machines: machines.collect() })
    }

    /// Removes the points that go, and says which were still there. What they alone needed stays until prune.
    pub fn forget(
        self: &Arc<Self>,
        plan: &ForgetPlan,
        now: Timestamp,
        who: &Identity,
        job: &Job,
    ) -> Result<Vec<SnapshotId>, VaultError> {
        for point in plan.going() {
            check_free(point, now)?;
        }
        let lock = RepositoryLock::shared(self, who)?;
        let (current, older) = self.versions(job)?;
        let there: HashSet<SnapshotId> = current.iter().map(|point| point.id).collect();
        let mut versions: HashMap<SnapshotId, Vec<&Point>> = HashMap::new();
        for old in &older {
            versions.entry(old.identity()).or_default().push(old);
        }
        job.begin("forgetting points", plan.going().count() as u64);
        let mut gone = Vec::new();
        for point in plan.going() {
            job.check()?;
            // What an older version of it would bring back goes first.
            let older = versions.get(&point.identity()).into_iter().flatten();
            for old in older.filter(|old| old.is_version_of(point)) {
                self.remove_snapshot(&old.id)?;
            }
            self.remove_snapshot(&point.id)?;
            gone.extend(there.contains(&point.id).then_some(point.id));
            job.advance(1);
        }
        lock.check()?;
        Ok(gone)
    }
}

fn by_id(points: &[Point]) -> HashMap<SnapshotId, &Point> {
    points.iter().map(|point| (point.id, point)).collect()
}

/// Fails for a point that is pinned or protected.
fn check_free(point: &Point, now: Timestamp) -> Result<(), VaultError> {
    let candidate = Candidate::of(point);
    let why = match candidate.protected_until.filter(|until| *until > now) {
        _ if candidate.pinned => "it is pinned".to_owned(),
        Some(until) => format!("it is protected until {until}"),
        None => return Ok(()),
    };
    Err(VaultError::Protected { point: format!("{}@{}", point.name, point.short_id()), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        retag::Retag,
        testing::{MIB, Place},
    };

    fn now() -> Timestamp {
        "2026-12-01T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn rules_decide_for_each_machine_by_itself() {
        let place = Place::new();
        let disk = place.disk(MIB);
        for (name, time) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
            place.save_at(name, &disk, time);
        }
        let rules = Retention { last: 1, ..Retention::default() };
        let job = Job::default();
        let plan = place.repository.forget_plan(None, &rules, now(), &job).expect("a plan");
        assert_eq!((plan.machines.len(), plan.going().count()), (2, 2));
        let text = plan.to_string();
        assert!(text.contains("goes") && text.contains("stays: last") && text.starts_with("a\n"), "{text}");
        assert_eq!(place.points("a").len(), 3, "a plan changes nothing");
        assert_eq!(place.repository.forget(&plan, now(), &place.who, &job).expect("forgotten").len(), 2);
        assert_eq!((place.points("a").len(), place.points("b").len()), (1, 1));
        assert!(place.repository.forget(&plan, now(), &place.who, &job).expect("again").is_empty());
        assert!(place.repository.forget_plan(None, &Retention::default(), now(), &job).is_err());
    }

    #[test]
    fn what_is_pinned_or_protected_is_refused_by_name() {
        let place = Place::new();
        let job = Job::default();
        let disk = place.disk(MIB);
        place.save_at("a", &disk, 1);
        place.save_at("a", &disk, 2);
        let [first, second] = &place.points("a")[..] else { panic!("two points") };
        let plan = place.repository.forget_plan_of(&[first.id], now(), &job).expect("a plan");
        let pinned = place.repository.retag(first, &[Retag::Pin], &place.who, &job).expect("pinned");
        let error = place.repository.forget_plan_of(&[pinned.id], now(), &job).expect_err("refused");
        assert!(error.to_string().contains(&format!("a@{}", pinned.short_id())), "{error}");
        // A plan from before does not touch what was pinned since.
        assert!(place.repository.forget(&plan, now(), &place.who, &job).expect("forgotten").is_empty());
        assert_eq!(place.points("a").len(), 2);
        let until = "2027-01-01T00:00:00Z".parse().expect("a time");
        let kept =
            place.repository.retag(second, &[Retag::ProtectUntil(until)], &place.who, &job).expect("kept");
        assert!(place.repository.forget_plan_of(&[kept.id], now(), &job).is_err());
        let free = place
            .repository
            .retag(&kept, &[Retag::Unprotect], &place.who, &job)
            .expect("the protection is taken away");
        let plan = place.repository.forget_plan_of(&[free.id, free.id], now(), &job).expect("a plan");
        assert_eq!(place.repository.forget(&plan, now(), &place.who, &job).expect("forgotten"), [free.id]);
        assert!(place.repository.forget_plan_of(&[free.id], now(), &job).is_err(), "it is gone");
    }
}

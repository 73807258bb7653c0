//! A disk of an instant that a node inside lends, as any other disk is read. All of it blocks.
//!
//! The way there takes long, so what will be read next is asked for before: a few blocks further on, as far as the disk holds
//! data there that are wanted. All is bounded: how much is kept, how much is under way, and how little an answer may move on.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use nestling_block::{BlockError, BlockSource, Extent, ExtentKind, ExtentList, ExtentSet, check_range};
use nestling_model::protection::Message;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    super::loan::{LOAN_STRETCHES_MAX, Stretches},
    port::Refused,
    session::Session,
};
use crate::{ErrorKind, locked::lock};

/// What is asked for at once.
const BLOCK_BYTES: u64 = 512 << 10;
/// Blocks asked for ahead of each reader.
const AHEAD: usize = 2;
/// Blocks that are kept or under way; readers that are more at once than this allows for wait for their own.
const BLOCKS_MAX: usize = 64;
/// Questions under way for all disks of a machine. More do not make the channel faster.
const QUESTIONS_MAX: usize = 8;
/// In which steps changes are looked at when it is foreseen what will be read.
const STEP_BYTES: u64 = 128 << 10;
/// A list that ends early is at least so long: else an answer could move on by a byte at a time.
const EARLY_MIN: usize = 1 << 10;
/// No part of a disk that is told of is taken to be smaller: crumbs would cost more to remember than to read.
const GRAIN_BYTES: u64 = 4 << 10;
/// As many changed parts as all disks of a machine may have together: some 64 MiB to remember.
const CHANGED_MAX: usize = 1 << 22;
/// Answers about where data lie that are remembered, to know what will be read; those that are long are not.
const MAPS_MAX: usize = 32;
const MAP_RANGES_MAX: usize = 4096;

/// What all disks of a machine share.
pub struct Shares {
    questions: Arc<Semaphore>,
    /// Changed parts that are remembered.
    changed: AtomicUsize,
}

impl Shares {
    pub fn new() -> Self {
        Self { questions: Arc::new(Semaphore::new(QUESTIONS_MAX)), changed: AtomicUsize::new(0) }
    }

    /// Whether so many more may be remembered.
    fn has_room(&self, more: usize) -> bool {
        self.changed.fetch_add(more, Relaxed).saturating_add(more) <= CHANGED_MAX
    }
}

type Fetch = Shared<BoxFuture<'static, Result<Bytes, Refused>>>;

#[derive(Default)]
struct Known {
    blocks: VecDeque<(Range<u64>, Fetch)>,
    maps: VecDeque<(Range<u64>, ExtentSet)>,
}

pub struct InsideDisk {
    session: Arc<Session>,
    /// Of the disk in the loan.
    number: usize,
    name: String,
    size_bytes: u64,
    /// Whether only what changed is read.
    tracked: bool,
    shares: Arc<Shares>,
    runtime: Handle,
    known: Mutex<Known>,
    changed: OnceLock<Arc<ExtentSet>>,
}

impl InsideDisk {
    /// Called where the runtime runs that its questions then run on.
    pub fn new(
        session: Arc<Session>,
        number: usize,
        name: &str,
        size_bytes: u64,
        tracked: bool,
        shares: Arc<Shares>,
    ) -> Self {
        Self {
            name: format!("{} of {}", name, session.path),
            session,
            number,
            size_bytes,
            tracked,
            shares,
            runtime: Handle::current(),
            known: Mutex::default(),
            changed: OnceLock::new(),
        }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Refused>>) -> Result<T, BlockError> {
        self.session.waiting.fetch_add(1, Relaxed);
        let done = self.runtime.block_on(self.session.unless_over(work));
        self.session.waiting.fetch_sub(1, Relaxed);
        done.map_err(|why| lost(&self.name, &why))
    }

    fn strange(&self, what: &str) -> BlockError {
        let what = format!("the node inside gave an answer that makes no sense: {what}");
        BlockError::unsupported(&self.name, what)
    }

    /// What changed since the point that it counts from; `None`: that is not known, and all is read.
    pub fn changed(&self) -> Result<Option<Arc<ExtentSet>>, BlockError> {
        if !self.tracked {
            return Ok(None);
        }
        if let Some(known) = self.changed.get() {
            return Ok(Some(Arc::clone(known)));
        }
        let (mut changed, mut from) = (ExtentSet::new(), 0);
        while from < self.size_bytes {
            let told = self.wait(self.session.changed(self.number, from))?;
            self.check(&told, &(from..self.size_bytes))?;
            let before = changed.ranges().len();
            for range in coarse(told.ranges, self.size_bytes).ranges() {
                changed.insert(range.clone());
            }
            if !self.shares.has_room(changed.ranges().len().saturating_sub(before)) {
                return Err(self.strange("its disks changed in more places than any have"));
            }
            from = told.until;
        }
        Ok(Some(Arc::clone(self.changed.get_or_init(|| Arc::new(changed)))))
    }

    fn check(&self, told: &Stretches, asked: &Range<u64>) -> Result<(), BlockError> {
        check(told, asked).map_err(|what| self.strange(what))
    }

    /// How far a reader that is at `at` will go on, as far as that can be told; at most a block.
    fn foreseen(&self, known: &Known, at: u64) -> u64 {
        let Some((_, data)) = known.maps.iter().find(|(range, _)| range.contains(&at)) else { return at };
        let Some(data) = data.within(at..u64::MAX).next().filter(|range| range.start == at) else {
            return at;
        };
        let end = data.end.min(at.saturating_add(BLOCK_BYTES));
        let Some(changed) = self.changed.get() else { return end };
        let mut until = at;
        while until < end {
            let step = until / STEP_BYTES * STEP_BYTES;
            let next = step.saturating_add(STEP_BYTES);
            if !changed.touches(step..next) {
                break;
            }
            until = next.min(end);
        }
        until
    }

    fn fetch(&self, range: Range<u64>) -> Fetch {
        let (session, number) = (Arc::clone(&self.session), self.number);
        let questions = Arc::clone(&self.shares.questions);
        let ended = |_| Refused::new(ErrorKind::Failed, "it is to end");
        let work = self.runtime.spawn(async move {
            let _turn = questions.acquire_owned().await.map_err(ended)?;
            session.unless_over(session.bytes(number, range)).await
        });
        let failed = |e: tokio::task::JoinError| Err(Refused::new(ErrorKind::Failed, e.to_string()));
        async move { work.await.unwrap_or_else(failed) }.boxed().shared()
    }

    /// The block that has `at`; what follows it is asked for, too.
    fn block(&self, at: u64, wanted: u64) -> (Range<u64>, Fetch) {
        let mut known = lock(&self.known);
        let (range, fetch) = match known.blocks.iter().find(|(range, _)| range.contains(&at)) {
            Some(found) => found.clone(),
            None => {
                let least = at.saturating_add(wanted.min(BLOCK_BYTES));
                let range = at..self.foreseen(&known, at).max(least).min(self.size_bytes);
                let block = (range.clone(), self.fetch(range));
                keep(&mut known.blocks, block.clone(), BLOCKS_MAX);
                block
            }
        };
        let mut next = range.end;
        for _ in 0..AHEAD {
            if let Some((there, _)) = known.blocks.iter().find(|(range, _)| range.contains(&next)) {
                next = there.end;
                continue;
            }
            let until = self.foreseen(&known, next);
            if until <= next {
                break;
            }
            let block = (next..until, self.fetch(next..until));
            keep(&mut known.blocks, block, BLOCKS_MAX);
            next = until;
        }
        (range, fetch)
    }
}

/// The words may be a guest's, and reach this host's log.
fn lost(name: &str, why: &Refused) -> BlockError {
    BlockError::unsupported(name, Message::from(why.message.as_str()).to_string())
}

/// Whether an answer is one to a question about `asked`.
fn check(told: &Stretches, asked: &Range<u64>) -> Result<(), &'static str> {
    if told.ranges.len() > LOAN_STRETCHES_MAX {
        return Err("a list is longer than any may be");
    }
    let moves_on = told.until == asked.end || told.ranges.len() >= EARLY_MIN && told.until > asked.start;
    if !moves_on || told.until > asked.end {
        return Err("a list ends where none may end");
    }
    let mut at = asked.start;
    for range in &told.ranges {
        if range.start < at || range.end <= range.start || range.end > told.until {
            return Err("a list is not in order, or not inside the disk");
        }
        at = range.end;
    }
    Ok(())
}

/// A little more than was told, which is always right.
fn coarse(ranges: Vec<Range<u64>>, size_bytes: u64) -> ExtentSet {
    ranges.into_iter().collect::<ExtentSet>().align(GRAIN_BYTES, size_bytes)
}

fn keep<T>(all: &mut VecDeque<T>, new: T, count_max: usize) {
    if all.len() >= count_max {
        all.pop_front();
    }
    all.push_back(new);
}

impl BlockSource for InsideDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    #[expect(clippy::cast_possible_truncation, reason = "places inside a buffer and inside a block")]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (range, fetch) = self.block(at, rest.len() as u64);
            let read = self.wait(fetch);
            let length = rest.len().min((range.end - at) as usize);
            if read.is_err() || at + length as u64 == range.end {
                // Whoever reads on goes on behind it.
                lock(&self.known).blocks.retain(|(there, _)| *there != range);
            }
            let bytes = read?;
            let from = (at - range.start) as usize;
            let part = bytes.get(from..from + length);
            rest[..length].copy_from_slice(part.ok_or_else(|| self.strange("an answer is too short"))?);
            rest = &mut rest[length..];
            at += length as u64;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        check_range(&self.name, self.size_bytes, range.start, range.end.saturating_sub(range.start))?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let told = self.wait(self.session.data(self.number, range.clone()))?;
        self.check(&told, &range)?;
        let told_of = range.start..told.until;
        let all: ExtentSet = coarse(told.ranges, self.size_bytes).within(told_of.clone()).collect();
        let mut list = ExtentList::new(told_of.clone());
        for data in all.ranges() {
            if !list.push(data.start - list.position(), ExtentKind::Zero)
                || !list.push(data.end - data.start, ExtentKind::Data)
            {
                break;
            }
        }
        if !list.is_done() {
            list.push(told.until - list.position(), ExtentKind::Zero);
        }
        if all.ranges().len() <= MAP_RANGES_MAX {
            keep(&mut lock(&self.known).maps, (told_of, all), MAPS_MAX);
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use proptest::prelude::*;

    use super::*;

    fn told(ranges: &[Range<u64>], until: u64) -> Stretches {
        Stretches { ranges: ranges.to_vec(), until }
    }

    #[test]
    fn a_list_is_in_order_inside_of_what_was_asked_and_moves_on() {
        assert_eq!(check(&told(&[10..12, 12..13, 15..20], 20), &(10..20)), Ok(()));
        assert_eq!(check(&told(&[], 20), &(10..20)), Ok(()));
        let many: Vec<Range<u64>> = (0..EARLY_MIN as u64).map(|n| n * 2..n * 2 + 1).collect();
        assert_eq!(check(&told(&many, 3000), &(0..5000)), Ok(()), "it ends early with many");
        for (ranges, until) in [
            (&[(9, 12)][..], 20),
            (&[(10, 21)], 20),
            (&[(10, 21)], 21),
            (&[(12, 14), (13, 15)], 20),
            (&[(14, 15), (12, 13)], 20),
            (&[(12, 12)], 20),
            (&[(10, 11)], 11),
            (&[], 10),
            (&[], 0),
            (&[], u64::MAX),
        ] {
            let ranges: Vec<Range<u64>> = ranges.iter().map(|(from, to)| *from..*to).collect();
            assert!(check(&told(&ranges, until), &(10..20)).is_err(), "{ranges:?} {until}");
        }
        let endless = vec![10..11; LOAN_STRETCHES_MAX + 1];
        assert!(check(&told(&endless, 20), &(10..20)).is_err());
    }

    #[test]
    fn what_a_guest_says_of_an_error_is_one_short_line() {
        let why = Refused::new(ErrorKind::Failed, "x\nERROR the host is down\u{1b}[2J".repeat(500));
        let text = lost("scsi-0 of L1/L2", &why).to_string();
        assert!(!text.contains(char::is_control) && text.len() < 1500, "{text}");
    }

    #[test]
    fn crumbs_are_made_whole_and_what_is_remembered_of_all_disks_is_bounded() {
        let crumbs = |step: u64| (0..1000).map(|n| n * step..n * step + 1).collect();
        let end = 8 * GRAIN_BYTES + 5;
        let only = |set: ExtentSet| (set.ranges().len(), set.ranges()[0].clone());
        assert_eq!(only(coarse(crumbs(2), end)), (1, 0..GRAIN_BYTES));
        let last = coarse(iter::once(end - 1..end).collect(), end);
        assert_eq!(only(last), (1, 8 * GRAIN_BYTES..end), "not behind its end");
        assert_eq!(coarse(crumbs(2 * GRAIN_BYTES), 1 << 30).bytes(), 1000 * GRAIN_BYTES);
        let shares = Shares::new();
        assert!(shares.has_room(CHANGED_MAX - 1) && shares.has_room(1));
        assert!(!shares.has_room(1), "whichever of its disks asks");
    }

    proptest! {
        /// Whatever passes covers what was asked with parts that do not overlap.
        #[test]
        fn what_passes_is_a_map(
            numbers in prop::collection::vec((0_u64..40, 0_u64..40), 0..6),
            until in 0_u64..50,
            start in 0_u64..20,
            length in 1_u64..20,
        ) {
            let ranges: Vec<Range<u64>> = numbers.iter().map(|(from, to)| *from..*to).collect();
            let asked = start..start + length;
            if check(&told(&ranges, until), &asked).is_ok() {
                prop_assert_eq!(until, asked.end);
                let sum: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                prop_assert!(sum <= length);
                let set: ExtentSet = ranges.into_iter().collect();
                prop_assert_eq!(set.bytes(), sum);
                prop_assert!(set.within(asked).map(|part| part.end - part.start).sum::<u64>() == sum);
            }
        }
    }
}

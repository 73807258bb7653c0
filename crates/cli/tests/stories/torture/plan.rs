//! What each round does, drawn from a seed: the same seed draws the same rounds. What is written, and when exactly a blow
//! falls, is chance.

/// The machine's disks: a qcow2 image, whose tracking outlives an engine, and a raw one, whose tracking does not.
pub const DISKS: [(&str, u64); 2] = [("vda", 24 << 20), ("vdb", 8 << 20)];
/// The end of each disk has the log of what is written in order.
pub const LOG_BYTES: u64 = 1 << 20;
pub const SECTOR: u64 = 512;

/// Where random writes go.
pub fn sectors(disk: usize) -> u64 {
    (DISKS[disk].1 - LOG_BYTES) / SECTOR
}

/// Chance that can be had again (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// So often in a hundred.
    fn percent(&mut self, of: u64) -> bool {
        self.below(100) < of
    }
}

/// All kinds come before one of them comes again.
struct Deck<T: 'static> {
    all: &'static [T],
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    fn new(all: &'static [T]) -> Self {
        Self { all, left: Vec::new() }
    }

    fn draw(&mut self, dice: &mut Dice) -> T {
        if self.left.is_empty() {
            self.left = self.all.to_vec();
        }
        let at = dice.below(self.left.len() as u64);
        self.left.swap_remove(usize::try_from(at).expect("small"))
    }
}

/// How change tracking is damaged while no engine has the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    BitmapsRemoved,
    BitmapsCleared,
    BitmapsNotRecording,
    /// Removed and begun once more under the same name.
    BitmapsBegunAnew,
    BitmapsOfOtherGranularity,
    WrittenByTool,
    /// Into a cluster of the file, past the format, with the file's time of change set back.
    WrittenPastTheFormat,
    Replaced,
    OlderCopy,
    /// Made anew by conversion: the same bytes, another file.
    Converted,
    RawWritten,
}

/// What comes over the machine between two backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Nothing,
    NodeKilled,
    NodeStopped,
    /// While the guest writes.
    EngineKilled,
    TurnedOff,
    ShutDown,
    Saved,
    Reset,
    Damaged(Damage),
}

/// What comes over a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum During {
    Nothing,
    /// The guest writes on, from just after the instant.
    Writes,
    /// It writes all the time, in an order that shows in what is saved.
    WritesInOrder,
    NodeKilled,
    NodeStopped,
    EngineKilled,
    TurnedOff,
    Saved,
    Reset,
    Paused,
    /// Of a machine without an engine only.
    Started,
    RepositoryAway,
    Cancelled,
}

const BEFORE: &[Before] = &[
    Before::Nothing,
    Before::Nothing,
    Before::Nothing,
    Before::NodeKilled,
    Before::NodeStopped,
    Before::EngineKilled,
    Before::TurnedOff,
    Before::ShutDown,
    Before::Saved,
    Before::Reset,
    Before::Damaged(Damage::BitmapsRemoved),
    Before::Damaged(Damage::BitmapsCleared),
    Before::Damaged(Damage::BitmapsNotRecording),
    Before::Damaged(Damage::BitmapsBegunAnew),
    Before::Damaged(Damage::BitmapsOfOtherGranularity),
    Before::Damaged(Damage::WrittenByTool),
    Before::Damaged(Damage::WrittenPastTheFormat),
    Before::Damaged(Damage::Replaced),
    Before::Damaged(Damage::OlderCopy),
    Before::Damaged(Damage::Converted),
    Before::Damaged(Damage::RawWritten),
];

const DURING: &[During] = &[
    During::Nothing,
    During::Writes,
    During::Writes,
    During::WritesInOrder,
    During::NodeKilled,
    During::NodeKilled,
    During::NodeStopped,
    During::EngineKilled,
    During::EngineKilled,
    During::TurnedOff,
    During::Saved,
    During::Reset,
    During::Paused,
    During::RepositoryAway,
    During::Cancelled,
];

/// Of a machine without an engine.
const DURING_REST: &[During] = &[
    During::Nothing,
    During::Started,
    During::NodeKilled,
    During::NodeStopped,
    During::RepositoryAway,
    During::Cancelled,
];

/// What is put into a stretch of a disk.
#[derive(Debug, Clone, Copy)]
pub enum What {
    Random,
    Zeroes,
    /// Given back, as a file system does with what it deletes.
    Discarded,
}

#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub disk: usize,
    pub what: What,
    pub from: u64,
    pub sectors: u64,
}

#[derive(Debug, Clone)]
pub struct Round {
    pub number: u32,
    pub writes: Vec<Write>,
    pub before: Before,
    /// Whether a machine that `before` leaves without an engine is backed up as it lies.
    pub at_rest: bool,
    pub during: During,
    /// Whether the blow falls when bytes are already being saved, and the guest writes again; else near the beginning.
    pub late: bool,
    pub delay_ms: u64,
    pub repository: usize,
}

/// All rounds of a seed.
pub struct Plan {
    dice: Dice,
    before: Deck<Before>,
    during: Deck<During>,
    during_rest: Deck<During>,
    drawn: u32,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            before: Deck::new(BEFORE),
            during: Deck::new(DURING),
            during_rest: Deck::new(DURING_REST),
            drawn: 0,
        }
    }

    pub fn round(&mut self) -> Round {
        let dice = &mut self.dice;
        self.drawn += 1;
        let before = self.before.draw(dice);
        let has_rest =
            !matches!(before, Before::Nothing | Before::NodeKilled | Before::NodeStopped | Before::Reset);
        let at_rest = has_rest && dice.percent(50);
        let deck = if at_rest { &mut self.during_rest } else { &mut self.during };
        let during = deck.draw(dice);
        let count = 3 + dice.below(8);
        Round {
            number: self.drawn,
            writes: (0..count).map(|_| write(dice)).collect(),
            before,
            at_rest,
            during,
            late: dice.percent(65),
            delay_ms: dice.below(700),
            // Another one now and then, so that tracking of two goes side by side.
            repository: usize::from(dice.percent(30)),
        }
    }
}

/// Small and large ones, and not at the bounds of anything.
fn write(dice: &mut Dice) -> Write {
    let disk = usize::from(dice.percent(30));
    let what = match dice.below(10) {
        0 => What::Zeroes,
        1 | 2 => What::Discarded,
        _ => What::Random,
    };
    let bits = dice.below(12);
    let sectors = 1 + dice.below(2 << bits);
    let from = dice.below(self::sectors(disk) - sectors);
    Write { disk, what, from, sectors }
}

#[test]
fn a_seed_draws_the_same_rounds_again() {
    let rounds = |seed| {
        let mut plan = Plan::new(seed);
        (0..50).map(|_| format!("{:?}", plan.round())).collect::<Vec<_>>()
    };
    assert_eq!(rounds(7), rounds(7));
    assert_ne!(rounds(7), rounds(8));
}

#[test]
fn fifty_rounds_have_every_kind_and_stay_in_their_disks() {
    let mut plan = Plan::new(1);
    let rounds: Vec<Round> = (0..50).map(|_| plan.round()).collect();
    for kind in BEFORE {
        assert!(rounds.iter().any(|round| round.before == *kind), "{kind:?}");
    }
    for kind in DURING.iter().chain(DURING_REST) {
        assert!(rounds.iter().any(|round| round.during == *kind), "{kind:?}");
    }
    for write in rounds.iter().flat_map(|round| &round.writes) {
        assert!(write.from + write.sectors <= sectors(write.disk) && write.sectors > 0, "{write:?}");
    }
}

//! A storage that goes wrong as real ones do, by a seed, for tests of whatever stands on a storage.
//!
//! What it shows is what real storages have shown, and all that the engine is promised to survive:
//! * an operation is **refused** and nothing happens;
//! * it happens, and its **answer is lost**: the caller sees an error;
//! * a put is **torn**: an error, and a part of the file under a temporary name, never under its own;
//! * it is **late**: the caller sees a timeout, and up to [`Faults::late_operations_max`] operations later it happens
//!   after all, even after the same file was removed;
//! * it is **repeated**: it succeeds, and a second copy of the request arrives late;
//! * a listing that runs while another thread writes shows some of what changes, in no order, and not the rest;
//! * the process **crashes** between two operations or inside one, which then did nothing, tore, or was done;
//! * the power fails, and removals that are not promised to be durable are undone.
//!
//! What no engine can survive it does not do by itself: it never loses or replaces a file it reported as stored, and
//! never returns other bytes than it has ([`SimulatedStorage::damage`] does, for tests of verification). One more is
//! off in every preset: [`Faults::torn_visible`], where an unfinished put is seen under its own name, as a storage that
//! writes in place shows it; none of ours does.
//!
//! Every decision follows from the seed and the number of the operation, which is given under a lock: with one thread
//! a seed repeats a run exactly, with several it repeats what each number met, and [`SimulatedStorage::log`] tells the
//! order in which they came.

#[cfg(test)]
mod tests;
mod world;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use self::world::{Effect, World};
use super::{FileKind, FileName, Listed, Operation, Storage, StorageError, StorageErrorKind, random::Random};

/// How often what goes wrong, in a thousand operations each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    pub refused: u16,
    pub answer_lost: u16,
    pub torn: u16,
    pub late: u16,
    pub repeated: u16,
    pub torn_visible: u16,
    /// By how many operations at most something late comes after its call.
    pub late_operations_max: u64,
    /// What callers see where something fails; a late operation is always a timeout.
    pub errors: &'static [StorageErrorKind],
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        refused: 0,
        answer_lost: 0,
        torn: 0,
        late: 0,
        repeated: 0,
        torn_visible: 0,
        late_operations_max: 0,
        errors: &[StorageErrorKind::Io],
    };

    /// A store behind a bad line: errors that pass, answers that are lost, requests that arrive late and twice.
    pub const NETWORK: Self = Self {
        refused: 50,
        answer_lost: 50,
        late: 30,
        repeated: 30,
        late_operations_max: 8,
        errors: &[StorageErrorKind::Unreachable, StorageErrorKind::Timeout],
        ..Self::NONE
    };

    /// A failing disk: errors that stay, and torn writes.
    pub const DISK: Self = Self {
        refused: 30,
        torn: 50,
        errors: &[StorageErrorKind::Io, StorageErrorKind::NoSpace, StorageErrorKind::ReadOnly],
        ..Self::NONE
    };
}

/// What went wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Refused,
    AnswerLost,
    Torn,
    Late,
    Repeated,
    TornVisible,
    Crashed,
}

/// What the operation that a crash falls into has done by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    /// A part of the file lies under a temporary name. Nothing, for what is no put.
    Torn,
    Done,
}

impl Cut {
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Torn, Self::Done];
}

/// An operation that took place, in the order of the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub number: u64,
    pub client: u32,
    pub operation: Operation,
    pub file: Option<FileName>,
    pub bytes: u64,
    pub fault: Option<Fault>,
}

/// One client of a simulated store: what one process sees of it.
#[derive(Debug)]
pub struct SimulatedStorage {
    world: Arc<Mutex<World>>,
    seed: u64,
    faults: Faults,
    client: u32,
    /// After how many operations of this client it crashes, and how.
    crash: Mutex<Option<(u64, Option<Cut>)>>,
}

impl SimulatedStorage {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::with(World::default(), seed, faults)
    }

    fn with(mut world: World, seed: u64, faults: Faults) -> Self {
        let client = world.new_client();
        Self { world: Arc::new(Mutex::new(world)), seed, faults, client, crash: Mutex::new(None) }
    }

    /// Another process that uses the same store; each crashes by itself.
    pub fn another_client(&self, seed: u64, faults: Faults) -> Self {
        let client = self.world().new_client();
        Self { world: Arc::clone(&self.world), seed, faults, client, crash: Mutex::new(None) }
    }

    /// This client succeeds with so many operations; it crashes in the next one, in a way that the seed picks.
    pub fn crash_after(&self, operations: u64) {
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) = Some((operations, None));
    }

    /// The same, in a given way.
    pub fn crash_after_with(&self, operations: u64, cut: Cut) {
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) = Some((operations, Some(cut)));
    }

    /// The store as a new process finds it after this one was killed, in a copy where nothing more goes wrong. What
    /// was late is still under way.
    pub fn survivors(&self) -> Self {
        self.survivors_with(self.seed, Faults::NONE)
    }

    pub fn survivors_with(&self, seed: u64, faults: Faults) -> Self {
        Self::with(self.world().clone(), seed, faults)
    }

    /// The same after the power failed: what was under way is lost, temporary files are in any state, and removals
    /// that are not promised to be durable may be undone.
    pub fn survivors_of_power_failure(&self) -> Self {
        let mut world = self.world().clone();
        let mut random = Random::new(self.seed ^ world.operations().rotate_left(32));
        world.fail_power(&mut random);
        Self::with(world, self.seed, Faults::NONE)
    }

    /// How many operations this client has begun, the one that it crashed in included.
    pub fn operations(&self) -> u64 {
        self.world().operations_of(self.client)
    }

    pub fn log(&self) -> Vec<Logged> {
        self.world().log.clone()
    }

    /// Changes the bytes of a file behind the store's back, as a failing disk does. False if it is not there.
    pub fn damage(&self, file: &FileName, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.world().files.get_mut(file).map(change).is_some()
    }

    /// Lets time pass, by which temporary files grow old. Each operation takes a millisecond by itself.
    pub fn advance(&self, time: Duration) {
        self.world().now += time;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A test that panicked is not looked at further.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, file: Option<&FileName>) -> StorageError {
        let error = StorageError::new(kind, operation, self.describe());
        file.map_or(error.clone(), |file| error.on(file))
    }

    /// Starts an operation: gives it its number, and says what is to go wrong.
    fn begin(
        &self,
        operation: Operation,
        file: Option<&FileName>,
        put: Option<&[u8]>,
    ) -> Result<(MutexGuard<'_, World>, Plan), StorageError> {
        if let Some(file) = file {
            file.check(&self.describe())?;
        }
        let mut world = self.world();
        let crashed = || self.error(StorageErrorKind::Crashed, operation, file);
        if world.has_crashed(self.client) {
            return Err(crashed());
        }
        let number = world.next_operation(self.client);
        let mut random = Random::new(self.seed.wrapping_add(number.wrapping_mul(0xd134_2543_de82_ef95)));
        let crash = *self.crash.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = match crash {
            Some((after, cut)) if world.operations_of(self.client) > after => {
                let cut = cut.unwrap_or(Cut::ALL[random.below(3) as usize]);
                world.crash(self.client, cut, effect(operation, file, put));
                Some(Fault::Crashed)
            }
            _ => self.fault(operation, &mut random),
        };
        let bytes = put.map_or(0, |bytes| bytes.len() as u64);
        let file = file.cloned();
        let logged = Logged { number, client: self.client, operation, file, bytes, fault };
        world.log.push(logged);
        if fault == Some(Fault::Crashed) { Err(crashed()) } else { Ok((world, Plan { fault, random })) }
    }

    fn fault(&self, operation: Operation, random: &mut Random) -> Option<Fault> {
        let faults = &self.faults;
        let (put, changes) =
            (operation == Operation::Put, matches!(operation, Operation::Put | Operation::Remove));
        [
            (faults.refused, Fault::Refused, true),
            (faults.answer_lost, Fault::AnswerLost, changes),
            (faults.torn, Fault::Torn, put),
            (faults.late, Fault::Late, changes),
            (faults.repeated, Fault::Repeated, changes),
            (faults.torn_visible, Fault::TornVisible, put),
        ]
        .into_iter()
        // Every chance is drawn, so that one more fault leaves the others where they were.
        .filter_map(|(permille, fault, applies)| (random.chance(permille) && applies).then_some(fault))
        .next()
    }

    fn failure(&self, plan: &mut Plan, operation: Operation, file: Option<&FileName>) -> StorageError {
        let errors = self.faults.errors;
        let picked = errors.get(plan.random.below(errors.len() as u64) as usize);
        self.error(picked.copied().unwrap_or(StorageErrorKind::Io), operation, file)
    }

    /// Carries out what changes the store, as planned. The plain case is the caller's.
    fn go_wrong(
        &self,
        world: &mut World,
        plan: &mut Plan,
        operation: Operation,
        file: &FileName,
        effect: Effect,
    ) -> Option<Result<(), StorageError>> {
        let due = || world.operations() + 1;
        let late_by = plan.random.below(self.faults.late_operations_max);
        match plan.fault? {
            Fault::Refused | Fault::Crashed => {}
            Fault::AnswerLost => world.apply(effect).unwrap_or(()),
            Fault::Torn => world.tear(&effect),
            Fault::TornVisible => world.tear_visibly(effect, &mut plan.random),
            Fault::Late => {
                world.send(due() + late_by, effect);
                return Some(Err(self.error(StorageErrorKind::Timeout, operation, Some(file))));
            }
            Fault::Repeated => {
                world.send(due() + late_by, effect.clone());
                let done = world.apply(effect);
                return Some(done.map_err(|kind| self.error(kind, operation, Some(file))));
            }
        }
        Some(Err(self.failure(plan, operation, Some(file))))
    }

    /// Lets others in between, where an operation is not one step in a real store either.
    fn let_others_in<'a>(
        &'a self,
        world: MutexGuard<'a, World>,
        operation: Operation,
        file: Option<&FileName>,
    ) -> Result<MutexGuard<'a, World>, StorageError> {
        drop(world);
        thread::yield_now();
        let world = self.world();
        if world.has_crashed(self.client) {
            return Err(self.error(StorageErrorKind::Crashed, operation, file));
        }
        Ok(world)
    }
}

/// What is to become of an operation.
struct Plan {
    fault: Option<Fault>,
    random: Random,
}

fn effect(operation: Operation, file: Option<&FileName>, put: Option<&[u8]>) -> Option<Effect> {
    match (operation, file, put) {
        (Operation::Put, Some(file), Some(bytes)) => Some(Effect::Put(file.clone(), bytes.to_vec())),
        (Operation::Remove, Some(file), _) => Some(Effect::Remove(file.clone())),
        _ => None,
    }
}

impl Storage for SimulatedStorage {
    fn describe(&self) -> String {
        format!("the simulated store of seed {}", self.seed)
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        const PUT: Operation = Operation::Put;
        let (mut world, mut plan) = self.begin(PUT, Some(file), Some(bytes))?;
        let effect = Effect::Put(file.clone(), bytes.to_vec());
        if let Some(done) = self.go_wrong(&mut world, &mut plan, PUT, file, effect.clone()) {
            return done;
        }
        let temporary = world.start_writing();
        let mut world = self.let_others_in(world, PUT, Some(file))?;
        if !world.finish_writing(temporary) {
            return Err(self
                .error(StorageErrorKind::Io, PUT, Some(file))
                .because("its temporary file was swept away while it was written"));
        }
        world.apply(effect).map_err(|kind| self.error(kind, PUT, Some(file)))
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        const GET: Operation = Operation::Get;
        let (world, mut plan) = self.begin(GET, Some(file), None)?;
        if plan.fault.is_some() {
            return Err(self.failure(&mut plan, GET, Some(file)));
        }
        match world.files.get(file) {
            None => Err(self.error(StorageErrorKind::NotFound, GET, Some(file))),
            Some(bytes) if bytes.len() as u64 > limit_bytes => {
                Err(self.error(StorageErrorKind::TooLarge, GET, Some(file)))
            }
            Some(bytes) => Ok(bytes.clone()),
        }
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        const GET: Operation = Operation::Get;
        let (world, mut plan) = self.begin(GET, Some(file), None)?;
        if plan.fault.is_some() {
            // A part may have come already, and whatever came is worth nothing.
            let arrived = plan.random.below(buf.len() as u64 + 1) as usize;
            buf[..arrived].fill(plan.random.next() as u8);
            return Err(self.failure(&mut plan, GET, Some(file)));
        }
        let bytes =
            world.files.get(file).ok_or_else(|| self.error(StorageErrorKind::NotFound, GET, Some(file)))?;
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(buf.len())?))
            .ok_or_else(|| self.error(StorageErrorKind::UnexpectedEnd, GET, Some(file)))?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        const LIST: Operation = Operation::List;
        let (world, mut plan) = self.begin(LIST, None, None)?;
        if plan.fault.is_some() {
            return Err(self.failure(&mut plan, LIST, None));
        }
        let before = world.listing(kind);
        let world = self.let_others_in(world, LIST, None)?;
        Ok(world::between(&before, &world.listing(kind), &mut plan.random))
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        const REMOVE: Operation = Operation::Remove;
        let (mut world, mut plan) = self.begin(REMOVE, Some(file), None)?;
        let effect = Effect::Remove(file.clone());
        if let Some(done) = self.go_wrong(&mut world, &mut plan, REMOVE, file, effect.clone()) {
            return done;
        }
        world.apply(effect).map_err(|kind| self.error(kind, REMOVE, Some(file)))
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        const SWEEP: Operation = Operation::Sweep;
        let (mut world, mut plan) = self.begin(SWEEP, None, None)?;
        if plan.fault.is_some() {
            return Err(self.failure(&mut plan, SWEEP, None));
        }
        Ok(world.sweep(older_than))
    }
}

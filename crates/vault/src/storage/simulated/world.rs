//! What a simulated store holds, and what is under way to it. It knows what may happen, and not when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Cut, Logged};
use crate::storage::{FileKind, FileName, Listed, StorageErrorKind, memory::put_onto, random::Random};

/// A change of the store.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Put(FileName, Vec<u8>),
    Remove(FileName),
}

/// A file that is not whole yet, or never will be.
#[derive(Debug, Clone)]
struct Temporary {
    id: u64,
    since: Duration,
}

#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) files: BTreeMap<FileName, Vec<u8>>,
    pub(super) log: Vec<Logged>,
    pub(super) now: Duration,
    temporary: Vec<Temporary>,
    temporary_made: u64,
    /// Removed, and back again if the power fails before their directory is synced.
    unsynced: BTreeMap<FileName, Vec<u8>>,
    /// Requests that arrive with the operation of the number.
    under_way: Vec<(u64, Effect)>,
    operations: u64,
    operations_by_client: Vec<u64>,
    crashed: BTreeSet<u32>,
}

impl World {
    pub(super) fn new_client(&mut self) -> u32 {
        self.operations_by_client.push(0);
        self.operations_by_client.len() as u32 - 1
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn operations_of(&self, client: u32) -> u64 {
        self.operations_by_client[client as usize]
    }

    pub(super) fn has_crashed(&self, client: u32) -> bool {
        self.crashed.contains(&client)
    }

    /// Gives an operation its number, and lets arrive what is due by then.
    pub(super) fn next_operation(&mut self, client: u32) -> u64 {
        self.operations += 1;
        self.operations_by_client[client as usize] += 1;
        self.now += Duration::from_millis(1);
        let (due, rest) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(due, _)| *due <= self.operations);
        self.under_way = rest;
        let due: Vec<(u64, Effect)> = due;
        for (_, effect) in due {
            // Nobody waits for its answer any more.
            let _ = self.apply(effect);
        }
        self.operations
    }

    pub(super) fn send(&mut self, due: u64, effect: Effect) {
        self.under_way.push((due, effect));
    }

    pub(super) fn apply(&mut self, effect: Effect) -> Result<(), StorageErrorKind> {
        match effect {
            Effect::Put(file, bytes) => {
                if let Some(there) = self.files.get(&file) {
                    return put_onto(&file, there, &bytes);
                }
                // The sync of the directory makes the removals in it durable as well.
                self.unsynced.retain(|removed, _| directory(removed) != directory(&file));
                self.files.insert(file, bytes);
            }
            Effect::Remove(file) => {
                let removed = self.files.remove(&file);
                if matches!(file.kind, FileKind::Pack | FileKind::Lock | FileKind::Extra) {
                    self.unsynced.extend(removed.map(|bytes| (file, bytes)));
                }
            }
        }
        Ok(())
    }

    /// Leaves a part of a put under a temporary name.
    pub(super) fn tear(&mut self, effect: &Effect) {
        if matches!(effect, Effect::Put(..)) {
            self.start_writing();
        }
    }

    /// Leaves a part of a put under its own name.
    pub(super) fn tear_visibly(&mut self, effect: Effect, random: &mut Random) {
        if let Effect::Put(file, mut bytes) = effect {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
            self.files.entry(file).or_insert(bytes);
        }
    }

    pub(super) fn start_writing(&mut self) -> u64 {
        self.temporary_made += 1;
        self.temporary.push(Temporary { id: self.temporary_made, since: self.now });
        self.temporary_made
    }

    /// False if somebody swept it away.
    pub(super) fn finish_writing(&mut self, id: u64) -> bool {
        let before = self.temporary.len();
        self.temporary.retain(|temporary| temporary.id != id);
        self.temporary.len() < before
    }

    pub(super) fn sweep(&mut self, older_than: Duration) -> u64 {
        let (before, now) = (self.temporary.len(), self.now);
        self.temporary.retain(|temporary| now - temporary.since < older_than);
        (before - self.temporary.len()) as u64
    }

    pub(super) fn crash(&mut self, client: u32, cut: Cut, effect: Option<Effect>) {
        self.crashed.insert(client);
        match (cut, effect) {
            (Cut::Torn, Some(effect)) => self.tear(&effect),
            // Its answer is of no interest to the dead.
            (Cut::Done, Some(effect)) => self.apply(effect).unwrap_or(()),
            _ => {}
        }
    }

    pub(super) fn fail_power(&mut self, random: &mut Random) {
        self.under_way.clear();
        self.temporary.retain(|_| random.chance(500));
        for (file, bytes) in std::mem::take(&mut self.unsynced) {
            if random.chance(500) {
                self.files.entry(file).or_insert(bytes);
            }
        }
    }

    pub(super) fn listing(&self, kind: FileKind) -> BTreeMap<String, u64> {
        let found = self.files.iter().filter(|(file, _)| file.kind == kind);
        found.map(|(file, bytes)| (file.name.clone(), bytes.len() as u64)).collect()
    }
}

fn directory(file: &FileName) -> (FileKind, &str) {
    (file.kind, if file.kind == FileKind::Pack { file.name.get(..2).unwrap_or_default() } else { "" })
}

/// A listing that began at one state and ended at another: what is in both it shows, of the rest by chance.
pub(super) fn between(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    random: &mut Random,
) -> Vec<Listed> {
    let mut all = before.clone();
    all.extend(after.iter().map(|(name, size)| (name.clone(), *size)));
    all.into_iter()
        .filter(|(name, _)| before.contains_key(name) == after.contains_key(name) || random.chance(500))
        .map(|(name, size)| Listed { name, size })
        .collect()
}

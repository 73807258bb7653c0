//! A small cache that stays small: two generations, the older of which is forgotten at once.
//!
//! Rejected: strict least-recently-used order, which needs a list through the map for a gain that readers of disks,
//! who mostly go forward, do not see.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug)]
pub(crate) struct Cache<T> {
    generations: Mutex<Generations<T>>,
    /// Of one generation.
    entries_max: usize,
}

#[derive(Debug)]
struct Generations<T> {
    young: HashMap<u64, Arc<T>>,
    old: HashMap<u64, Arc<T>>,
}

impl<T> Cache<T> {
    /// Keeps at least half as many as `budget_bytes` holds, and never more.
    pub(crate) fn new(budget_bytes: usize, entry_bytes: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { generations: generations.into(), entries_max: (budget_bytes / entry_bytes.max(1) / 2).max(1) }
    }

    pub(crate) fn get(&self, key: u64) -> Option<Arc<T>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = generations.young.get(&key) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.remove(&key)?;
        self.put(&mut generations, key, Arc::clone(&found));
        Some(found)
    }

    pub(crate) fn insert(&self, key: u64, value: Arc<T>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&mut generations, key, value);
    }

    fn put(&self, generations: &mut Generations<T>, key: u64, value: Arc<T>) {
        if generations.young.len() >= self.entries_max {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let cache = Cache::new(100, 10);
        for key in 0..1000 {
            cache.insert(key, Arc::new(key));
            assert_eq!(cache.get(0).as_deref(), Some(&0), "used all the time");
        }
        let kept = (0..1000).filter(|key| cache.get(*key).is_some()).count();
        assert!(kept <= 10, "{kept}");
    }
}

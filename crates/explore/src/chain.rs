//! Chains of clusters, as FAT and exFAT have them: each cluster's entry in a table names the next.
//!
//! Places on the way are remembered at intervals, so that reading on, or anywhere in a large file, does not begin at the
//! front each time. A chain that is longer than the volume has clusters goes round.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Result,
    kept::{Kept, kept},
};

/// Chains that are remembered; each with at most a quarter of a million places.
const KEPT: usize = 16;
const INTERVAL: u64 = 1024;

pub(crate) struct Chains {
    kept: Kept<u32, Arc<Mutex<Steps>>>,
}

#[derive(Debug)]
struct Steps {
    /// Every so many clusters, from the first on.
    places: Vec<u32>,
    /// Where the last walk came to.
    last: (u64, u32),
}

/// Clusters that lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterRun {
    pub(crate) cluster: u32,
    pub(crate) clusters: u64,
}

impl Chains {
    pub(crate) fn new() -> Self {
        Self { kept: kept(KEPT) }
    }

    /// The run that begins at number `index` of the chain from `first` on, and is looked at for `wanted` clusters; None when
    /// the chain has ended before. `next` tells what follows a cluster. The caller bounds `index` and `wanted`.
    pub(crate) fn run(
        &self,
        first: u32,
        index: u64,
        wanted: u64,
        next: impl Fn(u32) -> Result<Option<u32>>,
    ) -> Result<Option<ClusterRun>> {
        let steps = self.kept.get(&first).unwrap_or_else(|| {
            let steps = Arc::new(Mutex::new(Steps { places: vec![first], last: (0, first) }));
            self.kept.insert(first, Arc::clone(&steps));
            steps
        });
        let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cluster) = steps.walk(index, &next)? else { return Ok(None) };
        let (mut last, mut clusters) = (cluster, 1);
        while clusters < wanted {
            match next(last)? {
                Some(following) if following == last.wrapping_add(1) => {
                    (last, clusters) = (following, clusters + 1);
                }
                _ => break,
            }
        }
        steps.last = (index + clusters - 1, last);
        Ok(Some(ClusterRun { cluster, clusters }))
    }
}

impl Steps {
    fn walk(&mut self, index: u64, next: &impl Fn(u32) -> Result<Option<u32>>) -> Result<Option<u32>> {
        let nearest = (index / INTERVAL).min(self.places.len() as u64 - 1);
        let mut at = (nearest * INTERVAL, self.places[nearest as usize]);
        if (at.0..=index).contains(&self.last.0) {
            at = self.last;
        }
        while at.0 < index {
            let Some(following) = next(at.1)? else { return Ok(None) };
            at = (at.0 + 1, following);
            if at.0 == self.places.len() as u64 * INTERVAL {
                self.places.push(following);
            }
        }
        Ok(Some(at.1))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn any_place_is_found_and_the_way_is_remembered() {
        let chains = Chains::new();
        let asked = Cell::new(0);
        // 5, 6, 7, 20, 21, 22, ... 9999, and no more.
        let next = |cluster: u32| {
            asked.set(asked.get() + 1);
            Ok(match cluster {
                7 => Some(20),
                9999 => None,
                other => Some(other + 1),
            })
        };
        let run = |index, wanted| chains.run(5, index, wanted, next).expect("readable");
        assert_eq!(run(0, 100), Some(ClusterRun { cluster: 5, clusters: 3 }));
        assert_eq!(run(3, 2), Some(ClusterRun { cluster: 20, clusters: 2 }));
        assert_eq!(run(9982, 9), Some(ClusterRun { cluster: 9999, clusters: 1 }));
        assert_eq!(run(9983, 1), None);
        asked.set(0);
        assert_eq!(run(5000, 1), Some(ClusterRun { cluster: 5017, clusters: 1 }));
        assert_eq!(run(5001, 1), Some(ClusterRun { cluster: 5018, clusters: 1 }));
        assert!(asked.get() < 1024, "{} steps", asked.get());
    }
}

//! Caches of so many entries.
//!
//! With a fixed number of shards: left to itself, the cache asks how many processors there are, for which the standard library opens
//! files of the kernel, and that is the end of a process that may open none (`worker/confine.rs`).

use std::hash::Hash;

use quick_cache::{
    DefaultHashBuilder, Options, OptionsBuilder, UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

const SHARDS: usize = 4;

pub(crate) type Kept<K, V> = Cache<K, V>;

pub(crate) fn kept<K: Eq + Hash, V: Clone>(entries: usize) -> Kept<K, V> {
    Cache::with_options(
        options(entries),
        UnitWeighter,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

fn options(entries: usize) -> Options {
    let mut options = OptionsBuilder::new();
    options.shards(SHARDS).estimated_items_capacity(entries).weight_capacity(entries as u64);
    options.build().expect("both capacities are set")
}

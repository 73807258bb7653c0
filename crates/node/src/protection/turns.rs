//! A machine is in one backup at a time: whoever comes second waits for the first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use nestling_model::VmId;
use tokio::sync::OwnedMutexGuard;

use crate::locked::lock;

/// Held while a machine is backed up.
pub type Turn = OwnedMutexGuard<()>;

#[derive(Default)]
pub struct Turns(Mutex<HashMap<VmId, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for a machine, in the order of those who ask.
    pub async fn take(&self, vm: VmId) -> Turn {
        self.of(vm).lock_owned().await
    }

    fn of(&self, vm: VmId) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = lock(&self.0);
        all.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = all.get(&vm).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        all.insert(vm, Arc::downgrade(&turn));
        turn
    }
}

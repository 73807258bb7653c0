//! What happens on this host, told to whoever listens and to the log.

use std::sync::{Mutex, PoisonError};

use nestling_model::{Event, EventKind};
use tokio::sync::broadcast;

use crate::clock::now_ms;

/// A reader that is further behind than this loses the oldest: it must never hold up what happens.
const KEPT: usize = 256;

pub struct Events {
    sender: broadcast::Sender<Event>,
    last: Mutex<u64>,
}

impl Events {
    pub fn new() -> Self {
        Self { sender: broadcast::channel(KEPT).0, last: Mutex::new(0) }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    pub fn tell(&self, kind: EventKind, object: impl Into<String>, message: impl Into<String>) {
        let (object, message) = (object.into(), message.into());
        match kind {
            EventKind::VmFailed | EventKind::BackupFailed | EventKind::Warning => {
                tracing::warn!(object, "{message}");
            }
            _ => tracing::info!(object, "{message}"),
        }
        // Held while sending, so that numbers arrive in their order.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        // An error means that nobody listens.
        let _ = self.sender.send(Event { sequence: *last, at_ms: now_ms(), kind, object, message });
    }
}

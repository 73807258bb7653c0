//! What cuts across all storages, each in a wrapper of its own that is itself a [`Storage`](super::Storage), so that
//! callers choose what they need and no storage has a case for it. A wrapper must keep the promises of what it wraps.

mod append_only;
mod counting;
mod retrying;
mod throttled;

pub use append_only::AppendOnly;
pub use counting::{Counting, Counts};
pub use retrying::{RetryPolicy, Retrying};
pub use throttled::{Limits, Throttle, Throttled};

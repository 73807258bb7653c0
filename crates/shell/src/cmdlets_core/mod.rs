//! The cmdlets of the language itself: they work on any objects and need no context.

use crate::frame::{Cmdlet, Context};

/// All of them.
pub(crate) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    Vec::new()
}

//! Names for the moments between the steps of what takes several.
//!
//! A test ends the process at one of them, opens the home anew and looks at what is left.

use std::sync::Arc;

/// Called at each step, when a test gave one.
pub type StepHook = Arc<dyn Fn(&'static str) + Send + Sync>;

#[derive(Clone, Default)]
pub struct Steps(pub Option<StepHook>);

impl Steps {
    pub fn reached(&self, step: &'static str) {
        if let Some(hook) = &self.0 {
            hook(step);
        }
    }
}

//! A shell that prints into memory, for this crate's tests.

use crate::format::{Answer, Output};
use crate::frame::{Context, Registry};
use crate::{Engine, Outcome};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Printed {
    data: String,
    talk: String,
}

struct Memory(Arc<Mutex<Printed>>, Option<Answer>);

impl Output for Memory {
    fn data(&mut self, text: &str) {
        self.0.lock().unwrap().data.push_str(text);
    }
    fn talk(&mut self, text: &str) {
        self.0.lock().unwrap().talk.push_str(text);
    }
    fn width(&self) -> usize {
        120
    }
    fn confirm(&mut self, question: &str) -> Option<Answer> {
        self.talk(&format!("{question}\n"));
        self.1
    }
}

/// An output that nobody reads.
pub fn memory() -> Box<dyn Output> {
    Box::new(Memory(Arc::default(), None))
}

pub struct Ran {
    pub data: String,
    pub talk: String,
    pub outcome: Outcome,
}

pub fn run(script: &str) -> Ran {
    run_in(Arc::new(Registry::with_core()), (), script, None)
}

pub fn run_in<C: Context>(
    registry: Arc<Registry<C>>,
    context: C,
    script: &str,
    answer: Option<Answer>,
) -> Ran {
    let printed = Arc::new(Mutex::new(Printed::default()));
    let mut engine = Engine::new(registry, context, Box::new(Memory(Arc::clone(&printed), answer)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let outcome = runtime.block_on(engine.run(script, None));
    let printed = std::mem::take(&mut *printed.lock().unwrap());
    Ran { data: printed.data, talk: printed.talk, outcome }
}

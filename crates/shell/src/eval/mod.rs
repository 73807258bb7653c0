//! The engine: runs parsed scripts with cmdlets against a context.
//!
//! A stage of a pipeline runs to its end before the next begins; statements print as they end. Whoever drops the
//! future of [`Engine::run`] cancels the script: loops yield, nothing runs on in the background, and the next
//! run starts clean.

mod command;
mod compare;
mod expression;
mod operators;
mod pattern;
mod statement;
mod template;

pub(crate) use compare::{compare_values, equal};
pub(crate) use operators::apply_binary;
pub use pattern::Wildcard;
pub(crate) use template::formatted as format_value;

use crate::format::{Console, Output};
use crate::frame::{Context, ErrorRecord, Flow, Registry};
use crate::lang::{Source, parse};
use crate::value::{ScriptBlock, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Nested expressions and statements while running, and blocks that run within one another. A block that calls
/// itself ends here, not at the end of the stack.
const RUN_DEPTH_MAX: usize = 200;
const CALL_DEPTH_MAX: usize = 24;
/// Items of one array and bytes of one string.
pub(crate) const ITEMS_MAX: usize = 4 << 20;
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 20;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub had_errors: bool,
    /// The script said `exit`, with this status.
    pub exit: Option<i32>,
}

impl Outcome {
    /// The exit status of a process that ran only this.
    pub fn status(self) -> i32 {
        self.exit.unwrap_or(i32::from(self.had_errors))
    }
}

/// Variables of one block.
#[derive(Default)]
struct Scope {
    variables: HashMap<String, Value>,
    /// A block run elsewhere does not see the variables around it.
    is_remote: bool,
}

pub struct Engine<C: Context> {
    registry: Arc<Registry<C>>,
    /// The innermost context is the one in force.
    contexts: Vec<C>,
    /// How many contexts stay between runs: the first, and those entered.
    contexts_kept: usize,
    scopes: Vec<Scope>,
    /// Where output goes: the innermost collection, or the console if there is none.
    captures: Vec<Vec<Value>>,
    console: Console,
    source: Arc<Source>,
    depth: usize,
    /// Blocks running within one another.
    calls: usize,
    /// Errors printed, and errors met at all.
    errors: usize,
    errors_met: usize,
    last_ok: bool,
    /// The user answered a question with Yes to All.
    pub(crate) confirmed_all: bool,
}

impl<C: Context> Engine<C> {
    pub fn new(registry: Arc<Registry<C>>, context: C, output: Box<dyn Output>) -> Self {
        let console = Console::new(output, registry.views());
        Self {
            registry,
            contexts: vec![context],
            contexts_kept: 1,
            scopes: vec![Scope::default()],
            captures: Vec::new(),
            console,
            source: Source::new("", None),
            depth: 0,
            errors: 0,
            errors_met: 0,
            calls: 0,
            last_ok: true,
            confirmed_all: false,
        }
    }

    /// Runs a script, printing to the output. Variables stay for the next run.
    pub async fn run(&mut self, text: &str, name: Option<&str>) -> Outcome {
        self.reset();
        let source = Source::new(text, name);
        let script = match parse(&source) {
            Ok(script) => script,
            Err(error) => {
                self.console.error(&error.to_string());
                self.last_ok = false;
                return Outcome { had_errors: true, exit: None };
            }
        };
        self.source = source;
        let result = self.statements(&script.body.statements).await;
        let exit = match result {
            Err(Flow::Exit(status)) => Some(status),
            Err(Flow::Error(error)) => {
                self.print_error(&error);
                None
            }
            _ => None,
        };
        self.console.close();
        Outcome { had_errors: self.errors > 0, exit }
    }

    /// Forgets what a run that was dropped half way left behind.
    fn reset(&mut self) {
        self.contexts.truncate(self.contexts_kept);
        self.scopes.truncate(1);
        self.captures.clear();
        self.depth = 0;
        self.calls = 0;
        self.errors = 0;
        self.confirmed_all = false;
        self.console.discard();
        self.set_variable("_", Value::Null);
    }

    pub fn registry(&self) -> &Arc<Registry<C>> {
        &self.registry
    }

    /// What commands act on now.
    pub fn context(&self) -> &C {
        // The first context is never removed, so the list is never empty.
        &self.contexts[self.contexts.len() - 1]
    }

    /// Makes all further commands act on another context, until [`leave`](Self::leave).
    pub fn enter(&mut self, context: C) {
        self.contexts.truncate(self.contexts_kept);
        self.contexts.push(context);
        self.contexts_kept += 1;
    }

    /// Back to the context before the last [`enter`](Self::enter); false if there was none.
    pub fn leave(&mut self) -> bool {
        let entered = self.contexts_kept > 1;
        if entered {
            self.contexts_kept -= 1;
            self.contexts.truncate(self.contexts_kept);
        }
        entered
    }

    pub(crate) fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    pub(crate) fn emit(&mut self, value: Value) {
        match self.captures.last_mut() {
            Some(capture) => capture.push(value),
            None => self.console.emit(value),
        }
    }

    /// The value of a variable; an unknown one is null.
    pub fn variable(&self, name: &str) -> Value {
        let key = name.to_lowercase();
        match key.as_str() {
            "true" => return Value::Bool(true),
            "false" => return Value::Bool(false),
            "null" => return Value::Null,
            "?" => return Value::Bool(self.last_ok),
            _ => {}
        }
        let key = if key == "psitem" { "_" } else { key.as_str() };
        self.find_variable(key, self.scopes.len()).cloned().unwrap_or_default()
    }

    /// The variable as seen from below scope `end`: outwards to the block that was last run elsewhere.
    fn find_variable(&self, key: &str, end: usize) -> Option<&Value> {
        let start = self.scopes[..end].iter().rposition(|scope| scope.is_remote).unwrap_or(0);
        self.scopes[start..end].iter().rev().find_map(|scope| scope.variables.get(key))
    }

    /// The value of a variable in a script, where `$using:x` is the `$x` of whoever ran this block elsewhere.
    fn read_variable(&self, name: &str) -> Result<Value, ErrorRecord> {
        let Some((_, local)) = name.split_once(':') else { return Ok(self.variable(name)) };
        let border = self.scopes.iter().rposition(|scope| scope.is_remote);
        let found = border.and_then(|border| self.find_variable(&local.to_lowercase(), border));
        found.cloned().ok_or_else(|| {
            let message = format!(
                "The value of the using variable '${name}' cannot be retrieved because it has not been set in the \
                 local session."
            );
            ErrorRecord::runtime("UsingVariableIsUndefined", message)
        })
    }

    /// Names of the variables there are, for completion.
    pub fn variable_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.scopes.iter().flat_map(|scope| scope.variables.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// Sets a variable of the innermost block.
    pub fn set_variable(&mut self, name: &str, value: Value) {
        let key = name.to_lowercase();
        let key = if key == "psitem" { "_".to_owned() } else { key };
        if let Some(scope) = self.scopes.last_mut() {
            scope.variables.insert(key, value);
        }
    }

    /// Reports an error as its action says: prints it, drops it, or makes it the end of the script.
    pub(crate) fn report(&mut self, mut record: ErrorRecord, action: Option<&str>) -> Result<(), Flow> {
        self.errors_met += 1;
        let preference = match action {
            Some(action) => action.to_owned(),
            None => self.variable("ErrorActionPreference").to_text(),
        };
        match preference.to_ascii_lowercase().as_str() {
            "stop" => {
                record.stops_script = true;
                return Err(record.into());
            }
            "silentlycontinue" | "ignore" => {}
            _ => self.print_error(&record),
        }
        Ok(())
    }

    fn print_error(&mut self, record: &ErrorRecord) {
        self.errors += 1;
        self.console.error(&record.to_string());
    }

    /// Runs a block in the current scope with `$_` set, as ForEach-Object does, and returns what it wrote.
    pub(crate) async fn invoke(&mut self, block: &ScriptBlock, item: Value) -> Result<Vec<Value>, Flow> {
        let before = self.variable("_");
        self.set_variable("_", item);
        let result = self.run_block(block).await;
        self.set_variable("_", before);
        result
    }

    /// Runs a block in a scope of its own with arguments, as `&` does.
    pub(crate) async fn call(
        &mut self,
        block: &ScriptBlock,
        arguments: Vec<Value>,
    ) -> Result<Vec<Value>, Flow> {
        self.call_scoped(block, arguments, false).await
    }

    pub(crate) async fn invoke_in(
        &mut self,
        context: C,
        block: &ScriptBlock,
        arguments: Vec<Value>,
    ) -> Result<Vec<Value>, Flow> {
        self.contexts.push(context);
        let result = self.call_scoped(block, arguments, true).await;
        self.contexts.pop();
        result
    }

    async fn call_scoped(
        &mut self,
        block: &ScriptBlock,
        arguments: Vec<Value>,
        is_remote: bool,
    ) -> Result<Vec<Value>, Flow> {
        self.scopes.push(Scope { variables: HashMap::new(), is_remote });
        let mut arguments = arguments.into_iter();
        let mut bound = Ok(());
        for parameter in &block.body.parameters {
            let value = match (arguments.next(), &parameter.default) {
                (Some(value), _) => value,
                (None, Some(default)) => match self.expression(default).await {
                    Ok(value) => value,
                    Err(flow) => {
                        bound = Err(flow);
                        break;
                    }
                },
                (None, None) => Value::Null,
            };
            self.set_variable(&parameter.name, value);
        }
        self.set_variable("args", Value::Array(arguments.collect()));
        let result = match bound {
            Ok(()) => self.run_block(block).await,
            Err(flow) => Err(flow),
        };
        self.scopes.pop();
        result
    }

    /// Runs a block's statements and returns what they wrote.
    async fn run_block(&mut self, block: &ScriptBlock) -> Result<Vec<Value>, Flow> {
        if self.calls >= CALL_DEPTH_MAX {
            return Err(too_deep());
        }
        let outer = std::mem::replace(&mut self.source, Arc::clone(&block.source));
        let body = Arc::clone(&block.body);
        self.calls += 1;
        self.captures.push(Vec::new());
        let result = self.statements(&body.statements).await;
        let written = self.captures.pop().unwrap_or_default();
        self.calls -= 1;
        self.source = outer;
        match result {
            Ok(()) | Err(Flow::Return) => Ok(written),
            Err(flow) => Err(flow),
        }
    }

    /// Counts one level of nesting, refusing too many. Every success is paired with a decrement by the caller.
    fn deeper(&mut self) -> Result<(), Flow> {
        if self.depth >= RUN_DEPTH_MAX {
            return Err(too_deep());
        }
        self.depth += 1;
        Ok(())
    }
}

fn too_deep() -> Flow {
    ErrorRecord::runtime("CallDepthOverflow", "The script failed due to call depth overflow.").into()
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

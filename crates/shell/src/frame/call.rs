//! One run of a cmdlet: its bound parameters, its pipeline input and all it may do to the shell.

use super::bind::Bound;
use super::cmdlet::{Cmdlet, Context, Impact};
use super::error::{Category, ErrorRecord, Flow, Position};
use super::transform::invalid;
use crate::eval::Engine;
use crate::format::Answer;
use crate::value::{Object, ScriptBlock, Value};
use std::sync::Arc;

pub struct Call<'e, C: Context> {
    engine: &'e mut Engine<C>,
    cmdlet: Arc<Cmdlet<C>>,
    bound: Bound,
    position: Position,
    input: Vec<Value>,
}

impl<'e, C: Context> Call<'e, C> {
    pub(crate) fn new(
        engine: &'e mut Engine<C>,
        cmdlet: Arc<Cmdlet<C>>,
        bound: Bound,
        position: Position,
        input: Vec<Value>,
    ) -> Self {
        Self { engine, cmdlet, bound, position, input }
    }

    /// What the shell acts on: clone it before writing output.
    pub fn context(&self) -> &C {
        self.engine.context()
    }

    /// The shell itself, for cmdlets about the shell (help, sessions).
    pub fn engine(&mut self) -> &mut Engine<C> {
        self.engine
    }

    /// The objects from the pipeline, for cmdlets that take them all at once. Empties the list.
    pub fn take_input(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.input)
    }

    /// The parameter set that the arguments chose.
    pub fn parameter_set(&self) -> Option<&'static str> {
        self.bound.set()
    }

    /// A parameter's value, `None` if it was not given.
    pub fn value(&self, name: &str) -> Option<&Value> {
        debug_assert!(self.cmdlet.parameter(name).is_some(), "{} has no parameter {name}", self.cmdlet.name);
        self.bound.get(name)
    }

    /// Whether the cmdlet has such a parameter at all; asking for the value of one that it lacks is a mistake.
    pub fn accepts(&self, name: &str) -> bool {
        self.cmdlet.parameter(name).is_some()
    }

    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Text, or the name of an enumeration's member.
    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(Value::to_text)
    }

    /// The texts of a list; empty if it was not given.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).iter().map(Value::to_text).collect()
    }

    /// The items of a list; empty if it was not given.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.value(name) {
            Some(Value::Array(items)) => items,
            Some(single) => std::slice::from_ref(single),
            None => &[],
        }
    }

    /// The objects of a list; empty if it was not given.
    pub fn objects(&self, name: &str) -> Vec<&Object> {
        let items = self.list(name).iter();
        items.filter_map(|item| if let Value::Object(object) = item { Some(object) } else { None }).collect()
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            Value::Int(n) => Some(*n),
            Value::Enum(e) => Some(e.number),
            _ => None,
        }
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        self.value(name).map(Value::is_true)
    }

    /// Whether a switch is on.
    pub fn switch(&self, name: &str) -> bool {
        self.bool(name).unwrap_or(false)
    }

    pub fn block(&self, name: &str) -> Option<ScriptBlock> {
        match self.value(name)? {
            Value::ScriptBlock(block) => Some(block.clone()),
            _ => None,
        }
    }

    /// Writes an object to the pipeline.
    pub fn emit(&mut self, value: impl Into<Value>) {
        self.engine.emit(value.into());
    }

    /// Writes the items of an array, or the value.
    pub fn emit_items(&mut self, value: Value) {
        for item in value.into_items() {
            self.engine.emit(item);
        }
    }

    /// Reports an error and goes on, unless `-ErrorAction Stop` makes it the end.
    pub fn write_error(&mut self, record: ErrorRecord) -> Result<(), Flow> {
        let record = self.complete(record);
        self.engine.report(record, self.bound.get("ErrorAction").map(Value::to_text).as_deref())
    }

    /// Names the cmdlet and its place in an error.
    pub(crate) fn complete(&self, record: ErrorRecord) -> ErrorRecord {
        let class = self.cmdlet.class;
        record.by(self.cmdlet.name, class).at(&self.position.source, self.position.span)
    }

    /// Text for the user, past the pipeline.
    pub fn write_host(&mut self, text: &str) {
        self.engine.console().host(text);
    }

    pub fn write_warning(&mut self, text: &str) {
        self.engine.console().talk(&format!("WARNING: {text}\n"));
    }

    /// How far something is that takes long.
    pub fn write_progress(&mut self, text: &str) {
        self.engine.console().talk(&format!("{text}\n"));
    }

    /// `Cannot validate argument on parameter 'X'. <why>`
    pub fn invalid_argument(&self, parameter: &str, why: &str) -> ErrorRecord {
        let message = format!("Cannot validate argument on parameter '{parameter}'. {why}");
        invalid("ParameterArgumentValidationError", message)
    }

    /// Whether to go ahead with a change: `-WhatIf` says no and tells, `-Confirm` and destroying cmdlets ask.
    /// `question` replaces the usual words.
    pub fn should_process(&mut self, target: &str, question: Option<&str>) -> Result<bool, ErrorRecord> {
        self.should(target, question, self.cmdlet.impact)
    }

    /// The same for a deed that destroys something though the cmdlet need not.
    pub fn should_destroy(&mut self, target: &str, question: &str) -> Result<bool, ErrorRecord> {
        self.should(target, Some(question), Impact::Destroys)
    }

    fn should(&mut self, target: &str, question: Option<&str>, impact: Impact) -> Result<bool, ErrorRecord> {
        let usual = format!("Performing the operation \"{}\" on target \"{target}\".", self.cmdlet.name);
        if self.switch("WhatIf") {
            self.engine.console().host(&format!("What if: {usual}\n"));
            return Ok(false);
        }
        let asks = self.bool("Confirm").unwrap_or(impact == Impact::Destroys);
        if !asks || self.engine.confirmed_all {
            return Ok(true);
        }
        let question = question.unwrap_or(&usual);
        match self
            .engine
            .console()
            .confirm(&format!("Are you sure you want to perform this action?\n{question}"))
        {
            Some(Answer::Yes) => Ok(true),
            Some(Answer::YesToAll) => {
                self.engine.confirmed_all = true;
                Ok(true)
            }
            Some(Answer::No) => Ok(false),
            None => Err(ErrorRecord::new(
                Category::InvalidOperation,
                "PSInvalidOperationException",
                "InvalidOperation",
                format!(
                    "{question} It must be confirmed, and there is no one to ask. Add -Confirm:$false to go ahead."
                ),
            )),
        }
    }

    /// Runs a block with `$_` set, and returns what it wrote.
    pub async fn invoke(&mut self, block: &ScriptBlock, item: Value) -> Result<Vec<Value>, Flow> {
        self.engine.invoke(block, item).await
    }

    /// Runs a block against another context, with its own variables; `$using:` reaches those out here.
    pub async fn invoke_in(
        &mut self,
        context: C,
        block: &ScriptBlock,
        arguments: Vec<Value>,
    ) -> Result<Vec<Value>, Flow> {
        self.engine.invoke_in(context, block, arguments).await
    }
}

//! Runs statements. An error ends its own statement; the next one runs, as in PowerShell.

use super::Engine;
use crate::frame::{Context, ErrorRecord, Flow};
use crate::lang::Span;
use crate::lang::ast::{BinaryOp, Element, ForLoop, Statement};
use crate::value::{MAX_DEPTH, Value};
use futures_util::future::BoxFuture;

type Done<'a> = BoxFuture<'a, Result<(), Flow>>;

impl<C: Context> Engine<C> {
    pub(super) fn statements<'a>(&'a mut self, statements: &'a [Statement]) -> Done<'a> {
        Box::pin(async move {
            for statement in statements {
                let errors = self.errors_met;
                self.deeper()?;
                let depth = self.depth;
                let result = self.statement(statement).await;
                self.depth = depth - 1;
                let failed = result.is_err();
                match result {
                    Err(Flow::Error(error)) if !error.stops_script => self.report(error, None)?,
                    other => other?,
                }
                self.last_ok = !failed && self.errors_met == errors;
                if self.captures.is_empty() {
                    self.console.flush();
                }
                tokio::task::consume_budget().await;
            }
            Ok(())
        })
    }

    fn statement<'a>(&'a mut self, statement: &'a Statement) -> Done<'a> {
        Box::pin(async move {
            match statement {
                Statement::Pipeline(pipeline) => self.pipeline(pipeline).await,
                Statement::Assign { targets, op, value, span } => {
                    self.assign(targets, *op, value, *span).await
                }
                Statement::If { branches, otherwise } => {
                    for (condition, body) in branches {
                        if self.statement_value(condition).await?.is_true() {
                            return self.statements(body).await;
                        }
                    }
                    match otherwise {
                        Some(body) => self.statements(body).await,
                        None => Ok(()),
                    }
                }
                Statement::Foreach { variable, items, body } => {
                    for item in self.statement_items(items).await? {
                        self.set_variable(variable, item);
                        if self.loop_body(body).await? {
                            break;
                        }
                    }
                    Ok(())
                }
                Statement::While { condition, body } => {
                    while self.statement_value(condition).await?.is_true() {
                        if self.loop_body(body).await? {
                            break;
                        }
                    }
                    Ok(())
                }
                Statement::For(parts) => self.for_loop(parts).await,
                Statement::Break => Err(Flow::Break),
                Statement::Continue => Err(Flow::Continue),
                Statement::Return(value) => {
                    if let Some(value) = value {
                        self.statement(value).await?;
                    }
                    Err(Flow::Return)
                }
                Statement::Exit(status) => {
                    let status = match status {
                        Some(value) => self.statement_value(value).await?.to_int().unwrap_or(1),
                        None => 0,
                    };
                    Err(Flow::Exit(i32::try_from(status).unwrap_or(1)))
                }
            }
        })
    }

    /// One round of a loop: whether the loop ends.
    async fn loop_body(&mut self, body: &[Statement]) -> Result<bool, Flow> {
        // An empty body must give way too, or an endless loop could not be stopped.
        tokio::task::consume_budget().await;
        match self.statements(body).await {
            Ok(()) | Err(Flow::Continue) => Ok(false),
            Err(Flow::Break) => Ok(true),
            Err(flow) => Err(flow),
        }
    }

    async fn for_loop(&mut self, parts: &ForLoop) -> Result<(), Flow> {
        if let Some(init) = &parts.init {
            self.statement(init).await?;
        }
        loop {
            if let Some(condition) = &parts.condition
                && !self.statement_value(condition).await?.is_true()
            {
                return Ok(());
            }
            if self.loop_body(&parts.body).await? {
                return Ok(());
            }
            if let Some(step) = &parts.step {
                self.statement(step).await?;
            }
        }
    }

    async fn assign(
        &mut self,
        targets: &[String],
        op: Option<BinaryOp>,
        value: &Statement,
        span: Span,
    ) -> Result<(), Flow> {
        let mut new = self.statement_value(value).await?;
        for target in targets {
            if ["true", "false", "null", "?"].iter().any(|name| target.eq_ignore_ascii_case(name)) {
                // `$null = ...` is how scripts throw a result away.
                if target.eq_ignore_ascii_case("null") {
                    continue;
                }
                let message =
                    format!("Cannot overwrite variable {target} because it is read-only or constant.");
                return Err(ErrorRecord::runtime("VariableNotWritable", message)
                    .at(&self.source, span)
                    .into());
            }
        }
        let [single] = targets else {
            let mut items = new.into_items().into_iter();
            for (index, target) in targets.iter().enumerate() {
                let value = if index + 1 == targets.len() {
                    Value::from_results(items.by_ref().collect())
                } else {
                    items.next().unwrap_or_default()
                };
                self.set_variable(target, value);
            }
            return Ok(());
        };
        if let Some(op) = op {
            let old = self.variable(single);
            new = super::apply_binary(op, old, new).map_err(|error| error.at(&self.source, span))?;
        }
        if new.depth() > MAX_DEPTH {
            let message = format!("A value cannot be nested more than {MAX_DEPTH} levels deep.");
            return Err(ErrorRecord::runtime("ValueTooDeep", message).at(&self.source, span).into());
        }
        self.set_variable(single, new);
        Ok(())
    }

    /// The value that a statement stands for, as in an assignment or in parentheses.
    pub(super) fn statement_value<'a>(
        &'a mut self,
        statement: &'a Statement,
    ) -> BoxFuture<'a, Result<Value, Flow>> {
        Box::pin(async move {
            match statement {
                Statement::Pipeline(pipeline) => match pipeline.elements.as_slice() {
                    [Element::Expression(expression)] => self.expression(expression).await,
                    _ => Ok(Value::from_results(self.captured(statement).await?)),
                },
                Statement::Assign { targets, .. } => {
                    self.statement(statement).await?;
                    Ok(targets.first().map(|name| self.variable(name)).unwrap_or_default())
                }
                _ => Ok(Value::from_results(self.captured(statement).await?)),
            }
        })
    }

    /// The items that a loop goes over.
    async fn statement_items(&mut self, statement: &Statement) -> Result<Vec<Value>, Flow> {
        match self.statement_value(statement).await? {
            Value::Null => Ok(Vec::new()),
            value => Ok(value.into_items()),
        }
    }

    /// What a statement writes.
    async fn captured(&mut self, statement: &Statement) -> Result<Vec<Value>, Flow> {
        self.captures.push(Vec::new());
        let result = self.statement(statement).await;
        let written = self.captures.pop().unwrap_or_default();
        result.map(|()| written)
    }

    /// What several statements write.
    pub(super) async fn captured_all(&mut self, statements: &[Statement]) -> Result<Vec<Value>, Flow> {
        self.captures.push(Vec::new());
        let result = self.statements(statements).await;
        let written = self.captures.pop().unwrap_or_default();
        result.map(|()| written)
    }
}

//! Values of expressions.

use super::{Engine, ITEMS_MAX};
use crate::frame::{Category, Context, ErrorRecord, Flow};
use crate::lang::Span;
use crate::lang::ast::{BinaryOp, Expr, ExprKind, Statement, Step, StringPart, UnaryOp};
use crate::value::{Hashtable, MAX_DEPTH, Object, ScriptBlock, Value};
use futures_util::future::BoxFuture;
use std::sync::Arc;

impl<C: Context> Engine<C> {
    pub(super) fn expression<'a>(&'a mut self, expression: &'a Expr) -> BoxFuture<'a, Result<Value, Flow>> {
        Box::pin(async move {
            self.deeper().map_err(|flow| self.place(flow, expression.span))?;
            let depth = self.depth;
            let result = self.expression_kind(expression).await;
            self.depth = depth - 1;
            let value = result.map_err(|flow| self.place(flow, expression.span))?;
            if matches!(value, Value::Array(_) | Value::Hashtable(_)) && value.depth() > MAX_DEPTH {
                let message = format!("A value cannot be nested more than {MAX_DEPTH} levels deep.");
                return Err(self.place(ErrorRecord::runtime("ValueTooDeep", message).into(), expression.span));
            }
            Ok(value)
        })
    }

    fn place(&self, flow: Flow, span: Span) -> Flow {
        match flow {
            Flow::Error(error) => Flow::Error(error.at(&self.source, span)),
            flow => flow,
        }
    }

    async fn expression_kind(&mut self, expression: &Expr) -> Result<Value, Flow> {
        Ok(match &expression.kind {
            ExprKind::Int(n) => Value::Int(*n),
            ExprKind::Float(n) => Value::Float(*n),
            ExprKind::Text(text) => Value::String(text.clone()),
            ExprKind::Expandable(parts) => self.expand(parts).await?,
            ExprKind::Variable(name) => self.read_variable(name)?,
            ExprKind::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for item in items {
                    values.push(self.expression(item).await?);
                }
                Value::Array(values)
            }
            ExprKind::ArrayOf(statements) => Value::Array(self.captured_all(statements).await?),
            ExprKind::SubExpression(statements) => Value::from_results(self.captured_all(statements).await?),
            ExprKind::Paren(inner) => self.statement_value(inner).await?,
            ExprKind::Hashtable(entries) => self.hashtable(entries).await?,
            ExprKind::Block(body) => {
                Value::ScriptBlock(ScriptBlock { body: Arc::clone(body), source: Arc::clone(&self.source) })
            }
            ExprKind::Unary(op, operand) => {
                let operand = self.expression(operand).await?;
                self.unary(*op, operand)?
            }
            ExprKind::Binary(first, rest) => self.binary(first, rest).await?,
            ExprKind::Postfix(base, steps) => self.steps(base, steps).await?,
            ExprKind::Cast(cast, operand) => {
                let value = self.expression(operand).await?;
                value.cast(*cast).map_err(|error| {
                    ErrorRecord::new(
                        Category::InvalidArgument,
                        "RuntimeException",
                        "InvalidCastFromStringToInteger",
                        error.to_string(),
                    )
                })?
            }
        })
    }

    async fn expand(&mut self, parts: &[StringPart]) -> Result<Value, Flow> {
        let mut text = String::new();
        for part in parts {
            match part {
                StringPart::Text(part) => text.push_str(part),
                StringPart::Variable(name, _) => text.push_str(&self.read_variable(name)?.to_text()),
                StringPart::SubExpression(statements) => {
                    text.push_str(&Value::Array(self.captured_all(statements).await?).to_text());
                }
            }
            super::operators::check_text(text.len())?;
        }
        Ok(Value::String(text))
    }

    async fn hashtable(&mut self, entries: &[(Expr, Statement)]) -> Result<Value, Flow> {
        let mut table = Hashtable::default();
        for (key, value) in entries {
            let span = key.span;
            let key = self.expression(key).await?;
            if matches!(key, Value::Null | Value::Array(_) | Value::Hashtable(_) | Value::Object(_)) {
                let message = "A hash literal's key must be a string, a number or a boolean.";
                return Err(self.place(ErrorRecord::runtime("InvalidHashtableKey", message).into(), span));
            }
            let name = key.to_text();
            let value = self.statement_value(value).await?;
            if !table.insert(key, value) {
                let message = format!(
                    "Item has already been added. Key in dictionary: '{name}'  Key being added: '{name}'"
                );
                return Err(
                    self.place(ErrorRecord::runtime("DuplicateKeyInHashLiteral", message).into(), span)
                );
            }
        }
        Ok(Value::Hashtable(table))
    }

    fn unary(&self, op: UnaryOp, operand: Value) -> Result<Value, ErrorRecord> {
        match op {
            UnaryOp::Not => Ok(Value::Bool(!operand.is_true())),
            UnaryOp::Comma => Ok(Value::Array(vec![operand])),
            UnaryOp::Minus => super::apply_binary(BinaryOp::Subtract, Value::Int(0), operand),
            UnaryOp::Plus => super::apply_binary(BinaryOp::Add, Value::Int(0), operand),
            UnaryOp::Join => Ok(Value::String(operand.into_items().iter().map(Value::to_text).collect())),
            UnaryOp::Split => {
                let words = operand.into_items().iter().map(Value::to_text).collect::<Vec<_>>().join(" ");
                Ok(Value::Array(words.split_whitespace().map(Value::from).collect()))
            }
        }
    }

    async fn binary(&mut self, first: &Expr, rest: &[(BinaryOp, Span, Expr)]) -> Result<Value, Flow> {
        let mut left = self.expression(first).await?;
        for (op, _, operand) in rest {
            // The right side of these may not run at all.
            let decided = match op {
                BinaryOp::And => !left.is_true(),
                BinaryOp::Or => left.is_true(),
                _ => false,
            };
            if decided {
                left = Value::Bool(left.is_true());
                continue;
            }
            let right = self.expression(operand).await?;
            let subject = if let BinaryOp::Compare(..) = op { Some(left.clone()) } else { None };
            left = super::apply_binary(*op, left, right.clone())
                .map_err(|error| error.at(&self.source, first.span.to(operand.span)))?;
            if let Some(subject) = subject {
                self.remember_matches(*op, &subject, &right);
            }
        }
        Ok(left)
    }

    /// `$Matches` after a successful `-match` on a single value.
    fn remember_matches(&mut self, op: BinaryOp, subject: &Value, pattern: &Value) {
        if let Some(groups) = super::pattern::matches_of(op, subject, pattern) {
            self.set_variable("Matches", Value::Hashtable(groups));
        }
    }

    async fn steps(&mut self, base: &Expr, steps: &[(Step, Span)]) -> Result<Value, Flow> {
        let mut value = self.expression(base).await?;
        for (step, span) in steps {
            value = match step {
                Step::Member(name) => value.member_value(name),
                Step::Index(index) => {
                    let index = self.expression(index).await?;
                    indexed(&value, &index).map_err(|error| error.at(&self.source, base.span.to(*span)))?
                }
            };
        }
        Ok(value)
    }
}

/// `value[index]`
fn indexed(value: &Value, index: &Value) -> Result<Value, ErrorRecord> {
    if let (Value::Array(wanted), false) = (index, matches!(value, Value::Null)) {
        if wanted.len() > ITEMS_MAX {
            return Err(super::operators::too_many_items());
        }
        let found: Result<Vec<Value>, _> = wanted.iter().map(|index| indexed(value, index)).collect();
        return found.map(Value::Array);
    }
    let position = |length: usize| -> Result<Option<usize>, ErrorRecord> {
        let index =
            index.to_int().map_err(|error| ErrorRecord::runtime("InvalidIndex", error.to_string()))?;
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let at = if index < 0 { length + index } else { index };
        Ok(usize::try_from(at).ok().filter(|_| at < length))
    };
    match value {
        Value::Null => Err(ErrorRecord::runtime("NullArray", "Cannot index into a null array.")),
        Value::Array(items) => Ok(position(items.len())?.map(|at| items[at].clone()).unwrap_or_default()),
        Value::Hashtable(table) => Ok(table.get(index).cloned().unwrap_or_default()),
        Value::String(text) => {
            let at = position(text.chars().count())?;
            Ok(at
                .and_then(|at| text.chars().nth(at))
                .map(|c| Value::String(c.to_string()))
                .unwrap_or_default())
        }
        Value::Object(object) if matches!(index, Value::String(_)) => cannot_index(object),
        Value::Object(object) => match position(1)? {
            Some(_) => Ok(Value::Object(object.clone())),
            None => Ok(Value::Null),
        },
        other => Ok(position(1)?.map(|_| other.clone()).unwrap_or_default()),
    }
}

fn cannot_index(object: &Object) -> Result<Value, ErrorRecord> {
    let message = format!("Unable to index into an object of type {}.", object.type_name());
    Err(ErrorRecord::runtime("CannotIndex", message))
}

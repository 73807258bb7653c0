//! Pipelines and the calls of commands in them.

use super::Engine;
use crate::frame::bind::{Arg, bind_arguments, bind_record, check_mandatory};
use crate::frame::help::{Extent, help_text};
use crate::frame::{Call, Category, Cmdlet, Context, ErrorRecord, Flow, Input, Parameter, Position};
use crate::lang::Span;
use crate::lang::ast::{Argument, Command, Element, Expr, ExprKind, Pipeline};
use crate::value::Value;
use std::sync::Arc;

impl<C: Context> Engine<C> {
    pub(super) async fn pipeline(&mut self, pipeline: &Pipeline) -> Result<(), Flow> {
        let mut input: Option<Vec<Value>> = None;
        let last = pipeline.elements.len() - 1;
        for (index, element) in pipeline.elements.iter().enumerate() {
            if index < last {
                self.captures.push(Vec::new());
            }
            let result = match element {
                Element::Expression(expression) => self.emit_expression(expression).await,
                Element::Command(command) => self.command(command, input.take()).await,
            };
            if index < last {
                input = self.captures.pop();
            }
            result?;
        }
        Ok(())
    }

    async fn emit_expression(&mut self, expression: &Expr) -> Result<(), Flow> {
        match self.expression(expression).await? {
            // Nothing came of it, which is no object; the literal `$null` is one.
            Value::Null if !matches!(&expression.kind, ExprKind::Variable(name) if name.eq_ignore_ascii_case("null")) =>
                {}
            value => value.into_items().into_iter().for_each(|item| self.emit(item)),
        }
        Ok(())
    }

    async fn command(&mut self, command: &Command, input: Option<Vec<Value>>) -> Result<(), Flow> {
        let name = match self.expression(&command.name).await? {
            Value::ScriptBlock(block) => {
                let arguments = self.arguments(&command.arguments).await?;
                let mut values = Vec::new();
                for arg in arguments {
                    if let Some(name) = arg.name {
                        let message =
                            format!("A block takes its arguments by position; '-{name}' is a name.");
                        let error = ErrorRecord::runtime("NamedArgumentOfBlock", message);
                        return Err(error.at(&self.source, arg.span).into());
                    }
                    values.push(arg.value.unwrap_or_default());
                }
                for value in self.call(&block, values).await? {
                    self.emit(value);
                }
                return Ok(());
            }
            value => value.to_text(),
        };
        let Some(cmdlet) = self.registry.find(&name).cloned() else {
            return Err(self.not_found(&name, command.name.span).into());
        };
        let args = self.arguments(&command.arguments).await?;
        if args.iter().any(|arg| arg.name.as_deref() == Some("?")) {
            self.emit(Value::String(help_text(&cmdlet, Extent::Usual)));
            return Ok(());
        }
        self.run_cmdlet(cmdlet, args, input, command.span).await
    }

    fn not_found(&self, name: &str, span: Span) -> ErrorRecord {
        let message = format!(
            "The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. \
             Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
        );
        let mut error = ErrorRecord::new(
            Category::ObjectNotFound,
            "CommandNotFoundException",
            "CommandNotFoundException",
            message,
        )
        .with_target(name, "String")
        .at(&self.source, span);
        error.prefix = Some(name.to_owned());
        error
    }

    async fn arguments(&mut self, arguments: &[Argument]) -> Result<Vec<Arg>, Flow> {
        let mut args = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                Argument::Value(value) => args.push(self.argument(None, Some(value), value.span).await?),
                Argument::Parameter { name, value, span } => {
                    args.push(self.argument(Some(name.clone()), value.as_ref(), *span).await?);
                }
                Argument::Splat { name, span } => match self.variable(name) {
                    Value::Hashtable(table) => args.extend(table.iter().map(|(key, value)| Arg {
                        name: Some(key.to_text()),
                        value: Some(value.clone()),
                        text: None,
                        span: *span,
                    })),
                    Value::Null => {}
                    value => {
                        let items = value.into_items().into_iter();
                        args.extend(items.map(|item| Arg {
                            name: None,
                            value: Some(item),
                            text: None,
                            span: *span,
                        }));
                    }
                },
            }
        }
        Ok(args)
    }

    async fn argument(
        &mut self,
        name: Option<String>,
        value: Option<&Expr>,
        span: Span,
    ) -> Result<Arg, Flow> {
        let Some(expression) = value else { return Ok(Arg { name, value: None, text: None, span }) };
        let is_number = matches!(expression.kind, ExprKind::Int(_) | ExprKind::Float(_));
        let text = is_number.then(|| self.source.slice(expression.span).to_owned());
        let value = Some(self.expression(expression).await?);
        Ok(Arg { name, value, text, span })
    }

    async fn run_cmdlet(
        &mut self,
        cmdlet: Arc<Cmdlet<C>>,
        args: Vec<Arg>,
        input: Option<Vec<Value>>,
        span: Span,
    ) -> Result<(), Flow> {
        let position = Position { source: Arc::clone(&self.source), span };
        let parameters: Vec<&'static Parameter> = cmdlet.all_parameters().collect();
        let refused = |refusal: Box<(ErrorRecord, Option<Span>)>| {
            let (error, at) = *refusal;
            error.by(cmdlet.name, cmdlet.class).at(&position.source, at.unwrap_or(span))
        };
        let arguments = bind_arguments(&parameters, args).map_err(refused)?;
        let action = arguments.get("ErrorAction").map(Value::to_text);
        let each = cmdlet.input == Input::EachRecord;
        check_mandatory(&parameters, &arguments, each && input.is_some()).map_err(refused)?;
        let Some(records) = input else {
            return self.run_once(&cmdlet, arguments, &position, Vec::new()).await;
        };
        if !each {
            return self.run_once(&cmdlet, arguments, &position, records).await;
        }
        for record in records {
            tokio::task::consume_budget().await;
            let bound = bind_record(&parameters, &arguments, &record)
                .and_then(|bound| check_mandatory(&parameters, &bound, false).map(|()| bound));
            match bound {
                Ok(bound) => self.run_once(&cmdlet, bound, &position, Vec::new()).await?,
                Err(refusal) => self.report(refused(refusal), action.as_deref())?,
            }
        }
        Ok(())
    }

    async fn run_once(
        &mut self,
        cmdlet: &Arc<Cmdlet<C>>,
        bound: crate::frame::bind::Bound,
        position: &Position,
        input: Vec<Value>,
    ) -> Result<(), Flow> {
        let mut call = Call::new(self, Arc::clone(cmdlet), bound, position.clone(), input);
        match (cmdlet.run)(&mut call).await {
            Err(Flow::Error(error)) => Err(call.complete(error).into()),
            other => other,
        }
    }
}

//! Statements: keywords, assignments, pipelines.

use super::{Parser, Result};
use crate::lang::ast::{BinaryOp, Element, Expr, ExprKind, ForLoop, Pipeline, Statement};
use crate::lang::chars::{ends_word, is_dash, is_newline};
use crate::lang::source::Span;

/// Keywords of PowerShell that this shell does not know; taken for a command they would do something else.
const FOREIGN_KEYWORDS: &[&str] = &[
    "switch",
    "do",
    "until",
    "try",
    "catch",
    "finally",
    "throw",
    "trap",
    "function",
    "filter",
    "workflow",
    "class",
    "enum",
    "using",
    "param",
    "else",
    "elseif",
    "dynamicparam",
    "configuration",
];

impl Parser {
    /// Statements up to the closing bracket (left in place) or the end of the text.
    pub(super) fn statements(&mut self, close: Option<char>) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            self.skip_separators()?;
            match self.peek() {
                None => return Ok(statements),
                found if found == close => return Ok(statements),
                Some(_) => statements.push(self.statement()?),
            }
            self.skip_space()?;
            match self.peek() {
                // A block's closing brace ends its statement.
                Some(_) if statements.last().is_some_and(Statement::ends_with_brace) => {}
                None | Some(';') => {}
                Some(c) if is_newline(c) || Some(c) == close => {}
                Some(_) => return Err(self.unexpected()),
            }
        }
    }

    /// `{ statements }`
    pub(super) fn braces(&mut self, after: &str) -> Result<Vec<Statement>> {
        self.skip_lines()?;
        let open = Span::new(self.at, self.at + 1);
        if !self.eat('{') {
            return Err(
                self.missing("MissingStatementBlock", format!("Missing statement block after {after}."))
            );
        }
        self.nested(|parser| {
            let statements = parser.statements(Some('}'))?;
            parser.close('}', open)?;
            Ok(statements)
        })
    }

    pub(super) fn statement(&mut self) -> Result<Statement> {
        let start = self.at;
        let word: String = self.rest().chars().take_while(char::is_ascii_alphabetic).collect();
        let next = self.rest()[word.len()..].chars().next();
        if word.is_empty() || !next.is_none_or(ends_word) {
            return self.simple_statement();
        }
        let keyword = word.to_ascii_lowercase();
        let span = Span::new(start, start + word.len());
        if FOREIGN_KEYWORDS.contains(&keyword.as_str()) {
            return Err(self.not_supported(&format!("The '{word}' statement is"), span));
        }
        match keyword.as_str() {
            "if" | "while" | "for" | "foreach" | "break" | "continue" | "return" | "exit" => {
                self.at += word.len();
                self.nested(|parser| parser.keyword_statement(&keyword))
            }
            _ => self.simple_statement(),
        }
    }

    fn keyword_statement(&mut self, keyword: &str) -> Result<Statement> {
        match keyword {
            "if" => self.if_statement(),
            "while" => {
                let condition = Box::new(self.condition("while")?);
                Ok(Statement::While { condition, body: self.braces("'while ( ... )'")? })
            }
            "for" => self.for_statement(),
            "foreach" => self.foreach_statement(),
            "break" => Ok(Statement::Break),
            "continue" => Ok(Statement::Continue),
            "return" => Ok(Statement::Return(self.optional_value()?)),
            _ => Ok(Statement::Exit(self.optional_value()?)),
        }
    }

    fn optional_value(&mut self) -> Result<Option<Box<Statement>>> {
        self.skip_space()?;
        match self.peek() {
            None | Some(';' | '}' | ')') => Ok(None),
            Some(c) if is_newline(c) => Ok(None),
            Some(_) => Ok(Some(Box::new(self.simple_statement()?))),
        }
    }

    fn open_parenthesis(&mut self, keyword: &str) -> Result<Span> {
        self.skip_lines()?;
        let open = Span::new(self.at, self.at + 1);
        if self.eat('(') {
            self.skip_lines()?;
            return Ok(open);
        }
        let message = format!("Missing opening '(' after keyword '{keyword}'.");
        Err(self.missing("MissingOpenParenthesisAfterKeyword", message))
    }

    fn condition(&mut self, keyword: &str) -> Result<Statement> {
        let open = self.open_parenthesis(keyword)?;
        let condition = self.simple_statement()?;
        self.skip_lines()?;
        self.close(')', open)?;
        Ok(condition)
    }

    fn if_statement(&mut self) -> Result<Statement> {
        let condition = self.condition("if")?;
        let mut branches = vec![(condition, self.braces("'if ( ... )'")?)];
        loop {
            let before = self.at;
            self.skip_lines()?;
            let word: String = self.rest().chars().take_while(char::is_ascii_alphabetic).collect();
            if word.eq_ignore_ascii_case("elseif") {
                self.at += word.len();
                let condition = self.condition("elseif")?;
                branches.push((condition, self.braces("'elseif ( ... )'")?));
            } else if word.eq_ignore_ascii_case("else") {
                self.at += word.len();
                return Ok(Statement::If { branches, otherwise: Some(self.braces("'else'")?) });
            } else {
                self.at = before;
                return Ok(Statement::If { branches, otherwise: None });
            }
        }
    }

    fn foreach_statement(&mut self) -> Result<Statement> {
        let open = self.open_parenthesis("foreach")?;
        let start = self.at;
        let variable = self.primary()?;
        let ExprKind::Variable(variable) = variable.kind else {
            let span = self.span_from(start);
            return Err(self.error(
                "MissingVariableNameAfterForeach",
                "Missing variable name after foreach.",
                span,
            ));
        };
        self.skip_lines()?;
        let word: String = self.rest().chars().take_while(char::is_ascii_alphabetic).collect();
        if !word.eq_ignore_ascii_case("in") {
            return Err(self.missing("MissingInInForeach", "Missing 'in' after variable in foreach loop."));
        }
        self.at += word.len();
        self.skip_lines()?;
        let items = Box::new(self.simple_statement()?);
        self.skip_lines()?;
        self.close(')', open)?;
        Ok(Statement::Foreach { variable, items, body: self.braces("'foreach ( ... )'")? })
    }

    fn for_statement(&mut self) -> Result<Statement> {
        let open = self.open_parenthesis("for")?;
        let mut parts = [None, None, None];
        for (index, part) in parts.iter_mut().enumerate() {
            self.skip_lines()?;
            if !matches!(self.peek(), Some(';' | ')') | None) {
                *part = Some(self.simple_statement()?);
            }
            self.skip_lines()?;
            if index < 2 && !self.eat(';') {
                break;
            }
        }
        self.skip_lines()?;
        self.close(')', open)?;
        let body = self.braces("'for ( ... )'")?;
        let [init, condition, step] = parts;
        Ok(Statement::For(Box::new(ForLoop { init, condition, step, body })))
    }

    /// An assignment or a pipeline: what parentheses may hold too.
    pub(super) fn simple_statement(&mut self) -> Result<Statement> {
        self.nested(|parser| {
            let start = parser.at;
            if !parser.at_expression() {
                let command = Element::Command(parser.command()?);
                return parser.pipeline(command, start);
            }
            let expression = parser.expression()?;
            parser.skip_space()?;
            let operator = parser.at;
            if let Some(op) = parser.assignment_operator() {
                return parser.assignment(expression, op, Span::new(operator, parser.at));
            }
            parser.pipeline(Element::Expression(expression), start)
        })
    }

    /// `=`, `+=` and their like, `++`, `--`. The second is whether a value follows.
    fn assignment_operator(&mut self) -> Option<(Option<BinaryOp>, bool)> {
        let first = self.peek()?;
        let second = self.peek_second();
        let op = match first {
            '=' => None,
            '+' => Some(BinaryOp::Add),
            '*' => Some(BinaryOp::Multiply),
            '/' => Some(BinaryOp::Divide),
            '%' => Some(BinaryOp::Remainder),
            c if is_dash(c) => Some(BinaryOp::Subtract),
            _ => return None,
        };
        if op.is_none() {
            self.bump();
            return Some((None, true));
        }
        let twice = (first == '+' && second == Some('+')) || (is_dash(first) && second.is_some_and(is_dash));
        if second != Some('=') && !twice {
            return None;
        }
        self.bump();
        self.bump();
        Some((op, !twice))
    }

    fn assignment(
        &mut self,
        target: Expr,
        (op, has_value): (Option<BinaryOp>, bool),
        operator: Span,
    ) -> Result<Statement> {
        let span = target.span;
        let targets = match target.kind {
            ExprKind::Variable(name) => vec![name],
            ExprKind::List(items) if op.is_none() => {
                items.into_iter().map(|item| self.variable_target(item)).collect::<Result<_>>()?
            }
            kind => vec![self.variable_target(Expr { kind, span })?],
        };
        if !has_value {
            let one = Element::Expression(Expr { kind: ExprKind::Int(1), span: operator });
            let value = Box::new(Statement::Pipeline(Pipeline { elements: vec![one], span: operator }));
            return Ok(Statement::Assign { targets, op, value, span });
        }
        self.skip_lines()?;
        if matches!(self.peek(), None | Some(';' | ')' | '}')) {
            let text = self.source.slice(operator).to_owned();
            let message = format!("You must provide a value expression following the '{text}' operator.");
            return Err(self.missing("ExpectedValueExpression", message));
        }
        let value = Box::new(self.statement()?);
        Ok(Statement::Assign { targets, op, value, span })
    }

    fn variable_target(&self, target: Expr) -> Result<String> {
        match target.kind {
            ExprKind::Variable(name) => Ok(name),
            ExprKind::Postfix(..) => {
                Err(self.not_supported("Assigning to a property or an element is", target.span))
            }
            ExprKind::Cast(..) => Err(self.not_supported("A type before an assigned variable is", target.span)),
            _ => Err(self.error(
                "InvalidLeftHandSide",
                "The assignment expression is not valid. The input to an assignment operator must be an object \
                 that is able to accept assignments, such as a variable or a property.",
                target.span,
            )),
        }
    }

    fn pipeline(&mut self, first: Element, start: usize) -> Result<Statement> {
        let mut elements = vec![first];
        let mut end = self.at;
        loop {
            self.skip_space()?;
            if self.peek() != Some('|') || self.peek_second() == Some('|') {
                return Ok(Statement::Pipeline(Pipeline { elements, span: Span::new(start, end) }));
            }
            let pipe = Span::new(self.at, self.at + 1);
            self.bump();
            self.skip_lines()?;
            match self.peek() {
                None => {
                    return Err(self.incomplete(
                        "EmptyPipeElement",
                        "An empty pipe element is not allowed.",
                        pipe,
                    ));
                }
                Some('|' | ';' | ')' | '}') => {
                    return Err(self.error(
                        "EmptyPipeElement",
                        "An empty pipe element is not allowed.",
                        pipe,
                    ));
                }
                Some(_) if self.at_expression() => {
                    let message = "Expressions are only allowed as the first element of a pipeline.";
                    return Err(self.missing("ExpressionsMustBeFirstInPipeline", message));
                }
                Some(_) => elements.push(Element::Command(self.command()?)),
            }
            end = self.at;
        }
    }
}

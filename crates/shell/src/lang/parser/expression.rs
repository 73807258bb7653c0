//! Expressions: operators by precedence, then values with their members and indexes.

use super::{Parser, Result};
use crate::lang::ast::{BinaryOp, Block, BlockParameter, CastType, Expr, ExprKind, Statement, Step, UnaryOp};
use crate::lang::chars::{is_dash, is_double_quote, is_name, is_newline, is_single_quote};
use crate::lang::source::Span;
use std::sync::Arc;

/// The level below which only lists and single values stand.
const TIGHTEST: u8 = 6;

impl Parser {
    /// Whether an expression, not a command, starts here.
    pub(super) fn at_expression(&self) -> bool {
        let Some(first) = self.peek() else { return false };
        match first {
            '$' | '(' | '{' | '[' | '!' | ',' | '@' => true,
            c if is_single_quote(c) || is_double_quote(c) => true,
            '+' => true,
            c if is_dash(c) => true,
            '.' => self.peek_second().is_some_and(|c| c.is_ascii_digit()),
            c if c.is_ascii_digit() => {
                let mut probe = Parser { source: Arc::clone(&self.source), at: self.at, depth: self.depth };
                probe.number().is_some()
            }
            _ => false,
        }
    }

    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.binary(1)
    }

    fn binary(&mut self, level: u8) -> Result<Expr> {
        if level > TIGHTEST {
            return self.list();
        }
        let first = self.binary(level + 1)?;
        let mut rest = Vec::new();
        while let Some((op, span)) = self.operator(level)? {
            self.skip_lines()?;
            if matches!(self.peek(), None | Some(')' | '}' | ']' | ';' | '|')) {
                let text = self.source.slice(span).to_owned();
                let message = format!("You must provide a value expression following the '{text}' operator.");
                return Err(self.missing("ExpectedValueExpression", message));
            }
            rest.push((op, span, self.binary(level + 1)?));
        }
        let Some((_, _, last)) = rest.last() else { return Ok(first) };
        let span = first.span.to(last.span);
        Ok(Expr { kind: ExprKind::Binary(Box::new(first), rest), span })
    }

    /// The operator of this level that stands here, consumed.
    fn operator(&mut self, level: u8) -> Result<Option<(BinaryOp, Span)>> {
        let before = self.at;
        self.skip_space()?;
        let start = self.at;
        let second = self.peek_second();
        let op = match self.peek() {
            Some('.') if second == Some('.') => {
                self.at += 2;
                Some(BinaryOp::Range)
            }
            Some(sign @ ('+' | '*' | '/' | '%'))
                if second != Some('=') && !(sign == '+' && second == Some('+')) =>
            {
                self.at += 1;
                Some(match sign {
                    '+' => BinaryOp::Add,
                    '*' => BinaryOp::Multiply,
                    '/' => BinaryOp::Divide,
                    _ => BinaryOp::Remainder,
                })
            }
            Some(c) if is_dash(c) => {
                self.bump();
                match second {
                    Some(c) if c.is_alphabetic() => BinaryOp::from_word(&self.take_while(is_name)),
                    Some(c) if c == '=' || is_dash(c) => None,
                    _ => Some(BinaryOp::Subtract),
                }
            }
            _ => None,
        };
        match op {
            Some(op) if op.precedence() == level => Ok(Some((op, self.span_from(start)))),
            _ => {
                self.at = before;
                Ok(None)
            }
        }
    }

    fn list(&mut self) -> Result<Expr> {
        let first = self.unary()?;
        self.list_after(first, Self::unary)
    }

    /// The rest of a list whose items `item` reads, or the first alone.
    pub(super) fn list_after(&mut self, first: Expr, item: fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let mut items = vec![first];
        loop {
            let before = self.at;
            self.skip_space()?;
            if !self.eat(',') {
                self.at = before;
                break;
            }
            let comma = Span::new(self.at - 1, self.at);
            self.skip_lines()?;
            if matches!(self.peek(), None | Some(')' | '}' | ']' | ';' | '|')) {
                let message = "Missing argument in parameter list.";
                return Err(match self.peek() {
                    None => self.incomplete("MissingArgument", message, comma),
                    Some(_) => self.error("MissingArgument", message, comma),
                });
            }
            items.push(item(self)?);
        }
        let span = items[0].span.to(items[items.len() - 1].span);
        Ok(if items.len() == 1 { items.swap_remove(0) } else { Expr { kind: ExprKind::List(items), span } })
    }

    fn unary(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let start = parser.at;
            let second = parser.peek_second();
            let op = match parser.peek() {
                Some('!') => UnaryOp::Not,
                Some(',') => UnaryOp::Comma,
                Some('+') if second != Some('+') => UnaryOp::Plus,
                Some('[') => return parser.cast(),
                Some(c) if is_dash(c) && second.is_some_and(char::is_alphabetic) => {
                    let word: String = parser.rest().chars().skip(1).take_while(|c| is_name(*c)).collect();
                    match word.to_ascii_lowercase().as_str() {
                        "not" => UnaryOp::Not,
                        "split" => UnaryOp::Split,
                        "join" => UnaryOp::Join,
                        _ => return Err(parser.unexpected()),
                    }
                }
                Some(c) if is_dash(c) && !second.is_some_and(is_dash) => UnaryOp::Minus,
                _ => return parser.postfix(),
            };
            if parser.bump().is_some_and(is_dash) && op != UnaryOp::Minus {
                parser.take_while(char::is_alphabetic);
            }
            let span = parser.span_from(start);
            parser.skip_space()?;
            if matches!(parser.peek(), None | Some(')' | '}' | ']' | ';' | '|'))
                || parser.peek().is_some_and(is_newline)
            {
                let text = parser.source.slice(span).to_owned();
                let message = format!("Missing expression after unary operator '{text}'.");
                return Err(parser.missing("MissingExpressionAfterOperator", message));
            }
            let operand = parser.unary()?;
            Ok(Expr { span: span.to(operand.span), kind: ExprKind::Unary(op, Box::new(operand)) })
        })
    }

    /// `[type]value`
    fn cast(&mut self) -> Result<Expr> {
        let start = self.at;
        self.bump();
        let name = self.take_while(|c| is_name(c) || c == '.');
        let known = match name.to_ascii_lowercase().as_str() {
            "int" | "long" | "int32" | "int64" | "uint32" | "uint64" => Some(CastType::Int),
            "double" | "float" | "decimal" => Some(CastType::Float),
            "string" => Some(CastType::String),
            "bool" | "switch" => Some(CastType::Bool),
            "array" => Some(CastType::Array),
            "ordered" => Some(CastType::Ordered),
            "pscustomobject" => Some(CastType::Object),
            _ => None,
        };
        let known = if self.eat(']') { known } else { None };
        let span = self.span_from(start);
        if self.rest().starts_with("::") {
            return Err(self.not_supported("Calling static members of a type is", span));
        }
        let Some(cast) = known else {
            return Err(self.not_supported(&format!("The type [{name}] is"), span));
        };
        self.skip_space()?;
        let value = self.unary()?;
        let is_literal = matches!(value.kind, ExprKind::Hashtable(_));
        if cast == CastType::Ordered && !is_literal {
            let message = "The ordered attribute can be specified only on a hash literal node.";
            return Err(self.error("OrderedAttributeOnlyOnHashLiteralNode", message, span));
        }
        Ok(Expr { span: span.to(value.span), kind: ExprKind::Cast(cast, Box::new(value)) })
    }

    /// A value with the members and indexes that directly follow it.
    pub(super) fn postfix(&mut self) -> Result<Expr> {
        let base = self.primary()?;
        let mut steps = Vec::new();
        loop {
            let start = self.at;
            match (self.peek(), self.peek_second()) {
                (Some('.'), Some(c)) if is_name(c) || is_single_quote(c) || is_double_quote(c) => {
                    self.bump();
                    let name = self.member_name()?;
                    let span = self.span_from(start);
                    if self.peek() == Some('(') {
                        return Err(self.not_supported("Calling a method of an object is", span));
                    }
                    steps.push((Step::Member(name), span));
                }
                (Some('.'), Some('$' | '(')) => {
                    return Err(self.not_supported("A computed member name is", Span::new(start, start + 2)));
                }
                (Some('['), _) => {
                    self.bump();
                    self.skip_lines()?;
                    if self.peek() == Some(']') {
                        let message = "Array index expression is missing or not valid.";
                        return Err(self.missing("MissingArrayIndexExpression", message));
                    }
                    let index = self.nested(Self::expression)?;
                    self.skip_lines()?;
                    self.close(']', Span::new(start, start + 1))?;
                    steps.push((Step::Index(index), self.span_from(start)));
                }
                (Some(':'), Some(':')) => {
                    return Err(self.not_supported("Calling static members is", Span::new(start, start + 2)));
                }
                _ => break,
            }
        }
        if steps.is_empty() {
            return Ok(base);
        }
        let span = Span::new(base.span.start, self.at);
        Ok(Expr { kind: ExprKind::Postfix(Box::new(base), steps), span })
    }

    fn member_name(&mut self) -> Result<String> {
        let kind = match self.peek() {
            Some(c) if is_single_quote(c) => self.single_quoted()?,
            Some(c) if is_double_quote(c) => self.double_quoted()?,
            _ => return Ok(self.take_while(is_name)),
        };
        match kind {
            ExprKind::Text(name) => Ok(name),
            _ => Err(self.not_supported("A computed member name is", Span::new(self.at, self.at + 1))),
        }
    }

    /// A single value: variable, string, number, bracket of any kind.
    pub(super) fn primary(&mut self) -> Result<Expr> {
        let start = self.at;
        let open = Span::new(start, start + 1);
        let second = self.peek_second();
        let kind = match self.peek() {
            Some('$') if second == Some('(') => ExprKind::SubExpression(self.sub_expression()?),
            Some('$') => ExprKind::Variable(self.variable()?),
            Some(c) if is_single_quote(c) => self.single_quoted()?,
            Some(c) if is_double_quote(c) => self.double_quoted()?,
            Some('@') => match second {
                Some('(') => ExprKind::ArrayOf(self.sub_expression()?),
                Some('{') => self.nested(Self::hashtable)?,
                Some(c) if is_single_quote(c) || is_double_quote(c) => self.here_string()?,
                _ => return Err(self.unexpected()),
            },
            Some('(') => self.nested(|parser| {
                parser.bump();
                parser.skip_lines()?;
                if parser.peek() == Some(')') {
                    return Err(parser.missing("ExpectedExpression", "An expression was expected after '('."));
                }
                let inner = if parser.peek().is_none() {
                    return Err(parser.incomplete(
                        "ExpectedExpression",
                        "An expression was expected after '('.",
                        open,
                    ));
                } else {
                    parser.simple_statement()?
                };
                parser.skip_lines()?;
                parser.close(')', open)?;
                Ok(ExprKind::Paren(Box::new(inner)))
            })?,
            Some('{') => ExprKind::Block(Arc::new(self.nested(Self::block)?)),
            Some(c) if c.is_ascii_digit() || c == '.' => match self.number() {
                Some(number) => number,
                None => return Err(self.unexpected()),
            },
            None => return Err(self.missing("ExpectedExpression", "An expression was expected.")),
            Some(_) => return Err(self.unexpected()),
        };
        Ok(Expr { kind, span: self.span_from(start) })
    }

    /// `{ param($a, $b) statements }`
    fn block(&mut self) -> Result<Block> {
        let open = Span::new(self.at, self.at + 1);
        self.bump();
        let start = self.at;
        self.skip_separators()?;
        let word: String = self.rest().chars().take_while(char::is_ascii_alphabetic).collect();
        let parameters = if word.eq_ignore_ascii_case("param") {
            self.at += word.len();
            self.block_parameters()?
        } else {
            Vec::new()
        };
        let statements = self.statements(Some('}'))?;
        let span = self.span_from(start);
        self.close('}', open)?;
        Ok(Block { parameters, statements, span })
    }

    fn block_parameters(&mut self) -> Result<Vec<BlockParameter>> {
        self.skip_lines()?;
        let open = Span::new(self.at, self.at + 1);
        if !self.eat('(') {
            return Err(self.missing(
                "MissingOpenParenthesisAfterKeyword",
                "Missing opening '(' after keyword 'param'.",
            ));
        }
        let mut parameters = Vec::new();
        loop {
            self.skip_lines()?;
            if parameters.is_empty() && self.peek() == Some(')') {
                break;
            }
            if self.peek() != Some('$') {
                return Err(self.missing(
                    "MissingParameterName",
                    "A parameter's '$name' was expected; types and attributes are not supported here.",
                ));
            }
            let name = self.variable()?;
            self.skip_lines()?;
            let default = if self.eat('=') {
                self.skip_lines()?;
                Some(self.nested(Self::unary)?)
            } else {
                None
            };
            parameters.push(BlockParameter { name, default });
            self.skip_lines()?;
            if !self.eat(',') {
                break;
            }
        }
        self.close(')', open)?;
        Ok(parameters)
    }

    /// `@{ key = value; key = value }`
    fn hashtable(&mut self) -> Result<ExprKind> {
        let open = Span::new(self.at, self.at + 2);
        self.at += 2;
        let mut entries: Vec<(Expr, Statement)> = Vec::new();
        loop {
            self.skip_separators()?;
            if matches!(self.peek(), None | Some('}')) {
                break;
            }
            let start = self.at;
            let key = match self.peek() {
                Some(c) if c.is_alphabetic() || c == '_' => {
                    let name = self.take_while(is_name);
                    Expr { kind: ExprKind::Text(name), span: self.span_from(start) }
                }
                _ => self.postfix()?,
            };
            self.skip_space()?;
            if !self.eat('=') {
                return Err(self.missing(
                    "MissingEqualsInHashLiteral",
                    "Missing '=' operator after key in hash literal.",
                ));
            }
            self.skip_lines()?;
            if matches!(self.peek(), Some(';' | '}')) {
                return Err(self.missing("MissingStatementInHashLiteral", "The hash literal was incomplete."));
            }
            entries.push((key, self.statement()?));
            self.skip_space()?;
            match self.peek() {
                None | Some(';' | '}') => {}
                Some(c) if is_newline(c) => {}
                Some(_) => return Err(self.unexpected()),
            }
        }
        self.close('}', open)?;
        Ok(ExprKind::Hashtable(entries))
    }
}

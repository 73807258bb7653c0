//! The syntax tree. Every node that a message can point to has its [`Span`].
//!
//! Chains (`a + b + c`, `.x.y.z`) are flat lists, so that the depth of the tree is the depth of the
//! brackets in the text, which the parser limits: nothing that walks or drops the tree can overflow the stack.

use super::source::{Source, Span};
use std::sync::Arc;

/// A parsed script.
#[derive(Debug)]
pub struct Script {
    pub source: Arc<Source>,
    pub body: Block,
}

/// The statements of a script or of `{ ... }`, with its `param(...)` list.
#[derive(Debug, Default)]
pub struct Block {
    pub parameters: Vec<BlockParameter>,
    pub statements: Vec<Statement>,
    /// The text between the braces.
    pub span: Span,
}

#[derive(Debug)]
pub struct BlockParameter {
    pub name: String,
    pub default: Option<Expr>,
}

#[derive(Debug)]
pub enum Statement {
    Pipeline(Pipeline),
    /// `$x = ...`, `$x += ...`, or `$a, $b = ...` which share out an array.
    Assign {
        targets: Vec<String>,
        op: Option<BinaryOp>,
        value: Box<Statement>,
        span: Span,
    },
    If {
        branches: Vec<(Statement, Vec<Statement>)>,
        otherwise: Option<Vec<Statement>>,
    },
    Foreach {
        variable: String,
        items: Box<Statement>,
        body: Vec<Statement>,
    },
    For(Box<ForLoop>),
    While {
        condition: Box<Statement>,
        body: Vec<Statement>,
    },
    Break,
    Continue,
    Return(Option<Box<Statement>>),
    Exit(Option<Box<Statement>>),
}

impl Statement {
    pub(super) fn ends_with_brace(&self) -> bool {
        matches!(
            self,
            Statement::If { .. } | Statement::Foreach { .. } | Statement::For(_) | Statement::While { .. }
        )
    }
}

#[derive(Debug)]
pub struct ForLoop {
    pub init: Option<Statement>,
    pub condition: Option<Statement>,
    pub step: Option<Statement>,
    pub body: Vec<Statement>,
}

#[derive(Debug)]
pub struct Pipeline {
    pub elements: Vec<Element>,
    pub span: Span,
}

#[derive(Debug)]
pub enum Element {
    Expression(Expr),
    Command(Command),
}

#[derive(Debug)]
pub struct Command {
    /// A bare word is a string literal; after `&` any expression.
    pub name: Expr,
    pub arguments: Vec<Argument>,
    pub span: Span,
}

#[derive(Debug)]
pub enum Argument {
    Value(Expr),
    /// `-Name` or `-Name:value`.
    Parameter {
        name: String,
        value: Option<Expr>,
        span: Span,
    },
    /// `@name`: the entries of a hashtable as named arguments.
    Splat {
        name: String,
        span: Span,
    },
}

#[derive(Debug)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Debug)]
pub enum ExprKind {
    Int(i64),
    Float(f64),
    /// A literal string, or a bare word in an argument.
    Text(String),
    /// A string with parts to fill in.
    Expandable(Vec<StringPart>),
    Variable(String),
    /// `a, b, c`
    List(Vec<Expr>),
    /// `@( ... )`
    ArrayOf(Vec<Statement>),
    /// `$( ... )`
    SubExpression(Vec<Statement>),
    /// `( ... )`
    Paren(Box<Statement>),
    Hashtable(Vec<(Expr, Statement)>),
    Block(Arc<Block>),
    Unary(UnaryOp, Box<Expr>),
    /// Operators of one level of precedence, left to right.
    Binary(Box<Expr>, Vec<(BinaryOp, Span, Expr)>),
    Postfix(Box<Expr>, Vec<(Step, Span)>),
    Cast(CastType, Box<Expr>),
}

#[derive(Debug)]
pub enum StringPart {
    Text(String),
    Variable(String, Span),
    SubExpression(Vec<Statement>),
}

#[derive(Debug)]
pub enum Step {
    Member(String),
    Index(Expr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CastType {
    Int,
    Float,
    String,
    Bool,
    Array,
    Ordered,
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    Not,
    Minus,
    Plus,
    Comma,
    Split,
    Join,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    And,
    Or,
    Xor,
    Compare(Comparison, CaseRule),
    Join,
    Split(CaseRule),
    Replace(CaseRule),
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Format,
    Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Like,
    NotLike,
    Match,
    NotMatch,
    Contains,
    NotContains,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseRule {
    Ignore,
    Exact,
}

impl BinaryOp {
    /// Higher binds tighter.
    pub fn precedence(self) -> u8 {
        match self {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => 1,
            BinaryOp::Compare(..) | BinaryOp::Join | BinaryOp::Split(_) | BinaryOp::Replace(_) => 2,
            BinaryOp::Add | BinaryOp::Subtract => 3,
            BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Remainder => 4,
            BinaryOp::Format => 5,
            BinaryOp::Range => 6,
        }
    }

    /// The operator of a word after a dash: `eq`, `ceq`, `NotLike` and so on.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        match word.as_str() {
            "and" => return Some(BinaryOp::And),
            "or" => return Some(BinaryOp::Or),
            "xor" => return Some(BinaryOp::Xor),
            "f" => return Some(BinaryOp::Format),
            "join" => return Some(BinaryOp::Join),
            _ => {}
        }
        if let Some(op) = Self::cased(&word, CaseRule::Ignore) {
            return Some(op);
        }
        match word.split_at_checked(1)? {
            ("c", rest) => Self::cased(rest, CaseRule::Exact),
            ("i", rest) => Self::cased(rest, CaseRule::Ignore),
            _ => None,
        }
    }

    fn cased(word: &str, case: CaseRule) -> Option<Self> {
        let comparison = match word {
            "split" => return Some(BinaryOp::Split(case)),
            "replace" => return Some(BinaryOp::Replace(case)),
            "eq" => Comparison::Eq,
            "ne" => Comparison::Ne,
            "gt" => Comparison::Gt,
            "ge" => Comparison::Ge,
            "lt" => Comparison::Lt,
            "le" => Comparison::Le,
            "like" => Comparison::Like,
            "notlike" => Comparison::NotLike,
            "match" => Comparison::Match,
            "notmatch" => Comparison::NotMatch,
            "contains" => Comparison::Contains,
            "notcontains" => Comparison::NotContains,
            "in" => Comparison::In,
            "notin" => Comparison::NotIn,
            _ => return None,
        };
        Some(BinaryOp::Compare(comparison, case))
    }
}

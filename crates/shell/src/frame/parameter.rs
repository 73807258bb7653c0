//! A parameter of a cmdlet: its name, what it takes and how it is found.

use crate::value::Value;

/// The members of an enumeration with their numbers.
#[derive(Debug)]
pub struct EnumType {
    /// .NET's name, for messages.
    pub name: &'static str,
    pub members: &'static [(&'static str, i64)],
}

impl EnumType {
    /// The member of that name, in any case, or with that number.
    pub fn find(&self, text: &str) -> Option<Value> {
        let exact =
            |(name, number): &&(&str, i64)| name.eq_ignore_ascii_case(text) || text.parse() == Ok(*number);
        let by_start: Vec<_> = self
            .members
            .iter()
            .filter(|(name, _)| {
                !text.is_empty()
                    && name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
            })
            .collect();
        let only = if by_start.len() == 1 { by_start.first().copied() } else { None };
        let (name, number) = self.members.iter().find(exact).or(only)?;
        Some(Value::member(*name, *number))
    }

    /// The member of that number.
    pub fn by_number(&self, number: i64) -> Option<Value> {
        let (name, number) = self.members.iter().find(|(_, n)| *n == number)?;
        Some(Value::member(*name, *number))
    }
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    String,
    Strings,
    Int {
        min: i64,
        max: i64,
    },
    Ints {
        min: i64,
        max: i64,
    },
    Bool,
    Switch,
    TimeSpan,
    Enum(&'static EnumType),
    Enums(&'static EnumType),
    ScriptBlock,
    Hashtable,
    /// An object of that type.
    Object(&'static str),
    Objects(&'static str),
    Any,
    List,
}

impl Kind {
    pub const INT: Kind = Kind::Int { min: i32::MIN as i64, max: i32::MAX as i64 };
    /// A size in bytes.
    pub const SIZE: Kind = Kind::Int { min: 0, max: i64::MAX };

    pub(crate) fn is_list(self) -> bool {
        matches!(self, Kind::Strings | Kind::Ints { .. } | Kind::Enums(_) | Kind::Objects(_) | Kind::List)
    }

    /// Name of the type in help and messages.
    pub fn type_name(self) -> &'static str {
        match self {
            Kind::String | Kind::Strings => "System.String",
            Kind::Int { .. } | Kind::Ints { .. } => "System.Int64",
            Kind::Bool => "System.Boolean",
            Kind::Switch => "System.Management.Automation.SwitchParameter",
            Kind::TimeSpan => "System.TimeSpan",
            Kind::Enum(e) | Kind::Enums(e) => e.name,
            Kind::ScriptBlock => "System.Management.Automation.ScriptBlock",
            Kind::Hashtable => "System.Collections.Hashtable",
            Kind::Object(name) | Kind::Objects(name) => name,
            Kind::Any | Kind::List => "System.Object",
        }
    }
}

/// How a parameter takes what comes through the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromPipeline {
    No,
    /// The object itself, if it is of the right type.
    Value,
    /// The object's property of the parameter's name or alias.
    PropertyName,
    /// Either.
    Both,
}

#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub position: Option<u8>,
    pub mandatory: bool,
    /// Takes all arguments without a name that are left.
    pub rest: bool,
    pub pipeline: FromPipeline,
    /// Parameter sets it belongs to; none means all. The first set that a cmdlet's parameters name is its default.
    pub sets: &'static [&'static str],
    pub help: &'static str,
}

impl Parameter {
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            kind,
            position: None,
            mandatory: false,
            rest: false,
            pipeline: FromPipeline::No,
            sets: &[],
            help,
        }
    }

    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Switch, help)
    }

    #[must_use]
    pub const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    #[must_use]
    pub const fn at(mut self, position: u8) -> Self {
        self.position = Some(position);
        self
    }

    #[must_use]
    pub const fn rest(mut self) -> Self {
        self.rest = true;
        self
    }

    #[must_use]
    pub const fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    #[must_use]
    pub const fn from_pipeline(mut self, pipeline: FromPipeline) -> Self {
        self.pipeline = pipeline;
        self
    }

    #[must_use]
    pub const fn in_sets(mut self, sets: &'static [&'static str]) -> Self {
        self.sets = sets;
        self
    }

    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }

    pub(crate) fn in_any_of(&self, sets: &[&str]) -> bool {
        self.sets.is_empty() || self.sets.iter().any(|set| sets.contains(set))
    }
}

/// Parameters that the frame itself understands on every cmdlet.
pub(crate) const COMMON: &[Parameter] = &[Parameter::new(
    "ErrorAction",
    Kind::Enum(&ERROR_ACTION),
    "What an error does: Continue prints it, SilentlyContinue drops it, Stop ends the script.",
)
.alias(&["ea"])];

/// Those of cmdlets that change something.
pub(crate) const SHOULD_PROCESS: &[Parameter] = &[
    Parameter::switch("WhatIf", "Says what would be done, and does not do it.").alias(&["wi"]),
    Parameter::switch("Confirm", "Asks before each change.").alias(&["cf"]),
];

pub(crate) const ERROR_ACTION: EnumType = EnumType {
    name: "System.Management.Automation.ActionPreference",
    members: &[("SilentlyContinue", 0), ("Stop", 1), ("Continue", 2), ("Ignore", 4)],
};

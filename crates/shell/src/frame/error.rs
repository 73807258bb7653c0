//! What goes wrong, as Windows PowerShell records and prints it.
//!
//! Inside the crate errors are typed where they arise; whatever a user sees is one [`ErrorRecord`].

use crate::lang::{Source, Span};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// PowerShell's `ErrorCategory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    NotSpecified,
    CloseError,
    ConnectionError,
    DeviceError,
    InvalidArgument,
    InvalidData,
    InvalidOperation,
    InvalidResult,
    InvalidType,
    LimitsExceeded,
    NotImplemented,
    NotInstalled,
    ObjectNotFound,
    OperationStopped,
    OperationTimeout,
    ParserError,
    PermissionDenied,
    ProtocolError,
    ReadError,
    ResourceBusy,
    ResourceExists,
    ResourceUnavailable,
    SecurityError,
    WriteError,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where in a script something is.
#[derive(Clone, Debug)]
pub struct Position {
    pub source: Arc<Source>,
    pub span: Span,
}

/// One error. What the command itself does not say (its name, its place) the frame fills in.
///
/// Kept behind one pointer, so that the results of everything that may fail stay small.
#[derive(Clone, Debug)]
pub struct ErrorRecord(Box<ErrorDetails>);

#[derive(Clone, Debug)]
pub struct ErrorDetails {
    pub message: String,
    pub category: Category,
    /// The exception's type, such as `VirtualizationException`.
    pub reason: Cow<'static, str>,
    /// First part of the fully qualified error id.
    pub id: Cow<'static, str>,
    /// The second part; `None` lets the frame put the cmdlet's class there.
    pub class: Option<Cow<'static, str>>,
    /// The object meant: its name and its type.
    pub target: Option<(String, String)>,
    /// The command as shown before the message.
    pub prefix: Option<String>,
    /// The command as shown in the category.
    pub activity: String,
    pub position: Option<Position>,
    /// Ends the whole script, as after `-ErrorAction Stop`.
    pub(crate) stops_script: bool,
}

impl ErrorRecord {
    pub fn new(
        category: Category,
        reason: impl Into<Cow<'static, str>>,
        id: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self(Box::new(ErrorDetails {
            message: message.into(),
            category,
            reason: reason.into(),
            id: id.into(),
            class: None,
            target: None,
            prefix: None,
            activity: String::new(),
            position: None,
            stops_script: false,
        }))
    }

    /// An error of the language itself rather than of a command.
    pub(crate) fn runtime(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(Category::InvalidOperation, "RuntimeException", id, message)
    }

    #[must_use]
    pub fn with_target(mut self, name: impl Into<String>, type_name: impl Into<String>) -> Self {
        self.target = Some((name.into(), type_name.into()));
        self
    }

    /// Replaces the cmdlet's class in the error id; empty for an id of one part.
    #[must_use]
    pub fn with_class(mut self, class: impl Into<Cow<'static, str>>) -> Self {
        self.class = Some(class.into());
        self
    }

    #[must_use]
    pub(crate) fn at(mut self, source: &Arc<Source>, span: Span) -> Self {
        if self.position.is_none() {
            self.position = Some(Position { source: Arc::clone(source), span });
        }
        self
    }

    /// Names the cmdlet that failed, unless that is said already.
    #[must_use]
    pub(crate) fn by(mut self, cmdlet: &str, class: &'static str) -> Self {
        if self.prefix.is_none() {
            self.prefix = Some(cmdlet.to_owned());
            self.activity = cmdlet.to_owned();
        }
        if self.class.is_none() {
            self.class = Some(Cow::Borrowed(class));
        }
        self
    }

    pub fn fully_qualified_id(&self) -> String {
        match self.class.as_deref() {
            None | Some("") => self.id.to_string(),
            Some(class) => format!("{},{class}", self.id),
        }
    }

    fn target_text(&self) -> String {
        match &self.target {
            Some((name, type_name)) => format!("{}:{}", shortened(name), shortened(type_name)),
            None => ":".to_owned(),
        }
    }
}

/// Long names lose their middle, and line ends would break the frame.
fn shortened(name: &str) -> String {
    let name = name.replace(['\r', '\n'], " ");
    let count = name.chars().count();
    if count <= 40 {
        return name;
    }
    let start: String = name.chars().take(15).collect();
    let end: String = name.chars().skip(count - 15).collect();
    format!("{start}...{end}")
}

impl std::ops::Deref for ErrorRecord {
    type Target = ErrorDetails;

    fn deref(&self) -> &ErrorDetails {
        &self.0
    }
}

impl std::ops::DerefMut for ErrorRecord {
    fn deref_mut(&mut self) -> &mut ErrorDetails {
        &mut self.0
    }
}

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = self.prefix.as_deref().filter(|p| !p.is_empty()) {
            write!(f, "{prefix} : ")?;
        }
        writeln!(f, "{}", self.message)?;
        if let Some(position) = &self.position {
            writeln!(f, "{}", position.source.position_message(position.span))?;
        }
        let (category, target) = (self.category, self.target_text());
        writeln!(
            f,
            "    + CategoryInfo          : {category}: ({target}) [{}], {}",
            self.activity, self.reason
        )?;
        write!(f, "    + FullyQualifiedErrorId : {}", self.fully_qualified_id())
    }
}

impl std::error::Error for ErrorRecord {}

/// Why evaluation leaves its normal course.
#[derive(Debug)]
pub enum Flow {
    Error(ErrorRecord),
    Break,
    Continue,
    Return,
    Exit(i32),
}

impl From<ErrorRecord> for Flow {
    fn from(record: ErrorRecord) -> Self {
        Flow::Error(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_windows_powershell_does() {
        let source = Source::new("Set-VMProcessor -VMName Nested -Count 2", None);
        let message = "Failed to modify device 'Processor'.\nCannot modify property.";
        let error =
            ErrorRecord::new(Category::InvalidOperation, "VirtualizationException", "InvalidState", message)
                .by("Set-VMProcessor", "Microsoft.HyperV.PowerShell.Commands.SetVMProcessor")
                .at(&source, Span::new(0, source.text.len()));
        assert_eq!(
            error.to_string(),
            "Set-VMProcessor : Failed to modify device 'Processor'.\n\
             Cannot modify property.\n\
             At line:1 char:1\n\
             + Set-VMProcessor -VMName Nested -Count 2\n\
             + ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\n    \
                 + CategoryInfo          : InvalidOperation: (:) [Set-VMProcessor], VirtualizationException\n    \
                 + FullyQualifiedErrorId : InvalidState,Microsoft.HyperV.PowerShell.Commands.SetVMProcessor"
        );
    }

    #[test]
    fn long_targets_lose_their_middle() {
        let error =
            ErrorRecord::new(Category::ObjectNotFound, "E", "I", "m").with_target("a".repeat(50), "String");
        assert!(error.to_string().contains("(aaaaaaaaaaaaaaa...aaaaaaaaaaaaaaa:String)"));
    }
}

//! `nestling doctor`: whether this host has what a nest needs.
//!
//! It answers even when no node can start: then a node of its own, with an empty home that is removed again,
//! looks at the host, and why the real one can't start is one more finding.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::Args;
use nestling_api::v1::{self, CheckResult, ErrorBody};
use nestling_node::{Identity, Node, Settings};

use crate::{
    failure::{Failure, Result, status},
    printer::{Colour, Printer},
    session::Session,
    text::clean,
};

/// Check every requirement, and say what to do about those that are not met
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  every requirement is met, perhaps with warnings
  1  a requirement is not met
  2  the command line makes no sense")]
pub struct Doctor {}

impl Doctor {
    pub async fn run(self, session: &Session) -> Result {
        let requirements = match session.client().await {
            Ok(client) => client.requirements().await?,
            Err(Failure::Error(error)) if session.inside.is_empty() => without_node(error).await,
            Err(failure) => return Err(failure),
        };
        let printer = session.printer;
        printer.list(&requirements, |requirements| report(requirements, printer))?;
        let is_unmet = requirements.iter().any(|r| r.result == CheckResult::Fail);
        if is_unmet { Err(Failure::Told(status::FAILED)) } else { Ok(()) }
    }
}

async fn without_node(error: ErrorBody) -> Vec<v1::Requirement> {
    let mut found = vec![v1::Requirement {
        id: "node".to_owned(),
        title: "Node".to_owned(),
        result: CheckResult::Fail,
        finding: error.message,
        remedy: error.hint,
    }];
    // What can't be found out this way either is missing from the list; the finding above says why.
    if let Ok(home) = EmptyHome::new()
        && let Ok(node) = Node::open(&home.0, Settings::default()).await
    {
        let who = Identity::Local { uid: rustix::process::geteuid().as_raw() };
        found.extend(node.requirements(&who).await.unwrap_or_default().into_iter().map(Into::into));
        node.close().await;
    }
    found
}

/// A home for nobody but this process, removed when dropped.
struct EmptyHome(PathBuf);

impl EmptyHome {
    fn new() -> std::io::Result<Self> {
        let path = Path::new("/tmp").join(format!("nestling-doctor-{}", std::process::id()));
        // Fails if it is there: someone else may have made it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for EmptyHome {
    fn drop(&mut self) {
        // What is left in the directory for temporary files goes with the next boot.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn report(requirements: &[v1::Requirement], printer: Printer) -> String {
    let mut out = String::new();
    for requirement in requirements {
        let word = match requirement.result {
            CheckResult::Pass => printer.paint(Colour::Green, "pass"),
            CheckResult::Warn => printer.paint(Colour::Yellow, "warn"),
            CheckResult::Fail => printer.paint(Colour::Red, "fail"),
        };
        let indent = |text: &str| clean(text).replace('\n', "\n      ");
        out.push_str(&format!("{word}  {}: {}\n", clean(&requirement.title), indent(&requirement.finding)));
        if let Some(remedy) = &requirement.remedy {
            out.push_str(&format!("      remedy: {}\n", indent(remedy)));
        }
    }
    out
}

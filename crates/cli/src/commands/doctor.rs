//! `nestling doctor`: whether this host has what a nest needs.

use clap::Args;
use nestling_api::v1::{self, CheckResult};

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
        let requirements = session.client().await?.requirements().await?;
        let printer = session.printer;
        printer.list(&requirements, |requirements| report(requirements, printer))?;
        let is_unmet = requirements.iter().any(|r| r.result == CheckResult::Fail);
        if is_unmet { Err(Failure::Told(status::FAILED)) } else { Ok(()) }
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

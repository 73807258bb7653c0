//! How a repository is opened: where it is, with which password, and within which bounds.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use nestling_vault::{
    Password, Repository,
    storage::{Access as Reach, Limits, Storage, Throttle},
};

use crate::{
    commands::password::{PASSWORD_VARIABLE, ask, ask_twice, of_environment, read_file},
    failure::Result,
    printer::Printer,
    text::parse_size,
};

const OTHER_PASSWORD_VARIABLE: &str = "NESTLING_VAULT_PASSWORD2";
#[derive(Debug, Args)]
#[command(next_help_heading = "Repository options")]
pub struct Access {
    /// The password is the first line of this file [default: NESTLING_VAULT_PASSWORD, else it is asked for]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Move no more than this in a second, each way
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    bwlimit: Option<NonZeroU64>,

    /// Add to the repository and remove nothing from it
    #[arg(long)]
    append_only: bool,
}

fn rate(text: &str) -> std::result::Result<NonZeroU64, String> {
    NonZeroU64::new(parse_size(text)?).ok_or_else(|| "nothing could move".to_owned())
}

impl Access {
    pub fn open(&self, printer: Printer, repo: &str) -> Result<Arc<Repository>> {
        let told = self.told(printer)?;
        self.open_with(printer, repo, told)
    }

    /// Another repository in the same command, within the same bounds.
    pub fn open_other(&self, printer: Printer, repo: &str, file: Option<&Path>) -> Result<Arc<Repository>> {
        let told = match file {
            Some(file) => Some(read_file(printer, file)?),
            None => of_environment(OTHER_PASSWORD_VARIABLE),
        };
        self.open_with(printer, repo, told)
    }

    fn open_with(&self, printer: Printer, repo: &str, told: Option<Password>) -> Result<Arc<Repository>> {
        let storage = self.reach().open(repo)?;
        let password = match told {
            Some(password) => password,
            None => ask(printer, &format!("password for {repo}"))?,
        };
        Ok(Arc::new(Repository::open(storage, &password)?))
    }

    /// Where a new repository is to be, and its password.
    pub fn create(&self, printer: Printer, repo: &str) -> Result<(Arc<dyn Storage>, Password)> {
        let password = match self.told(printer)? {
            Some(password) => password,
            None => ask_twice(printer, &format!("new password for {repo}"))?,
        };
        Ok((self.reach().create(repo)?, password))
    }

    fn reach(&self) -> Reach {
        let limits = Limits { up_bytes_per_second: self.bwlimit, down_bytes_per_second: self.bwlimit };
        let throttle = self.bwlimit.map(|_| Arc::new(Throttle::new(limits)));
        Reach { throttle, append_only: self.append_only, ..Reach::default() }
    }

    /// The password, if it need not be asked for.
    fn told(&self, printer: Printer) -> Result<Option<Password>> {
        match &self.password_file {
            Some(file) => read_file(printer, file).map(Some),
            None => Ok(of_environment(PASSWORD_VARIABLE)),
        }
    }
}

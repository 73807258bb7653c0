//! `nestling vault init` and `nestling vault keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nestling_vault::{Identity, Password, Repository, format::key::KdfCost};
use serde::Serialize;

use super::{REPO, access::Access, points::time};
use crate::{
    commands::password::{ask_twice, of_environment, read_file},
    failure::Result,
    printer::Printer,
    session::Session,
    text::Table,
};

const NEW_PASSWORD_VARIABLE: &str = "NESTLING_VAULT_NEW_PASSWORD";

/// Make a new repository
#[derive(Debug, Args)]
pub struct Init {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Made<'a> {
    repository: &'a str,
    id: &'a str,
}

impl Init {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let (storage, password) = self.access.create(printer, &self.repo)?;
        let made = Repository::init(storage, &password, &Identity::current(), KdfCost::Standard)?;
        printer.talk(&format!(
            "{} is a repository now. Whoever loses its password loses what is in it.",
            self.repo
        ));
        printer.changed(&Made { repository: &self.repo, id: made.id() })
    }
}

/// The passwords that open a repository
#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys, one for each password
    List {
        #[arg(value_name = "REPO", help = REPO)]
        repo: String,
        #[command(flatten)]
        access: Access,
    },
    Add(Add),
    /// Remove a password; not the one in use, nor the last one
    Remove {
        #[arg(value_name = "REPO", help = REPO)]
        repo: String,
        #[arg(value_name = "KEY", help = "The first digits of the key's id")]
        key: String,
        #[command(flatten)]
        access: Access,
    },
}

/// Add a password
#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// The new password is the first line of this file [default: NESTLING_VAULT_NEW_PASSWORD, else it is asked for]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Key {
    id: String,
    created: String,
    username: String,
    hostname: String,
    /// It is the one whose password was given.
    in_use: bool,
}

impl Keys {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        match self.command {
            Command::List { repo, access } => printer.list(&listed(&*access.open(printer, &repo)?)?, table),
            Command::Add(add) => add.run(printer),
            Command::Remove { repo, key, access } => {
                let repository = access.open(printer, &repo)?;
                let id = repository.find_key_id(&key)?;
                let removed = listed(&repository)?.into_iter().find(|key| key.id == id.to_string());
                repository.remove_key(&id, &Identity::current())?;
                printer.changed(&removed)
            }
        }
    }
}

impl Add {
    fn run(self, printer: Printer) -> Result {
        let repository = self.access.open(printer, &self.repo)?;
        let password = self.new_password(printer)?;
        let id = repository.add_key(&password, &Identity::current(), KdfCost::Standard)?.to_string();
        let added = listed(&repository)?.into_iter().find(|key| key.id == id);
        printer.changed(&added)
    }

    fn new_password(&self, printer: Printer) -> Result<Password> {
        match (&self.new_password_file, of_environment(NEW_PASSWORD_VARIABLE)) {
            (Some(file), _) => read_file(printer, file),
            (None, Some(password)) => Ok(password),
            (None, None) => ask_twice(printer, &format!("new password for {}", self.repo)),
        }
    }
}

fn listed(repository: &Repository) -> Result<Vec<Key>> {
    let keys = repository.keys()?.into_iter();
    let key = |(id, file, in_use): (nestling_vault::KeyId, nestling_vault::format::key::KeyFile, bool)| Key {
        id: id.to_string(),
        created: file.created.to_string(),
        username: file.username,
        hostname: file.hostname,
        in_use,
    };
    Ok(keys.map(key).collect())
}

fn table(keys: &[Key]) -> String {
    let mut table = Table::new(&["KEY", "IN USE", "CREATED", "BY"]);
    for key in keys {
        table.row([
            key.id.chars().take(8).collect(),
            if key.in_use { "yes" } else { "no" }.to_owned(),
            key.created.parse().map_or_else(|_| key.created.clone(), time),
            format!("{}@{}", key.username, key.hostname),
        ]);
    }
    table.text()
}

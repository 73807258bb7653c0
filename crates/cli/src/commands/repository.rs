//! `nestling repository`: the vaults that a host backs up to.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, Subcommand};
use nestling_api::v1;
use nestling_vault::storage::{Location, settings_of_environment};

use crate::{
    args::OnOff,
    commands::password::{PASSWORD_VARIABLE, ask_twice, of_environment, read_file, secret},
    failure::{Failure, Result},
    session::Session,
    text::{self, Table, fields, parse_size},
};

/// Repositories: where backups go
#[derive(Debug, Args)]
pub struct Repository {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    /// List the repositories that the host knows
    List,
    /// Show a repository and what is in it
    Show {
        #[arg(value_name = "REPOSITORY", help = NAME)]
        name: String,
    },
    Set(Set),
    /// Forget a repository and its password; the vault and its points stay
    Remove {
        #[arg(value_name = "REPOSITORY", help = NAME)]
        name: String,
    },
}

const NAME: &str = "The repository's name";
const LOCATION: &str = "A directory, s3:HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX, azure://... or gs://...";

/// Add a repository: take over the vault that lies there, or make a new one
///
/// The password opens a vault that is there, and becomes that of a new one. The node keeps it, and the credentials of an
/// object store that the environment holds now (AWS_..., AZURE_..., GOOGLE_...), in files that only its own user can read.
#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "REPOSITORY", help = NAME)]
    name: String,
    #[arg(value_name = "LOCATION", help = LOCATION)]
    location: String,
    /// The password is the first line of this file [default: NESTLING_VAULT_PASSWORD, else it is asked for]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Upload no more than this in a second, all backups together
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    upload_limit: Option<u64>,
    /// Never remove anything from it from this host
    #[arg(long)]
    append_only: bool,
}

/// Change a repository, or what opens it
#[derive(Debug, Args)]
struct Set {
    #[arg(value_name = "REPOSITORY", help = NAME)]
    name: String,
    /// Its name from now on
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// Where the vault lies by now
    #[arg(long, value_name = "LOCATION", help = LOCATION)]
    location: Option<String>,
    /// The password that opens it from now on is the first line of this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Take the object store's credentials from the environment anew
    #[arg(long)]
    credentials: bool,
    /// Upload no more than this in a second; 0: no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    upload_limit: Option<u64>,
    /// Whether nothing may be removed from it from this host
    #[arg(long, value_enum, value_name = "on|off")]
    append_only: Option<OnOff>,
}

impl Repository {
    pub async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        match self.command {
            Command::Add(add) => add.run(session).await,
            Command::List => printer.list(&session.client().await?.repositories().await?, table),
            Command::Show { name } => {
                let shown = session.client().await?.repository(&name).await?;
                printer.show(&shown, details)?;
                // What a script looks at: a repository that can't be reached is of no use now.
                if shown.problem.is_some() {
                    Err(Failure::Told(crate::failure::status::FAILED))
                } else {
                    Ok(())
                }
            }
            Command::Set(set) => set.run(session).await,
            Command::Remove { name } => Ok(session.client().await?.forget_repository(&name).await?),
        }
    }
}

impl Add {
    async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let told = match &self.password_file {
            Some(file) => Some(read_file(printer, file)?),
            None => of_environment(PASSWORD_VARIABLE),
        };
        let password = match told {
            Some(password) => password,
            None => ask_twice(printer, &format!("password of {}", self.name))?,
        };
        let location = place(session, &self.location)?;
        let new = v1::NewRepository {
            settings: credentials(&location)?,
            location,
            password: secret(&password)?,
            name: self.name,
            upload_bytes_per_second_max: self.upload_limit,
            append_only: self.append_only,
        };
        let added = session.client().await?.add_repository(&new).await?;
        printer.talk(match added.created {
            Some(true) => "A new vault was made. Whoever loses its password loses what is in it.",
            _ => "The vault that lies there was taken over.",
        });
        printer.changed(&added)
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let location = self.location.as_deref().map(|text| place(session, text)).transpose()?;
        let settings = match (self.credentials, &location) {
            (false, _) => None,
            (true, Some(location)) => Some(credentials(location)?),
            (true, None) => Some(credentials(&client.repository(&self.name).await?.location)?),
        };
        let password = self.password_file.map(|file| read_file(session.printer, &file)).transpose()?;
        let change = v1::RepositoryChange {
            name: self.rename,
            location,
            password: password.as_ref().map(secret).transpose()?,
            settings,
            upload_bytes_per_second_max: self.upload_limit,
            append_only: self.append_only.map(OnOff::is_on),
        };
        session.printer.changed(&client.change_repository(&self.name, &change).await?)
    }
}

/// A directory is one of the host that the node runs on, with its whole path.
fn place(session: &Session, text: &str) -> Result<String> {
    match text.parse::<Location>()? {
        Location::Local(_) => session.file(&[], text),
        _ => Ok(text.to_owned()),
    }
}

fn credentials(location: &str) -> Result<BTreeMap<String, v1::Secret>> {
    let found = settings_of_environment(&location.parse()?);
    Ok(found.into_iter().map(|(name, value)| (name, v1::Secret::new(value))).collect())
}

fn table(repositories: &[v1::Repository]) -> String {
    let mut table = Table::new(&["REPOSITORY", "LOCATION", "UPLOAD LIMIT", "APPEND-ONLY"]);
    for repository in repositories {
        table.row([
            repository.name.clone(),
            repository.location.clone(),
            limit(repository),
            if repository.append_only { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.text()
}

fn limit(repository: &v1::Repository) -> String {
    repository
        .upload_bytes_per_second_max
        .map_or_else(|| "-".to_owned(), |limit| format!("{}/s", text::size(limit)))
}

fn details(repository: &v1::Repository) -> String {
    let contents = repository.contents.as_ref();
    let of = |tell: fn(&v1::RepositoryContents) -> String| contents.map(tell).unwrap_or_default();
    fields(&[
        ("Name", repository.name.clone()),
        ("Location", repository.location.clone()),
        ("Upload limit", limit(repository)),
        ("Append-only", if repository.append_only { "yes" } else { "no" }.to_owned()),
        ("Reachable", repository.problem.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"))),
        ("Points", of(|c| c.points.to_string())),
        ("Machines", of(|c| c.machines.to_string())),
        ("Unreadable", of(|c| if c.unreadable > 0 { c.unreadable.to_string() } else { String::new() })),
        ("Takes", of(|c| text::size(c.stored_bytes))),
    ])
}

//! What is done in guests around a backup, as arguments.

use clap::{Args, ValueEnum};
use nestling_api::v1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Application {
    /// Those that are found in the guest
    Auto,
    Postgresql,
    /// MySQL, too
    Mariadb,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Applications in the guest")]
pub struct GuestSteps {
    /// Make databases ready as well, and hold the file systems still for the instant
    #[arg(long, conflicts_with_all = ["crash_consistent", "file_system_consistent"])]
    pub application_consistent: bool,
    /// Which must run there, or auto for those that are found there; can be given again [default: auto, but
    /// with programs of yours and without --cut-logs none]
    #[arg(long, value_name = "NAME", requires = "application_consistent")]
    application: Vec<Application>,
    /// Once the point is durable, remove logs that it has made needless: MariaDB's binary logs, PostgreSQL's archived ones
    #[arg(long, requires = "application_consistent")]
    cut_logs: bool,
    /// The guest's directory of PostgreSQL's archived logs [default: what its archive_command names]
    #[arg(long, value_name = "DIRECTORY", requires = "cut_logs")]
    postgresql_archive: Option<String>,
    /// Run a program of the guest before the instant, its path and arguments split at blanks; can be given again
    #[arg(long, value_name = "PROGRAM", requires = "application_consistent")]
    guest_before: Vec<String>,
    /// Run a program of the guest after the instant, whatever became of it; can be given again
    #[arg(long, value_name = "PROGRAM", requires = "application_consistent")]
    guest_after: Vec<String>,
    /// Run a program of the guest once the point is durable, such as one that cuts logs; can be given again
    #[arg(long, value_name = "PROGRAM", requires = "application_consistent")]
    guest_after_durable: Vec<String>,
    /// How long each of the guest's programs given here may take [default: 300]
    #[arg(long, value_name = "N", requires = "application_consistent")]
    guest_seconds: Option<u32>,
}

impl GuestSteps {
    /// `None`: nothing is to be done there but to hold it still, if that.
    pub fn to_wire(&self) -> Option<v1::GuestSteps> {
        if !self.application_consistent {
            return None;
        }
        let programs = |lines: &[String]| {
            lines.iter().map(|line| v1::Program::split(line, self.guest_seconds)).collect()
        };
        Some(v1::GuestSteps {
            applications: self.applications(),
            cut_logs: self.cut_logs,
            postgresql_archive: self.postgresql_archive.clone(),
            before: programs(&self.guest_before),
            after: programs(&self.guest_after),
            after_durable: programs(&self.guest_after_durable),
        })
    }

    /// Whoever names only programs of the guest wants nothing else done there.
    fn applications(&self) -> Option<Vec<v1::GuestApplication>> {
        let has_programs = [&self.guest_before, &self.guest_after, &self.guest_after_durable]
            .iter()
            .any(|all| !all.is_empty());
        match self.application.as_slice() {
            [] if has_programs && !self.cut_logs => Some(Vec::new()),
            [] => None,
            all if all.contains(&Application::Auto) => None,
            all => Some(all.iter().filter_map(|application| named(*application)).collect()),
        }
    }
}

const fn named(application: Application) -> Option<v1::GuestApplication> {
    match application {
        Application::Auto => None,
        Application::Postgresql => Some(v1::GuestApplication::PostgreSql),
        Application::Mariadb => Some(v1::GuestApplication::MariaDb),
    }
}

/// As people read it.
pub fn shown(steps: &v1::GuestSteps) -> String {
    let mut parts = match &steps.applications {
        None => vec!["databases that are found there".to_owned()],
        Some(all) => all.iter().map(|application| format!("{application:?}")).collect(),
    };
    let program = |program: &v1::Program| {
        let words = std::iter::once(&program.program).chain(&program.arguments);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    let places =
        [("before", &steps.before), ("after", &steps.after), ("once it is durable", &steps.after_durable)];
    for (when, programs) in places {
        parts.extend(programs.iter().map(|one| format!("{when}: {}", program(one))));
    }
    if steps.cut_logs {
        parts.push("logs are cut".to_owned());
    }
    parts.join("; ")
}

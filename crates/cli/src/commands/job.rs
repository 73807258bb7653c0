//! `nestling job`: backups that are made by themselves.

use clap::{Args, Subcommand};
use nestling_api::v1;

use super::{
    backup,
    backup_run::{Signals, detached, told, watch},
    job_set::{Create, Set},
    job_show,
};
use crate::{failure::Result, session::Session};

/// Backup jobs: which machines are saved, where and when
///
/// A job belongs to a host and covers its machines, and those inside of them as L1/L2 or L1/*: they are captured by the node
/// inside and saved in this host's repository. To have that node save them by itself: `nestling --in L1 job ...`.
#[derive(Debug, Args)]
pub struct Job {
    #[command(subcommand)]
    command: Command,
}

const JOB: &str = "The job's name, or its id";

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// List the jobs
    List,
    /// Show a job
    Show {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
    Set(Set),
    /// Let a job run by itself; what came before is not made up for
    Enable {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
    /// Let a job run only when it is asked for
    Disable {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
    Run(Run),
    /// End the run of a job that is under way
    Stop {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
    /// Show what a run would do now: which machines, how, from which point on; nothing is done
    DryRun {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
    /// List the runs of a job, newest first; `backup show` and `backup log` tell more of each
    History {
        #[arg(value_name = "JOB", help = "The job's name, also of one that is no more, or its id")]
        job: String,
    },
    /// Remove a job; what it saved stays
    Remove {
        #[arg(value_name = "JOB", help = JOB)]
        job: String,
    },
}

/// Run a job now, and wait for its end
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  done
  1  failed
  2  the command line makes no sense
  3  partly done: it failed for some of the machines")]
struct Run {
    #[arg(value_name = "JOB", help = JOB)]
    job: String,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

impl Job {
    pub async fn run(self, session: &Session) -> Result {
        let (client, printer) = (session.client().await?, session.printer);
        let enabled = |enabled| v1::JobChange {
            settings: v1::JobSettings { enabled: Some(enabled), ..v1::JobSettings::default() },
            ..v1::JobChange::default()
        };
        match self.command {
            Command::Create(create) => create.run(session).await,
            Command::List => printer.list(&client.jobs().await?, job_show::table),
            Command::Show { job } => printer.show(&client.job(&job).await?, job_show::details),
            Command::Set(set) => set.run(session).await,
            Command::Enable { job } => printer.changed(&client.change_job(&job, &enabled(true)).await?),
            Command::Disable { job } => printer.changed(&client.change_job(&job, &enabled(false)).await?),
            Command::Run(Run { job, detach }) => {
                // None is lost from here on: a run that was begun is ended, or told of.
                let signals = Signals::listen()?;
                let run = client.run_job(&job).await?;
                if detach {
                    return detached(printer, &run);
                }
                told(printer, &watch(printer, &client, run, signals).await?)
            }
            Command::Stop { job } => printer.changed(&client.stop_job(&job).await?),
            Command::DryRun { job } => printer.show(&client.plan_job(&job).await?, job_show::plan),
            Command::History { job } => printer.list(&client.runs(None, Some(&job)).await?, backup::table),
            Command::Remove { job } => Ok(client.remove_job(&job).await?),
        }
    }
}

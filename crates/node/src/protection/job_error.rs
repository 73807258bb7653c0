//! What is wrong with a job, with what is asked of it, or with the mail by which it tells how it went.

use nestling_model::{JobName, RepositoryName, protection::JobInvalid};

use crate::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Invalid(#[from] JobInvalid),
    #[error("job '{job}' is under way already: run {run}")]
    Runs { job: JobName, run: u64 },
    #[error("job '{0}' is not under way")]
    Idle(JobName),
    #[error("job '{job}' is followed by job '{by}'")]
    Followed { job: JobName, by: JobName },
    #[error("repository '{repository}' is used by job '{job}'")]
    NeedsRepository { job: JobName, repository: RepositoryName },
    #[error("mail cannot be sent: this host knows no mail server")]
    NoMailServer,
    #[error("{0}")]
    Mail(String),
    #[error("the mail server is used by job '{0}'")]
    NeedsMailServer(JobName),
}

impl JobError {
    pub fn code(&self) -> ErrorKind {
        match self {
            Self::Invalid(JobInvalid::Name(_)) => ErrorKind::Exists,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Idle(_) => ErrorKind::InvalidState,
            Self::NoMailServer => ErrorKind::Requirement,
            Self::Mail(_) => ErrorKind::Failed,
            Self::Runs { .. }
            | Self::Followed { .. }
            | Self::NeedsRepository { .. }
            | Self::NeedsMailServer(_) => ErrorKind::InUse,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid(_) | Self::Idle(_) | Self::Mail(_) => None,
            Self::Runs { job, .. } => Some(format!("wait for its end, or end it: nestling job stop '{job}'")),
            Self::Followed { by, .. } => {
                Some(format!("change that one first: nestling job set '{by}' --clear after"))
            }
            Self::NoMailServer => {
                Some("tell it one: nestling mail set --server HOST --from ADDRESS".to_owned())
            }
            Self::NeedsMailServer(job) => {
                Some(format!("take its addresses away first: nestling job set '{job}' --clear mails"))
            }
            Self::NeedsRepository { job, .. } => {
                Some(format!("give it another one first, or remove it: nestling job remove '{job}'"))
            }
        }
    }

    /// The job concerned.
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Invalid(_) | Self::NoMailServer | Self::Mail(_) => None,
            Self::Idle(job)
            | Self::NeedsMailServer(job)
            | Self::Runs { job, .. }
            | Self::Followed { job, .. }
            | Self::NeedsRepository { job, .. } => Some(job.to_string()),
        }
    }
}

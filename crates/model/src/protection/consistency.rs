//! What a guest's disks are worth at the instant of a backup.

use serde::{Deserialize, Serialize};

use super::script::{Command, CommandInvalid, SCRIPTS_MAX};

/// The longest that a guest may be asked to stay frozen, in seconds. Windows ends a freeze itself after ten.
pub const FREEZE_SECONDS_MAX: u32 = 60;
pub const MOUNT_POINTS_MAX: usize = 64;
pub const MOUNT_POINT_BYTES_MAX: usize = 1024;
pub const APPLICATIONS_MAX: usize = 16;
/// What a guest tells of an application before the instant, and is handed back to it when its logs are cut.
pub const NOTES_MAX: usize = 64;
pub const NOTE_BYTES_MAX: usize = 1024;

/// What happens when something could not be done as asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// The backup goes on, and says so.
    #[default]
    Warn,
    /// There is no backup.
    Fail,
}

/// How a guest's file systems are stopped for the instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Freeze {
    /// From the wish to freeze to the thaw, in seconds. Past it the guest is thawed and the freeze has failed.
    pub seconds_max: u32,
    /// Where the file systems are mounted in the guest; empty: all that can be frozen.
    pub mount_points: Vec<String>,
}

impl Default for Freeze {
    fn default() -> Self {
        Self { seconds_max: 10, mount_points: Vec::new() }
    }
}

/// What a Windows guest's applications are told about a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VssMode {
    /// Somebody else's chain of backups is left alone.
    #[default]
    Copy,
    /// This is the backup that counts: applications may cut their logs.
    Full,
}

/// An application that is known well enough to be made ready without scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Application {
    PostgreSql {
        /// Whether archived logs are removed that the backup has made needless.
        #[serde(default)]
        cut_logs: bool,
        /// The guest's directory of archived logs, which are then cut in any case; `None`: the one that the server's
        /// archive_command names.
        #[serde(default)]
        cut_archive: Option<String>,
    },
    /// MySQL, too.
    MariaDb {
        /// Whether binary logs are removed that the backup has made needless.
        #[serde(default)]
        cut_logs: bool,
    },
    Vss {
        #[serde(default)]
        mode: VssMode,
    },
    /// Each database above that runs in the guest.
    Found {
        /// Whether their logs are removed that the backup has made needless.
        #[serde(default)]
        cut_logs: bool,
    },
}

/// What is done in the guest so that its disks are worth more than after a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// Nothing: as after a power cut.
    Crash,
    /// File systems are written out and frozen through the guest agent.
    FileSystem {
        #[serde(default)]
        freeze: Freeze,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Applications are made ready, too, and told when it is over.
    Application {
        #[serde(default)]
        freeze: Freeze,
        #[serde(default)]
        applications: Vec<Application>,
        /// Programs in the guest: before the freeze, after the thaw, and after the backup is durable (to cut logs).
        #[serde(default)]
        before: Vec<Command>,
        #[serde(default)]
        after: Vec<Command>,
        #[serde(default)]
        after_durable: Vec<Command>,
        #[serde(default)]
        on_failure: OnFailure,
    },
}

impl Default for Consistency {
    fn default() -> Self {
        Self::FileSystem { freeze: Freeze::default(), on_failure: OnFailure::Warn }
    }
}

/// Why a guest cannot be treated so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyInvalid {
    #[error("a guest may be frozen for 1 to {FREEZE_SECONDS_MAX} seconds; {0} were asked for")]
    Seconds(u32),
    #[error(
        "at most {MOUNT_POINTS_MAX} mount points can be frozen, each of at most {MOUNT_POINT_BYTES_MAX} bytes without control characters"
    )]
    MountPoints,
    #[error(
        "the consistency of applications was asked for, but no application and no script; name one, or ask for that of file systems"
    )]
    NoApplication,
    #[error("at most {APPLICATIONS_MAX} applications can be made ready, each kind once")]
    Applications,
    #[error("applications are found by themselves or named, and not both")]
    FoundAndNamed,
    #[error(
        "the directory of archived logs is given with its whole path, from /, without control characters"
    )]
    Archive,
    #[error("a script in the guest cannot be run")]
    Script(#[source] CommandInvalid),
}

impl Freeze {
    fn validate(&self) -> Result<(), ConsistencyInvalid> {
        if self.seconds_max == 0 || self.seconds_max > FREEZE_SECONDS_MAX {
            return Err(ConsistencyInvalid::Seconds(self.seconds_max));
        }
        if self.mount_points.len() > MOUNT_POINTS_MAX || !self.mount_points.iter().all(|path| is_path(path)) {
            return Err(ConsistencyInvalid::MountPoints);
        }
        Ok(())
    }
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOUNT_POINT_BYTES_MAX && !text.contains(char::is_control)
}

impl Consistency {
    pub fn validate(&self) -> Result<(), ConsistencyInvalid> {
        match self {
            Self::Crash => Ok(()),
            Self::FileSystem { freeze, .. } => freeze.validate(),
            Self::Application { freeze, applications, before, after, after_durable, .. } => {
                freeze.validate()?;
                let scripts = [before, after, after_durable];
                if applications.is_empty() && scripts.iter().all(|scripts| scripts.is_empty()) {
                    return Err(ConsistencyInvalid::NoApplication);
                }
                validate_applications(applications)?;
                for scripts in scripts {
                    if scripts.len() > SCRIPTS_MAX {
                        return Err(ConsistencyInvalid::Script(CommandInvalid::TooMany));
                    }
                    for script in scripts {
                        script.validate_in_guest().map_err(ConsistencyInvalid::Script)?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn validate_applications(applications: &[Application]) -> Result<(), ConsistencyInvalid> {
    let kind = std::mem::discriminant::<Application>;
    if applications.len() > APPLICATIONS_MAX {
        return Err(ConsistencyInvalid::Applications);
    }
    for (number, application) in applications.iter().enumerate() {
        if applications[..number].iter().any(|other| kind(other) == kind(application)) {
            return Err(ConsistencyInvalid::Applications);
        }
        let is_found = matches!(application, Application::Found { .. });
        if is_found && applications.len() > 1 {
            return Err(ConsistencyInvalid::FoundAndNamed);
        }
        if let Application::PostgreSql { cut_archive: Some(directory), .. } = application
            && !(directory.starts_with('/') && is_path(directory))
        {
            return Err(ConsistencyInvalid::Archive);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(applications: Vec<Application>) -> Consistency {
        Consistency::Application {
            freeze: Freeze::default(),
            applications,
            before: Vec::new(),
            after: Vec::new(),
            after_durable: Vec::new(),
            on_failure: OnFailure::Fail,
        }
    }

    #[test]
    fn what_cannot_be_asked_of_a_guest_is_refused() {
        assert_eq!(Consistency::default().validate(), Ok(()));
        assert_eq!(application(Vec::new()).validate(), Err(ConsistencyInvalid::NoApplication));
        let vss = |mode| Application::Vss { mode };
        assert_eq!(application(vec![vss(VssMode::Copy)]).validate(), Ok(()));
        assert_eq!(
            application(vec![vss(VssMode::Copy), vss(VssMode::Full)]).validate(),
            Err(ConsistencyInvalid::Applications)
        );
        let both = vec![Application::Found { cut_logs: true }, Application::MariaDb { cut_logs: true }];
        assert_eq!(application(both).validate(), Err(ConsistencyInvalid::FoundAndNamed));
        let relative = Application::PostgreSql { cut_logs: true, cut_archive: Some("wal".to_owned()) };
        assert_eq!(application(vec![relative]).validate(), Err(ConsistencyInvalid::Archive));
        let freeze = Freeze { seconds_max: 61, mount_points: Vec::new() };
        let long = Consistency::FileSystem { freeze, on_failure: OnFailure::Warn };
        assert_eq!(long.validate(), Err(ConsistencyInvalid::Seconds(61)));
    }
}

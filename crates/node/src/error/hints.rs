//! What to do next: about states, backups and recovery.

use nestling_model::{Operation, VmName, VmState};
use nestling_vault::VaultError;

use super::{NodeError, Object};

impl NodeError {
    pub(super) fn recovery_hint(&self) -> Option<String> {
        match self {
            Self::NameTaken { is_own: true, .. } => Some(
                "give the new machine another name (--name NAME), or recover over the disks of the one that is here \
                 (recover vm --in-place)"
                    .to_owned(),
            ),
            Self::NameTaken { is_own: false, .. } => {
                Some("give the new machine another name: --name NAME".to_owned())
            }
            Self::NotFound { object: Object::Repository, .. } => {
                Some("`nestling repository list` shows those that this host knows".to_owned())
            }
            Self::NoPoint { vm, earlier: 1.. } => Some(format!(
                "`nestling backup points '{vm}' --earlier` shows them; '{vm}@earlier' is the newest of them"
            )),
            Self::NotFound { object: Object::Point, .. } | Self::NoPoint { .. } => {
                Some("`nestling backup points` lists them".to_owned())
            }
            Self::Vault { repository, source } if matches!(**source, VaultError::WrongPassword { .. }) => Some(format!(
                "give the right one: nestling repository set '{repository}' --password-file FILE"
            )),
            Self::NotFound { object: Object::Job, .. } => Some("`nestling job list` shows those that there are".to_owned()),
            Self::NotFound { object: Object::MailServer, .. } => {
                Some("tell it one: nestling mail set --server HOST --from ADDRESS".to_owned())
            }
            Self::Job(error) => error.hint(),
            Self::Exchange(error) => error.hint(),
            Self::BackupRuns { run, .. } => {
                Some(format!("wait for its end, or end it: nestling backup cancel {run}"))
            }
            Self::PointDamaged { .. } => Some(
                "other points may be whole: `nestling backup points` lists them, `nestling vault verify` tells what is damaged"
                    .to_owned(),
            ),
            Self::HalfRecovered { .. } => Some(
                "recover it again, from this point or another one: nestling recover vm POINT --in-place".to_owned(),
            ),
            Self::RunsFromVault { vm } => Some(format!(
                "bring them over: nestling recover finish '{vm}'; or throw it away: nestling recover discard '{vm}'"
            )),
            Self::Recovering { recovery, .. } => {
                Some(format!("wait for its end, or end it: nestling recover cancel {recovery}"))
            }
            Self::Freeze { .. } => Some(
                "install and start qemu-guest-agent in the guest, or back it up with --crash-consistent".to_owned(),
            ),
            _ => None,
        }
    }
}

/// In what state it is, and what gets it into another one.
pub(super) fn state_hint(vm: &VmName, state: VmState, operation: Operation) -> String {
    match (operation, state) {
        (Operation::ModifyWhenOff, VmState::Saved) => {
            format!(
                "'{vm}' is {state}; start it and shut it down, or give up what is saved: nestling vm remove-saved-state '{vm}'"
            )
        }
        (Operation::ModifyWhenOff, VmState::Running | VmState::Paused) => {
            format!("'{vm}' is {state}; turn it off first: nestling vm turn-off '{vm}'")
        }
        _ => format!("'{vm}' is {state}"),
    }
}

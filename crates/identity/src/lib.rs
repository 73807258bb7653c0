//! Who asks, and whether they may.
//!
//! Every use case of the node asks here first. The crate decides and never acts: it must not read files, look users up
//! or know how a request arrived. Accounts, directory logins and roles of their own come here later; until then there
//! are two roles, and `table.txt` beside this file says what each may do.

use std::fmt;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A user of this host, as the kernel tells of the other end of the node's socket.
    Local { uid: u32 },
    /// The node one level up, over the guest channel. Whoever owns a machine's memory and disks rules it anyway.
    Parent,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "user {uid}"),
            Self::Parent => f.write_str("the host above"),
        }
    }
}

/// What can be asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    ReadHost,
    ChangeHost,
    StopNode,
    WatchEvents,
    ReadVms,
    CreateVm,
    ChangeVm,
    OperateVm,
    RemoveVm,
    UseConsole,
    UseGuest,
    /// Speak to the node inside a machine.
    ReachInside,
    ReadNetworks,
    ChangeNetworks,
    ReadDisks,
    ChangeDisks,
    ReadImages,
    ChangeImages,
    /// Repositories, runs and recovery points.
    ReadBackups,
    RunBackups,
    /// Add, change and remove backup jobs, with the programs that they run on the host.
    ChangeJobs,
    /// Keep, mark and remove recovery points.
    ChangePoints,
    /// Add, change and forget repositories, with what opens them.
    ChangeVaults,
}

impl Action {
    pub const ALL: [Self; 23] = [
        Self::ReadHost,
        Self::ChangeHost,
        Self::StopNode,
        Self::WatchEvents,
        Self::ReadVms,
        Self::CreateVm,
        Self::ChangeVm,
        Self::OperateVm,
        Self::RemoveVm,
        Self::UseConsole,
        Self::UseGuest,
        Self::ReachInside,
        Self::ReadNetworks,
        Self::ChangeNetworks,
        Self::ReadDisks,
        Self::ChangeDisks,
        Self::ReadImages,
        Self::ChangeImages,
        Self::ReadBackups,
        Self::RunBackups,
        Self::ChangeJobs,
        Self::ChangePoints,
        Self::ChangeVaults,
    ];
}

/// What an identity is to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Administrator,
    /// Anyone else on this host.
    Stranger,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Administrator, Self::Stranger];

    /// Not a word more than a stranger needs: names and addresses of machines are their owner's business.
    pub const fn may(self, _action: Action) -> bool {
        matches!(self, Self::Administrator)
    }
}

/// The refusal, in Hyper-V's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("You do not have the required permission to complete this task.")]
pub struct Denied {
    pub who: Identity,
    pub action: Action,
}

/// Decides for a node that runs as `node_uid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    pub node_uid: u32,
}

impl Authority {
    pub const fn role(self, who: &Identity) -> Role {
        match who {
            Identity::Parent => Role::Administrator,
            Identity::Local { uid } if *uid == 0 || *uid == self.node_uid => Role::Administrator,
            Identity::Local { .. } => Role::Stranger,
        }
    }

    pub const fn authorize(self, who: &Identity, action: Action) -> Result<(), Denied> {
        if self.role(who).may(action) { Ok(()) } else { Err(Denied { who: *who, action }) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// The table is reviewed as text: whoever changes a right sees it in the difference.
    #[test]
    fn the_table_of_rights_is_the_committed_one() {
        let mut table = format!("{:<16}", "action");
        for role in Role::ALL {
            write!(table, "{:<15}", format!("{role:?}")).unwrap();
        }
        table = format!("{}\n", table.trim_end());
        for action in Action::ALL {
            let mut line = format!("{:<16}", format!("{action:?}"));
            for role in Role::ALL {
                write!(line, "{:<15}", if role.may(action) { "yes" } else { "no" }).unwrap();
            }
            writeln!(table, "{}", line.trim_end()).unwrap();
        }
        assert_eq!(table, include_str!("table.txt"), "the table now is:\n{table}");
    }

    #[test]
    fn root_the_nodes_own_user_and_the_parent_are_administrators() {
        let authority = Authority { node_uid: 1000 };
        for who in [Identity::Local { uid: 0 }, Identity::Local { uid: 1000 }, Identity::Parent] {
            assert_eq!(authority.role(&who), Role::Administrator, "{who}");
        }
        let stranger = Identity::Local { uid: 1001 };
        let denied = authority.authorize(&stranger, Action::ReadVms).unwrap_err();
        assert_eq!(denied, Denied { who: stranger, action: Action::ReadVms });
        assert_eq!(denied.to_string(), "You do not have the required permission to complete this task.");
    }
}

//! Use cases on switches.

use std::sync::Arc;

use nestling_identity::{Action, Identity};
use nestling_model::{EventKind, Switch, SwitchId, SwitchKind};
use nestling_store::Batch;
use tokio::sync::OwnedRwLockReadGuard;
use uuid::Uuid;

use super::{Decided, Defined};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    values::{NewSwitch, SwitchChange, SwitchKindName, SwitchView},
};

impl Node {
    pub async fn switches(&self, who: &Identity) -> Result<Vec<SwitchView>> {
        self.authorize(who, Action::ReadNetworks)?;
        let mut switches = self.networks.defined().switches.clone();
        switches.sort_by_key(|s| s.name.key());
        Ok(switches.into_iter().map(|s| self.switch_view(s)).collect())
    }

    pub async fn switch(&self, who: &Identity, name: &str) -> Result<SwitchView> {
        self.authorize(who, Action::ReadNetworks)?;
        let switch = self.networks.defined().switch(name)?.clone();
        Ok(self.switch_view(switch))
    }

    pub async fn create_switch(&self, who: &Identity, new: NewSwitch) -> Result<SwitchView> {
        self.authorize(who, Action::ChangeNetworks)?;
        let switch = self
            .networks
            .change(move |old, _| {
                let NewSwitch { name, kind, notes } = new;
                if old.switches.iter().any(|s| s.name == name) {
                    return Err(NodeError::Exists { object: Object::Switch, name: name.to_string() });
                }
                let switch = Switch { id: free_id(old), name, kind, notes, addresses: Vec::new() };
                let mut defined = old.clone();
                defined.switches.push(switch.clone());
                let mut batch = Batch::default();
                batch.put(&switch)?;
                Ok(Decided { defined, home: None, batch, answer: switch })
            })
            .await?;
        let message = format!("{} switch created", switch.kind.as_str());
        self.events.tell(EventKind::SwitchCreated, switch.name.as_str(), message);
        Ok(self.switch_view(switch))
    }

    pub async fn change_switch(
        &self,
        who: &Identity,
        name: &str,
        change: SwitchChange,
    ) -> Result<SwitchView> {
        self.authorize(who, Action::ChangeNetworks)?;
        let name = name.to_owned();
        let switch = self
            .networks
            .change(move |old, _| {
                let before = old.switch(&name)?;
                let after = changed(before, change)?;
                let taken = old.switches.iter().any(|s| s.id != after.id && s.name == after.name);
                if taken {
                    return Err(NodeError::Exists { object: Object::Switch, name: after.name.to_string() });
                }
                let mut defined = old.clone();
                for switch in defined.switches.iter_mut().filter(|s| s.id == after.id) {
                    *switch = after.clone();
                }
                let mut batch = Batch::default();
                batch.put(&after)?;
                Ok(Decided { defined, home: None, batch, answer: after })
            })
            .await?;
        self.events.tell(EventKind::SwitchChanged, switch.name.as_str(), "switch changed");
        Ok(self.switch_view(switch))
    }

    pub async fn remove_switch(&self, who: &Identity, name: &str) -> Result<()> {
        self.authorize(who, Action::ChangeNetworks)?;
        let nobody_plugs_in = Arc::clone(&self.networks.plugs).write_owned().await;
        let switch = self.networks.defined().switch(name)?.clone();
        let user = self
            .vms
            .all()
            .into_iter()
            .find(|now| now.vm.adapters.iter().any(|adapter| adapter.switch == Some(switch.id)));
        if let Some(user) = user {
            let vm = user.vm.name.clone();
            return Err(NodeError::SwitchInUse { switch: switch.name.to_string(), vm });
        }
        let id = switch.id;
        self.networks
            .change(move |old, _| {
                let mut defined = old.clone();
                defined.switches.retain(|s| s.id != id);
                let mut batch = Batch::default();
                batch.delete::<Switch>(id.0.to_string());
                // Kept until the switch is gone.
                Ok(Decided { defined, home: None, batch, answer: nobody_plugs_in })
            })
            .await?;
        self.events.tell(EventKind::SwitchRemoved, switch.name.as_str(), "switch removed");
        Ok(())
    }

    fn switch_view(&self, switch: Switch) -> SwitchView {
        SwitchView { bridge: self.networks.tag().bridge(switch.id), switch }
    }
}

/// An id whose first octets, of which the interface's name is made, no other switch has.
fn free_id(defined: &Defined) -> SwitchId {
    loop {
        let id = Uuid::new_v4();
        if !defined.switches.iter().any(|s| s.id.0.as_bytes()[..4] == id.as_bytes()[..4]) {
            return SwitchId(id);
        }
    }
}

fn changed(before: &Switch, change: SwitchChange) -> Result<Switch> {
    let mut after = before.clone();
    if let Some(name) = change.name {
        after.name = name;
    }
    if let Some(notes) = change.notes {
        after.notes = notes;
    }
    let (uplink, host) = match &before.kind {
        SwitchKind::External { uplink, allow_management_os } => (Some(uplink.clone()), *allow_management_os),
        _ => (None, true),
    };
    // Naming an uplink makes a switch External, as Set-VMSwitch -NetAdapterName does.
    let kind = match (change.kind, &change.uplink, &before.kind) {
        (Some(kind), ..) => kind,
        (None, Some(_), _) | (None, None, SwitchKind::External { .. }) => SwitchKindName::External,
        (None, None, SwitchKind::Internal) => SwitchKindName::Internal,
        (None, None, SwitchKind::Private) => SwitchKindName::Private,
    };
    after.kind = match kind {
        SwitchKindName::Private => SwitchKind::Private,
        SwitchKindName::Internal => SwitchKind::Internal,
        SwitchKindName::External => SwitchKind::External {
            uplink: change.uplink.or(uplink).ok_or_else(|| {
                NodeError::invalid("an External switch needs a network adapter of the host (-NetAdapterName)")
            })?,
            allow_management_os: change.allow_management_os.unwrap_or(host),
        },
    };
    if after.host_interface().is_none() && !after.addresses.is_empty() {
        after.addresses.clear();
    }
    Ok(after)
}

impl Node {
    /// The id of a switch that a machine is to be plugged into. The answer keeps the switch from being removed.
    pub(crate) async fn plug(&self, name: &str) -> Result<(SwitchId, OwnedRwLockReadGuard<()>)> {
        let guard = Arc::clone(&self.networks.plugs).read_owned().await;
        let id = Arc::clone(&self.networks.defined()).switch(name)?.id;
        Ok((id, guard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(kind: SwitchKind) -> Switch {
        Switch {
            id: SwitchId(Uuid::from_u128(1)),
            name: "s".parse().unwrap(),
            kind,
            notes: String::new(),
            addresses: Vec::new(),
        }
    }

    fn external(uplink: &str, allow_management_os: bool) -> SwitchKind {
        SwitchKind::External { uplink: uplink.to_owned(), allow_management_os }
    }

    #[test]
    fn a_kind_changes_with_what_belongs_to_it() {
        let cases = [
            (SwitchKind::Internal, SwitchChange::default(), SwitchKind::Internal),
            (
                SwitchKind::Internal,
                SwitchChange { uplink: Some("eth0".into()), ..SwitchChange::default() },
                external("eth0", true),
            ),
            (
                external("eth0", true),
                SwitchChange { allow_management_os: Some(false), ..SwitchChange::default() },
                external("eth0", false),
            ),
            (
                external("eth0", false),
                SwitchChange { uplink: Some("eth1".into()), ..SwitchChange::default() },
                external("eth1", false),
            ),
            (
                external("eth0", false),
                SwitchChange { kind: Some(SwitchKindName::Private), ..SwitchChange::default() },
                SwitchKind::Private,
            ),
        ];
        for (before, change, after) in cases {
            assert_eq!(changed(&switch(before), change).unwrap().kind, after);
        }
        let no_uplink = SwitchChange { kind: Some(SwitchKindName::External), ..SwitchChange::default() };
        assert!(changed(&switch(SwitchKind::Internal), no_uplink).is_err());
    }
}

//! Use cases on a machine's network adapters; all of them also while it runs.
//!
//! The order of a change on a running machine: the host's port first, then the engine, then the definition. What fails
//! is taken back in the opposite order. What is claimed for a change is held by the question to the machine's task, so
//! that it stays claimed when whoever asked has gone away.

use nestling_identity::{Action, Identity};
use nestling_model::{
    Adapter, AdapterId, MacAddress, Operation, SwitchId, Vm, VmState,
    adapter::{ADAPTERS_MAX, DEFAULT_NAME},
};
use nestling_network::Port;

use super::{owner::Owner, task::Asked};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    values::{AdapterChange, AdapterView, MacChoice, NewAdapter},
};

const NAME_CHARS_MAX: usize = 100;

impl Node {
    pub async fn add_adapter(&self, who: &Identity, vm: &str, new: NewAdapter) -> Result<AdapterView> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        let name = new.name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        check_name(&name)?;
        let plugged = match &new.switch {
            Some(switch) => Some(self.plug(switch).await?),
            None => None,
        };
        let id = self.vms.free_adapter_id();
        let (mac, claim) = match new.mac {
            Some(mac) => (mac, self.vms.claim_mac(mac, id)?),
            None => self.vms.claim_dynamic_mac(self.tag())?,
        };
        let adapter = Adapter {
            id,
            name,
            mac,
            mac_dynamic: new.mac.is_none(),
            switch: plugged.as_ref().map(|(id, _)| *id),
            mac_spoofing: false,
            dhcp_guard: false,
            router_guard: false,
        };
        let held = (claim, plugged);
        handle
            .ask(Operation::Modify, move |owner| {
                Box::pin(async move {
                    let _held = held;
                    owner.add_adapter(adapter).await
                })
            })
            .await?;
        self.adapter_view(&handle.now(), id)
    }

    pub async fn change_adapter(
        &self,
        who: &Identity,
        vm: &str,
        id: AdapterId,
        change: AdapterChange,
    ) -> Result<AdapterView> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        if let Some(name) = &change.name {
            check_name(name)?;
        }
        let plugged = match change.switch.as_ref().and_then(Option::as_ref) {
            Some(switch) => Some(self.plug(switch).await?),
            None => None,
        };
        let mac = match change.mac {
            Some(MacChoice::Static(mac)) => Some((mac, false, self.vms.claim_mac(mac, id)?)),
            Some(MacChoice::Dynamic) => {
                let (mac, claim) = self.vms.claim_dynamic_mac(self.tag())?;
                Some((mac, true, claim))
            }
            None => None,
        };
        let new_mac = mac.as_ref().map(|(mac, dynamic, _)| (*mac, *dynamic));
        let switch = change.switch.is_some().then(|| plugged.as_ref().map(|(id, _)| *id));
        let held = (mac, plugged);
        handle
            .ask(Operation::Modify, move |owner| {
                Box::pin(async move {
                    let _held = held;
                    owner.change_adapter(id, |adapter| edit(adapter, change, switch, new_mac)).await
                })
            })
            .await?;
        self.adapter_view(&handle.now(), id)
    }

    pub async fn remove_adapter(&self, who: &Identity, vm: &str, id: AdapterId) -> Result<()> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        handle.ask(Operation::Modify, move |owner| Box::pin(owner.remove_adapter(id))).await
    }
}

fn edit(
    adapter: &mut Adapter,
    change: AdapterChange,
    switch: Option<Option<SwitchId>>,
    mac: Option<(MacAddress, bool)>,
) {
    if let Some(name) = change.name {
        adapter.name = name;
    }
    if let Some(switch) = switch {
        adapter.switch = switch;
    }
    if let Some((mac, dynamic)) = mac {
        (adapter.mac, adapter.mac_dynamic) = (mac, dynamic);
    }
    adapter.mac_spoofing = change.mac_spoofing.unwrap_or(adapter.mac_spoofing);
    adapter.dhcp_guard = change.dhcp_guard.unwrap_or(adapter.dhcp_guard);
    adapter.router_guard = change.router_guard.unwrap_or(adapter.router_guard);
}

pub fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(NodeError::Invalid(format!(
            "a network adapter's name has 1 to {NAME_CHARS_MAX} characters and no line breaks"
        )));
    }
    Ok(())
}

fn ports(adapters: &[Adapter]) -> Vec<Port> {
    adapters.iter().map(Port::from).collect()
}

impl Owner {
    /// The devices of a saved machine are those that it was saved with.
    pub fn admit_device_change(&self) -> Result<()> {
        self.admit(Operation::Modify)?;
        match self.vm.state {
            VmState::Saved => Err(Asked::from(Operation::Modify).refuse(&self.vm, VmState::Saved)),
            _ => Ok(()),
        }
    }

    fn adapter(&self, id: AdapterId) -> Result<&Adapter> {
        let missing = || NodeError::NotFound { object: Object::Adapter, name: id.0.to_string() };
        self.vm.adapters.iter().find(|a| a.id == id).ok_or_else(missing)
    }

    async fn add_adapter(&mut self, adapter: Adapter) -> Result<()> {
        self.admit_device_change()?;
        if self.vm.adapters.len() >= ADAPTERS_MAX {
            return Err(NodeError::Invalid(format!(
                "'{}' has {ADAPTERS_MAX} network adapters, and no machine has more",
                self.vm.name
            )));
        }
        let id = adapter.id;
        let mut vm = self.vm.clone();
        vm.adapters.push(adapter);
        if self.vm.state.has_engine() {
            self.plug_in(&vm, id).await?;
        }
        if let Err(error) = self.commit(vm).await {
            if self.vm.state.has_engine() {
                self.unplug(id).await?;
            }
            return Err(error);
        }
        Ok(())
    }

    async fn plug_in(&mut self, vm: &Vm, id: AdapterId) -> Result<()> {
        let has_ports = self.node.networks.set_ports(vm.id, ports(&vm.adapters)).await?;
        let tap = has_ports.then(|| self.node.networks.tag().tap(id));
        let Some(adapter) = vm.adapters.iter().find(|a| a.id == id) else { return Ok(()) };
        if let Err(error) = self.machine()?.add_adapter(adapter, tap.as_deref()).await {
            self.node.networks.set_ports(vm.id, ports(&self.vm.adapters)).await?;
            return Err(self.refused(error));
        }
        Ok(())
    }

    /// Takes an adapter from the engine, and its port from the host.
    async fn unplug(&mut self, id: AdapterId) -> Result<()> {
        self.machine()?.remove_adapter(id).await.map_err(|e| self.refused(e))?;
        let left: Vec<Adapter> = self.vm.adapters.iter().filter(|a| a.id != id).cloned().collect();
        self.node.networks.set_ports(self.vm.id, ports(&left)).await?;
        Ok(())
    }

    async fn change_adapter(&mut self, id: AdapterId, edit: impl FnOnce(&mut Adapter) + Send) -> Result<()> {
        self.admit(Operation::Modify)?;
        let before = self.adapter(id)?.clone();
        let mut after = before.clone();
        edit(&mut after);
        if after.mac != before.mac && self.vm.state != VmState::Off {
            return Err(Asked::from(Operation::ModifyWhenOff).refuse(&self.vm, self.vm.state));
        }
        let mut vm = self.vm.clone();
        for adapter in vm.adapters.iter_mut().filter(|a| a.id == id) {
            *adapter = after.clone();
        }
        if !self.vm.state.has_engine() {
            return self.commit(vm).await;
        }
        self.node.networks.set_ports(vm.id, ports(&vm.adapters)).await?;
        let (was, is) = (before.switch.is_some(), after.switch.is_some());
        let linked = match was == is {
            true => Ok(()),
            false => self.machine()?.set_link(id, is).await.map_err(|e| self.refused(e)),
        };
        let done = match linked {
            Ok(()) => self.commit(vm).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.node.networks.set_ports(self.vm.id, ports(&self.vm.adapters)).await?;
            if was != is {
                self.machine()?.set_link(id, was).await.map_err(|e| self.refused(e))?;
            }
        }
        done
    }

    async fn remove_adapter(&mut self, id: AdapterId) -> Result<()> {
        self.admit_device_change()?;
        self.adapter(id)?;
        if self.vm.state.has_engine() {
            self.unplug(id).await?;
        }
        let mut vm = self.vm.clone();
        vm.adapters.retain(|a| a.id != id);
        self.commit(vm).await
    }
}

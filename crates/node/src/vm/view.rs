//! Machines as administrators see them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use nestling_identity::{Action, Identity};
use nestling_model::{Adapter, AdapterId};

use super::{guest::refresh, task::Now};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    networks::Defined,
    values::{AdapterStatus, AdapterView, VmView},
};

impl Node {
    pub async fn vms(&self, who: &Identity) -> Result<Vec<VmView>> {
        self.authorize(who, Action::ReadVms)?;
        let mut all = self.vms.all();
        all.sort_by_cached_key(|now| now.vm.name.key());
        Ok(self.views(&all).await)
    }

    pub async fn vm(&self, who: &Identity, vm: &str) -> Result<VmView> {
        self.authorize(who, Action::ReadVms)?;
        let now = self.vms.find(vm)?.now();
        self.look_anew(std::slice::from_ref(&now)).await;
        Ok(self.view(&now))
    }

    /// With what guests and ports last told; nobody is asked.
    pub(crate) fn view(&self, now: &Now) -> VmView {
        view(now, &self.networks.defined(), &self.networks.spoofed_frames())
    }

    async fn views(&self, all: &[Now]) -> Vec<VmView> {
        self.look_anew(all).await;
        let (defined, dropped) = (self.networks.defined(), self.networks.spoofed_frames());
        all.iter().map(|now| view(now, &defined, &dropped)).collect()
    }

    pub(crate) fn adapter_view(&self, now: &Now, id: AdapterId) -> Result<AdapterView> {
        let found = self.view(now).adapters.into_iter().find(|a| a.adapter.id == id);
        found.ok_or_else(|| NodeError::NotFound { object: Object::Adapter, name: id.0.to_string() })
    }

    /// Asks guests for their addresses, and ports for what they dropped.
    async fn look_anew(&self, all: &[Now]) {
        let running = || all.iter().filter_map(|now| Some((now.running.as_ref()?, &now.vm)));
        let adapters: Vec<AdapterId> =
            running().flat_map(|(_, vm)| vm.adapters.iter().map(|a| a.id)).collect();
        if !adapters.is_empty() {
            let guests = join_all(running().map(|(running, _)| refresh(running)));
            tokio::join!(guests, self.networks.count_spoofed_frames(&adapters));
        }
    }
}

fn view(now: &Now, defined: &Defined, dropped: &BTreeMap<AdapterId, u64>) -> VmView {
    let running = now.running.as_ref();
    let adapter = |a: &Adapter| AdapterView {
        switch: defined.switch_name(a.switch),
        status: match (running, a.switch) {
            (None, _) => AdapterStatus::None,
            (Some(_), Some(_)) => AdapterStatus::Ok,
            (Some(_), None) => AdapterStatus::Disconnected,
        },
        addresses: running.map(|r| r.guest.addresses(a.mac)).unwrap_or_default(),
        spoofed_frames_dropped: dropped.get(&a.id).copied().unwrap_or(0),
        adapter: a.clone(),
    };
    VmView {
        memory_assigned_bytes: if running.is_some() { now.vm.memory.startup_bytes } else { 0 },
        cpu_usage_percent: running.map_or(0, |r| r.cpu_usage_percent()),
        uptime_ms: running.map_or(0, |r| r.uptime_ms()),
        engine: running.map(|r| r.engine),
        hosts_nestling: running.is_some_and(|r| r.machine.channel().is_up()),
        adapters: now.vm.adapters.iter().map(adapter).collect(),
        vm: (*now.vm).clone(),
    }
}

//! Adapters and disks that come and go while the machine runs.
//!
//! A removal needs the guest's consent, and a guest that has not yet started or has hung gives none: the device then
//! stays, and the caller is told.

use std::time::Duration;

use nestling_model::{Adapter, AdapterId, Controller, Disk};
use serde_json::json;
use tokio::{sync::broadcast::error::RecvError, time::timeout};

use super::{Machine, MachineError, launch::interface_exists};
use crate::{capture::DiskPlace, cmdline::devices, qmp::QmpError};

/// For a guest to let go of a device, where a guest may be an emulated one inside an emulated one.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(30);

impl Machine {
    /// Plugs in an adapter whose other end is the tap `ifname`, or QEMU's own user-mode network.
    pub async fn add_adapter(&self, adapter: &Adapter, ifname: Option<&str>) -> Result<(), MachineError> {
        ifname.map_or(Ok(()), interface_exists)?;
        let mut record = self.0.record.lock().await;
        record.shape.check_layout()?;
        let slot = match record.slots.get(adapter.id) {
            Some(slot) => slot,
            None => record.slots.take(adapter.id).ok_or(MachineError::NoFreePort)?,
        };
        let netdev = devices::netdev_name(adapter.id);
        let plugged = async {
            self.execute("netdev_add", devices::netdev(adapter.id, ifname)).await?;
            let added = self.execute("device_add", devices::adapter(adapter, slot)).await;
            if added.is_err() {
                self.execute("netdev_del", json!({"id": netdev})).await.ok();
            }
            added
        };
        if let Err(error) = plugged.await {
            record.slots.release(adapter.id);
            return Err(error);
        }
        record.write(&self.0.run).map_err(MachineError::Record)?;
        if adapter.switch.is_none() {
            self.set_link(adapter.id, false).await?;
        }
        Ok(())
    }

    pub async fn remove_adapter(&self, adapter: AdapterId) -> Result<(), MachineError> {
        let mut record = self.0.record.lock().await;
        if record.slots.get(adapter).is_none() {
            return Err(MachineError::NoAdapter);
        }
        self.unplug(&devices::adapter_name(adapter)).await?;
        self.execute("netdev_del", json!({"id": devices::netdev_name(adapter)})).await?;
        record.slots.release(adapter);
        record.write(&self.0.run).map_err(MachineError::Record)
    }

    /// Plugs the adapter's cable in or out.
    pub async fn set_link(&self, adapter: AdapterId, up: bool) -> Result<(), MachineError> {
        self.execute("set_link", json!({"name": devices::adapter_name(adapter), "up": up})).await.map(drop)
    }

    pub async fn add_disk(&self, disk: &Disk) -> Result<(), MachineError> {
        if disk.controller == Controller::Ide {
            return Err(MachineError::NotHotPluggable);
        }
        let mut record = self.0.record.lock().await;
        record.shape.check_layout()?;
        self.execute("blockdev-add", devices::disk_node(disk)?).await?;
        if let Err(error) = self.execute("device_add", devices::disk(disk, None)).await {
            self.drop_node(disk.controller, disk.location).await.ok();
            return Err(error);
        }
        record.disks.push(devices::node_name(disk.controller, disk.location));
        record.disks.sort_unstable();
        record.write(&self.0.run).map_err(MachineError::Record)
    }

    pub async fn remove_disk(&self, controller: Controller, location: u8) -> Result<(), MachineError> {
        if controller == Controller::Ide {
            return Err(MachineError::NotHotPluggable);
        }
        self.not_captured(controller, location)?;
        let mut record = self.0.record.lock().await;
        self.unplug(&devices::disk_name(controller, location)).await?;
        self.drop_node(controller, location).await?;
        let name = devices::node_name(controller, location);
        record.disks.retain(|disk| *disk != name);
        record.write(&self.0.run).map_err(MachineError::Record)
    }

    /// Tells the guest of a disk's new size and makes it so; a disk only grows.
    pub async fn resize_disk(
        &self,
        controller: Controller,
        location: u8,
        bytes: u64,
    ) -> Result<(), MachineError> {
        self.not_captured(controller, location)?;
        let node = devices::node_name(controller, location);
        self.execute("block_resize", json!({"node-name": node, "size": bytes})).await.map(drop)
    }

    /// A capture shows the disk as it was; it can neither grow nor go meanwhile.
    fn not_captured(&self, controller: Controller, location: u8) -> Result<(), MachineError> {
        let disk = DiskPlace { controller, location };
        if self.captures().has(disk) { Err(MachineError::Captured { disk }) } else { Ok(()) }
    }

    async fn drop_node(&self, controller: Controller, location: u8) -> Result<(), MachineError> {
        let node = devices::node_name(controller, location);
        self.execute("blockdev-del", json!({"node-name": node})).await.map(drop)
    }

    async fn unplug(&self, device: &str) -> Result<(), MachineError> {
        let mut events = self.0.qmp.events();
        match self.execute("device_del", json!({"id": device})).await {
            // Asked before, and the guest has not yet answered: go on waiting.
            Err(MachineError::Qmp(QmpError::Refused { reason, .. }))
                if reason.contains("already in the process of unplug") => {}
            // Given up on earlier, and released since.
            Err(MachineError::Qmp(QmpError::Refused { reason, .. })) if reason.contains("not found") => {
                return Ok(());
            }
            asked => drop(asked?),
        }
        let keeps = || MachineError::GuestKeepsDevice { device: device.to_owned(), after: UNPLUG_TIMEOUT };
        let released = async {
            loop {
                match events.recv().await {
                    Ok(event) if event.data["device"] == device => match event.name.as_str() {
                        "DEVICE_DELETED" => return Ok(()),
                        "DEVICE_UNPLUG_GUEST_ERROR" => return Err(keeps()),
                        _ => {}
                    },
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            released = timeout(UNPLUG_TIMEOUT, released) => released.unwrap_or_else(|_| Err(keeps())),
            exit = self.exited() => Err(MachineError::Gone(exit.reason)),
        }
    }
}

//! QEMU's command line for a machine: a pure function of the launch, so that every word of it is tested.
//!
//! Devices are given as JSON wherever QEMU takes it: nothing in a path or a name can then become an option. The layout
//! of the buses is the same for every machine and must not change between versions of this program: saved states and
//! migrations depend on it.

pub(crate) mod devices;
mod firmware;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use nestling_model::{AdapterId, Boot, Generation};
use serde_json::{Value, json};

use crate::{
    Qemu, QemuError,
    probe::Accel,
    spec::{LaunchSpec, RunDir, Slots, SocketPathTooLong},
};

/// Versioned, so that a saved state outlives an upgrade of QEMU.
pub(crate) const MACHINE_TYPE: &str = "pc-q35-7.2";

/// Names of the character devices, as `query-chardev` and events show them.
pub(crate) const AGENT_CHARDEV: &str = "ga";

/// Why no command line can be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("network adapter {} has no interface on this host, and user-mode networking is not wanted", .0.0)]
    NoInterface(AdapterId),
    #[error("the network interface {0} does not exist")]
    InterfaceMissing(String),
    #[error("network adapter {} has no port", .0.0)]
    NoPort(AdapterId),
    #[error("the path {} is not UTF-8, which QEMU needs; rename it", .0.display())]
    NotText(PathBuf),
    #[error(transparent)]
    Firmware(#[from] QemuError),
    #[error(transparent)]
    Socket(#[from] SocketPathTooLong),
}

/// The words after the program's name. The monitor's listening socket is QEMU's standard input.
pub fn command_line(spec: &LaunchSpec, slots: &Slots, qemu: &Qemu) -> Result<Vec<OsString>, SpecError> {
    qemu.check(&spec.vm)?;
    let mut line = Line::default();
    base(&mut line, spec);
    sockets(&mut line, &RunDir::new(&spec.run_dir)?)?;
    firmware::boot(&mut line, spec, qemu.firmware())?;
    line.json("-device", &devices::bridge());
    for device in guest_services() {
        line.json("-device", &device);
    }
    if spec.screen {
        line.json("-device", &devices::screen());
    }
    for adapter in &spec.vm.adapters {
        let slot = slots.get(adapter.id).ok_or(SpecError::NoPort(adapter.id))?;
        line.json("-netdev", &netdev(spec, adapter.id, slot)?);
        line.json("-device", &devices::adapter(adapter, slot));
    }
    for (disk, order) in spec.vm.disks.iter().zip(1..) {
        // With a kernel given, "boot first" is the kernel's own place.
        let bootindex = matches!(spec.vm.boot, Boot::Firmware).then_some(order);
        line.json("-blockdev", &devices::disk_node(disk)?);
        let mut device = devices::disk(disk, bootindex);
        if spec.stop_on_disk_error {
            (device["rerror"], device["werror"]) = (json!("stop"), json!("stop"));
        }
        line.json("-device", &device);
    }
    if spec.restore_from.is_some() {
        line.words(["-incoming", "defer"]);
    }
    Ok(line.0)
}

fn netdev(spec: &LaunchSpec, adapter: AdapterId, slot: u8) -> Result<Value, SpecError> {
    if spec.cables {
        let run = RunDir::new(&spec.run_dir)?;
        return Ok(devices::cable(adapter, text(&run.cable(slot))?, text(&run.neighbour())?));
    }
    let ifname = spec.taps.get(&adapter).map(String::as_str);
    if ifname.is_none() && !spec.user_net {
        return Err(SpecError::NoInterface(adapter));
    }
    Ok(devices::netdev(adapter, ifname))
}

fn base(line: &mut Line, spec: &LaunchSpec) {
    let vm = &spec.vm;
    // Sleep states are a trap: a guest that sleeps looks like one that hangs.
    line.words(["-no-user-config", "-nodefaults", "-display", "none", "-S", "-name"]);
    line.word(format!("nestling-{}", vm.id.0));
    line.words(["-uuid", &vm.id.0.to_string()]);
    let flash = if vm.generation == Generation::Two { ",pflash0=uefi-code,pflash1=uefi-vars" } else { "" };
    line.words(["-machine", &format!("{MACHINE_TYPE},vmport=off,smm=off,graphics=off{flash}")]);
    line.words(["-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"]);
    line.words(["-accel", accel_word(spec.engine.accel)]);
    line.words(["-cpu", &spec.engine.cpu(vm.processor.expose_virtualization_extensions)]);
    let count = vm.processor.count;
    // One socket: editions of guest systems limit sockets, not cores.
    line.words(["-smp", &format!("cpus={count},sockets=1,cores={count},threads=1")]);
    line.words(["-m", &format!("size={}M", vm.memory.startup_bytes >> 20)]);
    line.words(["-rtc", "base=utc", "-msg", "timestamp=on", "-sandbox"]);
    line.word(SANDBOX);
}

/// What QEMU may not do from then on.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

pub(crate) fn accel_word(accel: Accel) -> &'static str {
    if accel == Accel::Tcg { "tcg,thread=multi" } else { "kvm" }
}

fn sockets(line: &mut Line, run: &RunDir) -> Result<(), SpecError> {
    line.words(["-pidfile", text(&run.pid())?]);
    line.words(["-chardev", "socket,id=qmp,fd=0,server=on,wait=off", "-mon", "chardev=qmp,mode=control"]);
    for (id, path) in [("con", run.console()), (AGENT_CHARDEV, run.agent()), ("ch", run.channel())] {
        // A comma ends an option's value unless doubled.
        let path = text(&path)?.replace(',', ",,");
        line.words(["-chardev", &format!("socket,id={id},path={path},server=on,wait=off")]);
    }
    Ok(())
}

/// What every guest has besides its adapters and disks: the console, the ports that its agent and its node use, a source
/// of randomness (without one a guest's first boot can wait for minutes), and the means to give memory back.
fn guest_services() -> [Value; 6] {
    [
        json!({"driver": "isa-serial", "id": "serial", "chardev": "con"}),
        json!({"driver": "virtio-serial-pci", "id": "ports", "bus": "pcie.0", "addr": "0x4", "max_ports": 4,
               "disable-legacy": "on"}),
        json!({"driver": "virtserialport", "id": "agent", "bus": "ports.0", "nr": 1, "chardev": AGENT_CHARDEV,
               "name": "org.qemu.guest_agent.0"}),
        json!({"driver": "virtserialport", "id": "channel", "bus": "ports.0", "nr": 2, "chardev": "ch",
               "name": "org.nestling.channel.0"}),
        devices::rng(),
        json!({"driver": "virtio-balloon-pci", "id": "balloon", "bus": "pcie.0", "addr": "0x6",
               "deflate-on-oom": true, "disable-legacy": "on"}),
    ]
}

pub(crate) fn text(path: &Path) -> Result<&str, SpecError> {
    path.to_str().ok_or_else(|| SpecError::NotText(path.to_owned()))
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn word(&mut self, word: impl AsRef<OsStr>) {
        self.0.push(word.as_ref().to_owned());
    }

    fn words<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(OsString::from));
    }

    fn json(&mut self, option: &str, value: &Value) {
        self.word(option);
        self.word(value.to_string());
    }
}

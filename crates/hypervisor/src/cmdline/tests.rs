use std::{collections::BTreeMap, os::unix::ffi::OsStringExt};

use nestling_model::{
    Adapter, ConfigVersion, Controller, Disk, DiskFormat, Memory, Processor, StartAction, StopAction, Vm,
    VmId, VmState,
};
use uuid::Uuid;

use super::*;
use crate::{
    Firmware,
    probe::{Engine, Nesting},
};

pub(crate) fn vm() -> Vm {
    Vm {
        id: VmId(Uuid::from_u128(0xa1)),
        name: "Server,2016".parse().unwrap(),
        generation: Generation::One,
        version: ConfigVersion::LATEST,
        created_at_ms: 0,
        notes: String::new(),
        tags: Vec::new(),
        processor: Processor { count: 2, expose_virtualization_extensions: false },
        memory: Memory { startup_bytes: 512 << 20 },
        adapters: vec![],
        disks: vec![],
        boot: Boot::Firmware,
        start_action: StartAction::Nothing,
        start_delay_seconds: 0,
        stop_action: StopAction::ShutDown,
        state: VmState::Off,
        state_reason: None,
    }
}

pub(crate) fn adapter(n: u128) -> Adapter {
    Adapter {
        id: AdapterId(Uuid::from_u128(n)),
        name: "Network Adapter".to_owned(),
        mac: "00155D380101".parse().unwrap(),
        mac_dynamic: true,
        switch: None,
        mac_spoofing: false,
        dhcp_guard: false,
        router_guard: false,
    }
}

fn disk(path: &str, controller: Controller, location: u8) -> Disk {
    Disk { path: path.into(), format: DiskFormat::Qcow2, controller, location, read_only: false }
}

fn engine(accel: Accel, nesting: Option<Nesting>) -> Engine {
    let model = if accel == Accel::Tcg { "EPYC-v1,-rdseed" } else { "host" };
    Engine { accel, model: model.to_owned(), nesting, reason: String::new(), remedy: None }
}

fn spec(vm: Vm) -> LaunchSpec {
    LaunchSpec {
        vm,
        run_dir: "/run/n/a1".into(),
        engine: engine(Accel::Tcg, Some(Nesting::Svm)),
        taps: BTreeMap::new(),
        user_net: false,
        cables: false,
        restore_from: None,
        nvram: "/home/n/a1.nvram".into(),
        stop_on_disk_error: false,
        screen: false,
        kernel_append: String::new(),
    }
}

fn qemu() -> Qemu {
    Qemu::fixed(Firmware {
        qboot: Some("/fw/qboot.rom".into()),
        uefi: Some(("/fw/CODE.fd".into(), "/fw/VARS.fd".into())),
    })
}

fn line(spec: &LaunchSpec) -> Vec<String> {
    let words = command_line(spec, &Slots::of(&spec.vm.adapters), &qemu()).unwrap();
    words.into_iter().map(|w| w.into_string().unwrap()).collect()
}

/// The value after an option, which must occur once.
fn value(spec: &LaunchSpec, option: &str) -> String {
    let line = line(spec);
    let mut found = line.iter().zip(&line[1..]).filter(|(o, _)| *o == option).map(|(_, v)| v.clone());
    let value = found.next().unwrap_or_else(|| panic!("no {option}"));
    assert_eq!(found.next(), None, "{option} twice");
    value
}

/// One option a line.
fn shown(spec: &LaunchSpec) -> String {
    let mut text = String::new();
    for word in line(spec) {
        text.push(if word.starts_with('-') { '\n' } else { ' ' });
        text.push_str(&word);
    }
    text.trim().to_owned()
}

const COMMON: &str = r#"-name nestling-00000000-0000-0000-0000-0000000000a1
-uuid 00000000-0000-0000-0000-0000000000a1
MACHINE
-global ICH9-LPC.disable_s3=1
-global ICH9-LPC.disable_s4=1
-accel tcg,thread=multi
-cpu EPYC-v1,-rdseed,-svm,-npt
-smp cpus=2,sockets=1,cores=2,threads=1
-m size=512M
-rtc base=utc
-msg timestamp=on
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-pidfile /run/n/a1/pid
-chardev socket,id=qmp,fd=0,server=on,wait=off
-mon chardev=qmp,mode=control
-chardev socket,id=con,path=/run/n/a1/con.sock,server=on,wait=off
-chardev socket,id=ga,path=/run/n/a1/ga.sock,server=on,wait=off
-chardev socket,id=ch,path=/run/n/a1/ch.sock,server=on,wait=off
BOOT
-device {"driver":"pci-bridge","id":"slots","bus":"pcie.0","addr":"0x1","chassis_nr":1,"shpc":false}
-device {"driver":"isa-serial","id":"serial","chardev":"con"}
-device {"driver":"virtio-serial-pci","id":"ports","bus":"pcie.0","addr":"0x4","max_ports":4,"disable-legacy":"on"}
-device {"driver":"virtserialport","id":"agent","bus":"ports.0","nr":1,"chardev":"ga","name":"org.qemu.guest_agent.0"}
-device {"driver":"virtserialport","id":"channel","bus":"ports.0","nr":2,"chardev":"ch","name":"org.nestling.channel.0"}
-device {"driver":"virtio-rng-pci","id":"rng","bus":"slots","addr":"0x1","disable-legacy":"on"}
-device {"driver":"virtio-balloon-pci","id":"balloon","bus":"pcie.0","addr":"0x6","deflate-on-oom":true,"disable-legacy":"on"}"#;

fn expected(machine: &str, boot: &str, devices: &str) -> String {
    let common = COMMON.replace("MACHINE", machine).replace("BOOT", boot);
    format!("-no-user-config\n-nodefaults\n-display none\n-S\n{common}{devices}")
}

#[test]
fn generation_1_starts_seabios_from_ide() {
    let mut spec = spec(vm());
    spec.vm.disks = vec![
        disk("/d/a,b.qcow2", Controller::Ide, 0),
        Disk { read_only: true, format: DiskFormat::Raw, ..disk("/d/seed.iso", Controller::Ide, 1) },
    ];
    let disks = r#"
-blockdev {"driver":"qcow2","node-name":"ide-0","read-only":false,"discard":"unmap","file":{"driver":"file","filename":"/d/a,b.qcow2","discard":"unmap"}}
-device {"driver":"ide-hd","id":"disk-ide-0","bus":"ide.0","drive":"ide-0","bootindex":1}
-blockdev {"driver":"raw","node-name":"ide-1","read-only":true,"discard":"unmap","file":{"driver":"file","filename":"/d/seed.iso","discard":"unmap"}}
-device {"driver":"ide-cd","id":"disk-ide-1","bus":"ide.1","drive":"ide-1","bootindex":2}"#;
    let machine = "-machine pc-q35-7.2,vmport=off,smm=off,graphics=off";
    assert_eq!(shown(&spec), expected(machine, "-boot strict=on", disks));
}

#[test]
fn generation_2_starts_uefi_with_its_own_variables() {
    let mut spec = spec(vm());
    spec.vm.generation = Generation::Two;
    spec.vm.disks = vec![disk("/d/a.qcow2", Controller::Scsi, 9)];
    let boot = r#"-blockdev {"driver":"file","node-name":"uefi-code","read-only":true,"filename":"/fw/CODE.fd"}
-blockdev {"driver":"file","node-name":"uefi-vars","filename":"/home/n/a1.nvram"}
-boot strict=on"#;
    let disks = r#"
-blockdev {"driver":"qcow2","node-name":"scsi-9","read-only":false,"discard":"unmap","file":{"driver":"file","filename":"/d/a.qcow2","discard":"unmap"}}
-device {"driver":"virtio-blk-pci","id":"disk-scsi-9","bus":"slots","addr":"0x19","disable-legacy":"on","drive":"scsi-9","bootindex":1}"#;
    let machine = "-machine pc-q35-7.2,vmport=off,smm=off,graphics=off,pflash0=uefi-code,pflash1=uefi-vars";
    assert_eq!(shown(&spec), expected(machine, boot, disks));
}

#[test]
fn a_given_kernel_starts_by_qboot_and_leaves_the_disks_no_place_in_the_boot_order() {
    let mut spec = spec(vm());
    spec.vm.boot = Boot::Kernel {
        kernel: "/i/vmlinux".into(),
        initrd: Some("/i/initrd".into()),
        append: "quiet".into(),
    };
    spec.kernel_append = "nestling.x=1".into();
    spec.vm.disks = vec![disk("/d/a.qcow2", Controller::Scsi, 0)];
    spec.vm.adapters = vec![adapter(0xb1), adapter(0xb2)];
    spec.taps.insert(spec.vm.adapters[0].id, "nt0a0b1".into());
    spec.user_net = true;
    let boot = "-bios /fw/qboot.rom\n-kernel /i/vmlinux\n-initrd /i/initrd\n-append quiet nestling.x=1";
    let devices = r#"
-netdev {"type":"tap","id":"net-00000000-0000-0000-0000-0000000000b1","ifname":"nt0a0b1","script":"no","downscript":"no"}
-device {"driver":"virtio-net-pci","id":"nic-00000000-0000-0000-0000-0000000000b1","bus":"slots","addr":"0x8","disable-legacy":"on","netdev":"net-00000000-0000-0000-0000-0000000000b1","mac":"00:15:5d:38:01:01","romfile":""}
-netdev {"type":"user","id":"net-00000000-0000-0000-0000-0000000000b2"}
-device {"driver":"virtio-net-pci","id":"nic-00000000-0000-0000-0000-0000000000b2","bus":"slots","addr":"0x9","disable-legacy":"on","netdev":"net-00000000-0000-0000-0000-0000000000b2","mac":"00:15:5d:38:01:01","romfile":""}
-blockdev {"driver":"qcow2","node-name":"scsi-0","read-only":false,"discard":"unmap","file":{"driver":"file","filename":"/d/a.qcow2","discard":"unmap"}}
-device {"driver":"virtio-blk-pci","id":"disk-scsi-0","bus":"slots","addr":"0x10","disable-legacy":"on","drive":"scsi-0"}"#;
    let machine = "-machine pc-q35-7.2,vmport=off,smm=off,graphics=off";
    assert_eq!(shown(&spec), expected(machine, boot, devices));
}

#[test]
fn a_cable_to_the_node_is_all_that_an_adapter_has() {
    let mut spec = spec(vm());
    spec.vm.boot = Boot::Kernel { kernel: "/i/vmlinux".into(), initrd: None, append: String::new() };
    spec.vm.adapters = vec![adapter(0xb1), adapter(0xb2)];
    spec.taps.insert(spec.vm.adapters[0].id, "nt0a0b1".into());
    (spec.cables, spec.user_net) = (true, true);
    let line = line(&spec);
    let netdevs: Vec<&String> = line.iter().filter(|word| word.starts_with(r#"{"type""#)).collect();
    let one = |id: &str, slot| {
        format!(
            r#"{{"type":"dgram","id":"net-00000000-0000-0000-0000-0000000000{id}","local":{{"type":"unix","path":"/run/n/a1/n{slot}.sock"}},"remote":{{"type":"unix","path":"/run/n/a1/nn.sock"}}}}"#
        )
    };
    assert_eq!(netdevs, [&one("b1", 0), &one("b2", 1)]);
}

#[test]
fn a_display_is_beside_what_every_guest_has_and_lit_from_the_start() {
    let mut spec = spec(vm());
    spec.vm.boot = Boot::Kernel { kernel: "/i/vmlinux".into(), initrd: None, append: "console=ttyS0".into() };
    let without = line(&spec);
    spec.screen = true;
    let with = line(&spec);
    let new: Vec<&String> = with.iter().filter(|word| !without.contains(word)).collect();
    let screen = r#"{"driver":"VGA","id":"screen","bus":"pcie.0","addr":"0x2"}"#;
    assert_eq!(new, [&"console=tty0 console=ttyS0 loglevel=6".to_owned(), &screen.to_owned()]);
    assert!(without.contains(&"-bios".to_owned()) && !with.contains(&"-bios".to_owned()));
}

#[test]
fn adapters_and_disks_up_to_the_last_have_addresses_of_their_own() {
    let mut spec = spec(vm());
    spec.user_net = true;
    spec.vm.adapters = (0..8).map(adapter).collect();
    spec.vm.disks = (0..16).map(|n| disk("/d", Controller::Scsi, n)).collect();
    let address = |word: String| {
        let rest = word.split_once(r#""bus":"slots","addr":""#)?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let addresses: Vec<String> = line(&spec).into_iter().filter_map(address).collect();
    let expected: Vec<String> = [0x1].into_iter().chain(0x8..0x20).map(|n| format!("{n:#x}")).collect();
    assert_eq!(addresses, expected);
}

#[test]
fn extensions_are_on_or_explicitly_off() {
    let mut spec = spec(vm());
    spec.vm.processor.expose_virtualization_extensions = true;
    assert_eq!(value(&spec, "-cpu"), "EPYC-v1,-rdseed,+svm,+npt");
    spec.engine = engine(Accel::Kvm, Some(Nesting::Vmx));
    assert_eq!((value(&spec, "-accel").as_str(), value(&spec, "-cpu").as_str()), ("kvm", "host,+vmx"));
    spec.vm.processor.expose_virtualization_extensions = false;
    assert_eq!(value(&spec, "-cpu"), "host,-vmx");
    spec.engine = engine(Accel::Kvm, Some(Nesting::Svm));
    assert_eq!(value(&spec, "-cpu"), "host,-svm");
}

#[test]
fn an_adapter_goes_back_to_the_port_it_had() {
    let mut spec = spec(vm());
    spec.vm.adapters = vec![adapter(2)];
    spec.user_net = true;
    let mut slots = Slots::of(&[adapter(1), adapter(2)]);
    slots.release(adapter(1).id);
    let words = command_line(&spec, &slots, &qemu()).unwrap();
    assert!(words.iter().any(|w| w.to_str().unwrap().contains(r#""bus":"slots","addr":"0x9""#)));
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let mut kernel = spec(vm());
    kernel.vm.adapters = vec![adapter(1)];
    let slots = Slots::of(&kernel.vm.adapters);
    assert!(matches!(command_line(&kernel, &slots, &qemu()), Err(SpecError::NoInterface(_))));

    let mut uefi = spec(vm());
    uefi.vm.generation = Generation::Two;
    let refused = command_line(&uefi, &Slots::default(), &Qemu::fixed(Firmware::default())).unwrap_err();
    assert!(refused.to_string().contains("apt install ovmf"), "{refused}");

    let mut odd = spec(vm());
    let path = PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
    odd.vm.disks = vec![Disk { path, ..disk("", Controller::Scsi, 0) }];
    assert!(matches!(command_line(&odd, &Slots::default(), &qemu()), Err(SpecError::NotText(_))));
}

#[test]
fn a_comma_in_a_directory_stays_part_of_the_socket_path() {
    let mut spec = spec(vm());
    spec.run_dir = "/run/a,b".into();
    assert!(line(&spec).contains(&"socket,id=con,path=/run/a,,b/con.sock,server=on,wait=off".to_owned()));
}

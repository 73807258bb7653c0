//! A machine that reads disks of others for this host: its QEMU's command.
//!
//! It has a kernel with all it needs in memory, the disks, one port to whoever asks, and nothing else: no network, no
//! monitor, no file that it could write to. Because what it mounts may take its kernel over, and its kernel may find a fault
//! in QEMU, QEMU gets everything as an open descriptor and gives up what it can before it starts: its user (where that was
//! root), its network, all later privileges, and its life when this host's program ends. It is a process of whoever starts
//! the command, and is never found again.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Gid, Resource, Rlimit, Signal, Uid, geteuid, set_parent_process_death_signal, setrlimit},
    stdio::{dup2_stdout, stderr},
    thread::{
        UnshareFlags, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
        unshare_unsafe,
    },
};
use serde_json::json;

use crate::{
    Qemu,
    cmdline::{MACHINE_TYPE, SANDBOX, accel_word},
    probe::{Accel, Engine},
};

/// The user `nobody`, and its group, on every Linux.
const NOBODY: u32 = 65534;
const CPU_SECONDS_MAX: u64 = 4 * 3600;
/// What goes wrong in its kernel ends the machine: what it says from then on is not to be trusted.
const APPEND: &str = "oops=panic";

/// What such a machine is made of.
#[derive(Debug)]
pub struct ReaderSpec {
    pub engine: Engine,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub append: String,
    pub memory_bytes: u64,
    /// The port: its name in the guest, and a connected socket.
    pub port: (&'static str, UnixStream),
    pub disks: Vec<ReaderDisk>,
}

/// A disk that an NBD server gives.
#[derive(Debug)]
pub struct ReaderDisk {
    /// Connected, and nothing was said on it yet.
    pub socket: UnixStream,
    pub export: String,
    /// As the guest tells it from the others: 20 characters at most.
    pub serial: String,
}

/// The command, with all that is given to it. Its standard error is what the guest's kernel and QEMU complain about.
pub fn reader_command(qemu: &Qemu, spec: ReaderSpec) -> io::Result<Command> {
    let open = |path: &Path| {
        File::open(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    };
    let (kernel, initrd) = (open(&spec.kernel)?, open(&spec.initrd)?);
    let (user, accel) = user(spec.engine.accel);
    let cpu = if accel == spec.engine.accel { spec.engine.cpu(false) } else { Engine::tcg_cpu(false) };
    let files = Files {
        kernel: kernel.as_raw_fd(),
        initrd: initrd.as_raw_fd(),
        port: spec.port.1.as_raw_fd(),
        disks: spec.disks.iter().map(|disk| disk.socket.as_raw_fd()).collect(),
    };
    let mut command = Command::new(qemu.system());
    command.args(words(&spec, &files, accel, &cpu, qemu.firmware().qboot.as_deref()));
    command.env_clear().current_dir("/").stdin(Stdio::null());
    let mut given: Vec<OwnedFd> = vec![kernel.into(), initrd.into(), spec.port.1.into()];
    given.extend(spec.disks.into_iter().map(|disk| OwnedFd::from(disk.socket)));
    // SAFETY: only system calls are made, which allocate nothing and take no lock.
    #[expect(unsafe_code, reason = "what a process gives up, it gives up between fork and exec")]
    unsafe {
        command.pre_exec(move || give_up(&given, user.as_ref()));
    }
    Ok(command)
}

struct User {
    groups: Vec<Gid>,
}

/// Who QEMU runs as, unless as whoever we are, and how: KVM only where that user may use it.
fn user(accel: Accel) -> (Option<User>, Accel) {
    if !geteuid().is_root() {
        return (None, accel);
    }
    let device = fs::metadata("/dev/kvm").ok().filter(|_| accel == Accel::Kvm);
    match device {
        Some(device) if device.mode() & 0o006 == 0o006 => (Some(User { groups: Vec::new() }), Accel::Kvm),
        Some(device) if device.mode() & 0o060 == 0o060 && device.gid() != 0 => {
            (Some(User { groups: vec![Gid::from_raw(device.gid())] }), Accel::Kvm)
        }
        _ => (Some(User { groups: Vec::new() }), Accel::Tcg),
    }
}

fn give_up(given: &[OwnedFd], user: Option<&User>) -> io::Result<()> {
    for file in given {
        fcntl_setfd(file, FdFlags::empty())?;
    }
    dup2_stdout(stderr())?;
    if let Some(user) = user {
        // SAFETY: nothing here uses descriptors that another thread could have meant for itself: there is one thread.
        #[expect(unsafe_code, reason = "in a process that was just forked there is one thread")]
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC)?;
        }
        set_thread_groups(&user.groups)?;
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    for (resource, most) in [(Resource::Fsize, 0), (Resource::Core, 0), (Resource::Cpu, CPU_SECONDS_MAX)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    set_no_new_privs(true)?;
    // Of the thread that starts it; after the user was changed, which would undo it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Numbers of open files.
struct Files {
    kernel: i32,
    initrd: i32,
    port: i32,
    disks: Vec<i32>,
}

fn words(spec: &ReaderSpec, files: &Files, accel: Accel, cpu: &str, qboot: Option<&Path>) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-name", "nestling-reader"]);
    add(&["-machine", &format!("{MACHINE_TYPE},vmport=off,smm=off,graphics=off")]);
    add(&["-accel", accel_word(accel), "-cpu", cpu]);
    add(&["-smp", "1", "-m", &format!("size={}M", spec.memory_bytes >> 20), "-rtc", "base=utc", "-sandbox"]);
    add(&[SANDBOX]);
    add(&["-chardev", "stdio,id=con,signal=off", "-device", "isa-serial,chardev=con"]);
    if let Some(qboot) = qboot.and_then(Path::to_str) {
        add(&["-bios", qboot]);
    }
    add(&["-kernel", &format!("/proc/self/fd/{}", files.kernel)]);
    add(&["-initrd", &format!("/proc/self/fd/{}", files.initrd)]);
    add(&["-append", &format!("{} {APPEND}", spec.append)]);
    add(&["-device", "virtio-serial-pci,id=ports,max_ports=2,disable-legacy=on"]);
    add(&["-chardev", &format!("socket,id=port,fd={}", files.port)]);
    let port = json!({"driver": "virtserialport", "bus": "ports.0", "nr": 1, "chardev": "port", "name": spec.port.0});
    add(&["-device", &port.to_string()]);
    for ((disk, file), number) in spec.disks.iter().zip(&files.disks).zip(0..) {
        let node = format!("disk{number}");
        let server = json!({"type": "fd", "str": file.to_string()});
        let source = json!({"driver": "nbd", "node-name": node, "server": server, "export": disk.export});
        let device =
            json!({"driver": "virtio-blk-pci", "drive": node, "serial": disk.serial, "disable-legacy": "on"});
        add(&["-blockdev", &source.to_string(), "-device", &device.to_string()]);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(disks: usize) -> ReaderSpec {
        let socket = || UnixStream::pair().expect("sockets").0;
        let disk = |number: usize| ReaderDisk {
            socket: socket(),
            export: format!("scsi-{number}"),
            serial: format!("disk{number}"),
        };
        ReaderSpec {
            engine: Engine {
                accel: Accel::Tcg,
                model: "EPYC-v1".to_owned(),
                nesting: None,
                reason: String::new(),
                remedy: None,
            },
            kernel: "/images/vmlinux".into(),
            initrd: "/images/initrd.cpio".into(),
            append: "quiet".to_owned(),
            memory_bytes: 1 << 30,
            port: ("org.example", socket()),
            disks: (0..disks).map(disk).collect(),
        }
    }

    #[test]
    fn it_has_its_disks_and_a_port_and_nothing_else() {
        let files = Files { kernel: 3, initrd: 4, port: 5, disks: vec![6, 7] };
        let words = words(&spec(2), &files, Accel::Tcg, "x", Some(Path::new("/q")));
        let line = words.join(" ");
        for part in [
            "-kernel /proc/self/fd/3 -initrd /proc/self/fd/4 -append quiet oops=panic",
            "-chardev socket,id=port,fd=5 ",
            r#"{"driver":"nbd","node-name":"disk1","server":{"type":"fd","str":"7"},"export":"scsi-1"}"#,
            r#"{"driver":"virtio-blk-pci","drive":"disk1","serial":"disk1","disable-legacy":"on"}"#,
            "-bios /q ",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let devices: Vec<&str> =
            words.windows(2).filter(|w| w[0] == "-device").map(|w| w[1].as_str()).collect();
        assert_eq!(devices.len(), 5, "{devices:?}");
        assert!(!line.contains("net") && !line.contains("-mon") && !line.contains("-qmp"), "{line}");
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        let refused =
            reader_command(&Qemu::fixed(crate::Firmware::default()), spec(0)).expect_err("no kernel");
        assert!(refused.to_string().contains("/images/vmlinux"), "{refused}");
    }
}

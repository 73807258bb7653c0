//! Persistent tap devices, which stay when the program that made or used them ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    ioctl::{IntegerSetter, Opcode, Updater, ioctl},
};

const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;
const TUNSETOWNER: Opcode = 0x4004_54cc;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// What QEMU opens it with: offloads of the guest pass through.
const IFF_VNET_HDR: u16 = 0x4000;
/// Fail instead of taking over an interface that is there already.
const IFF_TUN_EXCL: u16 = 0x8000;

/// The kernel's `struct ifreq`, as long as its longest union member.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Creates a tap that is off and in no bridge.
pub(crate) fn create(name: &str, owner: Option<u32>) -> io::Result<()> {
    let file = open()?;
    set_interface(&file, name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL)?;
    if let Some(uid) = owner {
        // SAFETY: TUNSETOWNER takes its argument by value.
        unsafe { ioctl(&file, IntegerSetter::<TUNSETOWNER>::new_usize(uid as usize)) }?;
    }
    // Last: until here the device vanishes with the file.
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { ioctl(&file, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?;
    Ok(())
}

/// A small system without udev has no device node before the module is loaded, and the kernel loads
/// the module when the node is opened: so the node is made.
fn open() -> io::Result<File> {
    const PATH: &str = "/dev/net/tun";
    let open = || OpenOptions::new().read(true).write(true).open(PATH);
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    // Should this fail, opening says it.
    let _ = fs::create_dir("/dev/net");
    let _ = mknodat(CWD, PATH, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(10, 200));
    open().map_err(|e| {
        let text = format!("{PATH} can't be opened ({e}): is the kernel's module tun there? (modprobe tun)");
        io::Error::new(e.kind(), text)
    })
}

/// Makes an open file the device's user side.
fn set_interface(file: &File, name: &str, flags: u16) -> io::Result<()> {
    let mut request = InterfaceRequest { name: [0; 16], flags, rest: [0; 22] };
    // One octet stays zero: the kernel wants an end.
    if name.len() > 15 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `InterfaceRequest` has the size and
    // layout of, and which outlives the call.
    unsafe { ioctl(file, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }?;
    Ok(())
}

/// Opens the device as a machine does, with plain frames.
#[cfg(test)]
pub(crate) fn attach_for_test(file: &File, name: &str) -> io::Result<()> {
    set_interface(file, name, IFF_TAP | IFF_NO_PI)
}

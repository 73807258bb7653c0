//! A machine, whoever described it.

use nestling_block::ImageFormat;

use crate::text::{file_name, shown};

/// So many items are told of what is left out.
const LEFT_OUT_MAX: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Ide,
    Scsi,
}

/// What is started instead of firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub kernel: String,
    pub initrd: Option<String>,
    pub append: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub controller: Controller,
    pub location: u8,
    /// As the description names it: a path of another host, of Windows even, or a name beside the description.
    pub file: String,
    /// None where only the file itself can tell.
    pub format: Option<ImageFormat>,
    pub read_only: bool,
    /// What the guest sees; 0 where it is not said.
    pub size_bytes: u64,
}

impl Disk {
    /// What its file is called, without any folder.
    pub fn file_name(&self) -> &str {
        file_name(&self.file)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adapter {
    pub name: String,
    /// None where the next host is to choose.
    pub mac: Option<[u8; 6]>,
    /// What it is plugged into, as the other host calls that.
    pub switch: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    pub name: String,
    pub id: Option<u128>,
    pub notes: String,
    pub processors: u32,
    /// Whether the guest can host machines itself.
    pub nested: bool,
    pub memory_bytes: u64,
    pub firmware: Firmware,
    pub kernel: Option<Kernel>,
    /// In the order in which the guest has them.
    pub disks: Vec<Disk>,
    pub adapters: Vec<Adapter>,
    /// What the description says and has no place here, in words, without control characters.
    pub left_out: Vec<String>,
}

impl Machine {
    /// Tells of something that the machine had and does not have here.
    pub(crate) fn leave_out(&mut self, what: &str) {
        let what = shown(what);
        if self.left_out.len() < LEFT_OUT_MAX && !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }
}

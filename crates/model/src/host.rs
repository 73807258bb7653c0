//! What a host is, as far as administrators see it.

use serde::{Deserialize, Serialize};

/// Whose virtualization extensions a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Vendor {
    /// VT-x: the processor flag `vmx`.
    Intel,
    /// AMD-V: the processor flag `svm`.
    Amd,
}

impl Vendor {
    /// The flag in /proc/cpuinfo and in QEMU's `-cpu`.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Intel => "vmx",
            Self::Amd => "svm",
        }
    }

    /// The kernel module that drives it.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }
}

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    Kvm,
    Tcg,
}

impl EngineKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    pub name: String,
    pub logical_processors: u32,
    pub memory_bytes: u64,
}

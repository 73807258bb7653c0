//! What the walkthrough needs of this host, checked one by one.
//!
//! [`Collected`] is everything that was looked at; every check is a pure function of it, so that hosts that are not at
//! hand can be tested.

use std::path::{Path, PathBuf};

use nestling_hypervisor::probe::{CpuVendor, HostFacts, KvmDevice};
use nestling_identity::{Action, Identity};
use nestling_model::EngineKind;

use crate::{
    Node,
    error::Result,
    facts::{self, MemoryFacts},
    features::{NO_EXTENSIONS, NO_SLAT, has_flag, slat_flag},
    networks::Networks,
    values::EngineView,
};

/// One line of `nestling doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// A stable word for programs.
    pub id: &'static str,
    pub title: &'static str,
    pub result: CheckResult,
    pub finding: String,
    /// What to do, when it is not `Pass`.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Pass,
    Warn,
    Fail,
}

/// What was found on this host.
#[derive(Debug, Clone)]
pub struct Collected {
    pub host: HostFacts,
    /// Whether this host is a machine of Nestling.
    pub in_nestling: bool,
    /// The engine and what would give a better one; or why there is none.
    pub engine: std::result::Result<(EngineView, Option<String>), String>,
    /// QEMU's version, or why it cannot be used.
    pub qemu: std::result::Result<String, String>,
    pub qemu_img: bool,
    pub uefi: bool,
    pub nft: bool,
    pub dnsmasq: bool,
    pub mmdebstrap: bool,
    pub network_permitted: bool,
    pub tun: bool,
    pub memory: MemoryFacts,
    pub home: PathBuf,
    pub disk_free_bytes: Option<u64>,
}

/// The oldest kernel on which this is known to work: Debian 12's.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// For a host that runs hosts.
const MEMORY_WANTED_BYTES: u64 = 4 << 30;
const MEMORY_NEEDED_BYTES: u64 = 512 << 20;
const DISK_WANTED_BYTES: u64 = 10 << 30;
const DISK_NEEDED_BYTES: u64 = 1 << 30;

impl Node {
    pub async fn requirements(&self, who: &Identity) -> Result<Vec<Requirement>> {
        self.authorize(who, Action::ReadHost)?;
        Ok(check(&self.collect().await))
    }

    async fn collect(&self) -> Collected {
        let qemu = self.engines.qemu().await;
        let engine = self.engines.verdict().await.map_err(|e| e.message());
        let home = self.home.root().to_owned();
        Collected {
            host: HostFacts::read(),
            in_nestling: Path::new(nestling_hypervisor::channel::DEVICE).exists(),
            engine,
            qemu_img: qemu.as_ref().is_ok_and(|q| q.img().exists()),
            uefi: qemu.as_ref().is_ok_and(|q| q.firmware().uefi.is_some()),
            qemu: qemu.map(|q| q.version().to_string()).map_err(|e| e.message()),
            nft: has_program("nft"),
            dnsmasq: has_program("dnsmasq"),
            mmdebstrap: has_program("mmdebstrap"),
            network_permitted: Networks::permitted(),
            tun: std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok(),
            memory: facts::memory(),
            disk_free_bytes: facts::disk_free_bytes(&home),
            home,
        }
    }
}

/// Whether a program is where programs are; a node that a service manager started may lack `sbin` in its path.
fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    std::env::split_paths(&path).chain(usual.map(PathBuf::from)).any(|dir| dir.join(name).is_file())
}

/// Every requirement, in the order in which one would mend them.
pub fn check(c: &Collected) -> Vec<Requirement> {
    vec![
        kernel(c),
        extensions(c),
        slat(c),
        kvm(c),
        nested(c),
        qemu(c),
        program("qemu-img", "Disk image tool", c.qemu_img, "qemu-utils", CheckResult::Fail),
        engine(c),
        uefi(c),
        network(c),
        tun(c),
        program("nft", "Packet filter tool", c.nft, "nftables", CheckResult::Fail),
        program("dnsmasq", "DHCP and DNS server", c.dnsmasq, "dnsmasq-base", CheckResult::Warn),
        program("mmdebstrap", "Image builder", c.mmdebstrap, "mmdebstrap", CheckResult::Warn),
        memory(c),
        disk_space(c),
    ]
}

fn pass(id: &'static str, title: &'static str, finding: impl Into<String>) -> Requirement {
    Requirement { id, title, result: CheckResult::Pass, finding: finding.into(), remedy: None }
}

fn miss(
    id: &'static str,
    title: &'static str,
    result: CheckResult,
    finding: impl Into<String>,
    remedy: impl Into<String>,
) -> Requirement {
    Requirement { id, title, result, finding: finding.into(), remedy: Some(remedy.into()) }
}

fn kernel(c: &Collected) -> Requirement {
    let (id, title) = ("kernel", "Linux kernel");
    let release = &c.host.kernel_release;
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return pass(id, title, release);
    }
    let (major, minor) = KERNEL_MIN;
    let finding = format!("{release}; tried with {major}.{minor} and newer");
    miss(id, title, CheckResult::Warn, finding, "use Debian 12 or newer")
}

/// On a machine of Nestling the extensions are an administrator's choice, so their absence fails there. Elsewhere
/// QEMU's emulation takes their place.
fn absent(c: &Collected) -> (CheckResult, &'static str) {
    if c.in_nestling {
        let remedy = "on the host, while this virtual machine is off: \
                      Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true";
        (CheckResult::Fail, remedy)
    } else if c.host.is_guest() {
        let remedy = "this host is itself a virtual machine: have its hypervisor expose virtualization extensions to it";
        (CheckResult::Warn, remedy)
    } else {
        (CheckResult::Warn, "turn on virtualization (Intel VT-x, AMD-V) in the host's firmware settings")
    }
}

fn extensions(c: &Collected) -> Requirement {
    let (id, title) = ("virtualization-extensions", "Virtualization extensions (VT-x, AMD-V)");
    for (flag, name) in [("vmx", "Intel VT-x (vmx)"), ("svm", "AMD-V (svm)")] {
        if has_flag(&c.host, flag) {
            return pass(id, title, name);
        }
    }
    let (result, remedy) = absent(c);
    miss(id, title, result, NO_EXTENSIONS, remedy)
}

fn slat(c: &Collected) -> Requirement {
    let (id, title) = ("slat", "Second level address translation (EPT, NPT)");
    let flag = slat_flag(&c.host);
    if has_flag(&c.host, flag) {
        return pass(id, title, flag.to_uppercase());
    }
    let (result, remedy) = absent(c);
    miss(id, title, result, NO_SLAT, remedy)
}

fn kvm(c: &Collected) -> Requirement {
    let (id, title) = ("kvm-device", "KVM device");
    match c.host.kvm {
        KvmDevice::Usable => pass(id, title, "/dev/kvm opens"),
        KvmDevice::Forbidden => miss(
            id,
            title,
            CheckResult::Warn,
            "this user may not open /dev/kvm",
            "let this user into the group kvm (usermod -aG kvm USER, then log in again), or run the node as root",
        ),
        KvmDevice::Missing => {
            let module = if c.host.vendor == CpuVendor::Intel { "kvm_intel" } else { "kvm_amd" };
            let capable = has_flag(&c.host, "vmx") || has_flag(&c.host, "svm");
            let remedy = match capable {
                true => format!("Install-WindowsFeature -Name Hyper-V (it loads {module})"),
                false => absent(c).1.to_owned(),
            };
            miss(id, title, CheckResult::Warn, "/dev/kvm does not exist", remedy)
        }
    }
}

fn nested(c: &Collected) -> Requirement {
    let (id, title) = ("nested-parameter", "KVM's nested parameter");
    let module = if c.host.vendor == CpuVendor::Intel { "kvm_intel" } else { "kvm_amd" };
    match c.host.kvm_modules.get(&format!("{module}/nested")).map(String::as_str) {
        Some("Y" | "y" | "1") => pass(id, title, format!("{module}: on")),
        Some(_) => miss(
            id,
            title,
            CheckResult::Warn,
            format!("{module}: off"),
            format!(
                "put \"options {module} nested=1\" into /etc/modprobe.d/nestling.conf, stop all VMs, then: \
                 modprobe -r {module} && modprobe {module}"
            ),
        ),
        None if matches!(&c.engine, Ok((e, _)) if e.kind == EngineKind::Tcg) => {
            pass(id, title, "not needed: QEMU's emulation gives its guests AMD-V")
        }
        None => pass(id, title, format!("{module} does not say; the engine's proof decides")),
    }
}

fn qemu(c: &Collected) -> Requirement {
    let (id, title) = ("qemu", "QEMU");
    match &c.qemu {
        Ok(version) => pass(id, title, format!("version {version}")),
        Err(why) => miss(id, title, CheckResult::Fail, why, "apt install qemu-system-x86"),
    }
}

fn engine(c: &Collected) -> Requirement {
    let (id, title) = ("engine", "Engine, chosen by proof");
    match &c.engine {
        Ok((engine, None)) => pass(id, title, &engine.reason),
        Ok((engine, Some(remedy))) => miss(id, title, CheckResult::Warn, &engine.reason, remedy),
        Err(why) => miss(id, title, CheckResult::Fail, why, "install QEMU: apt install qemu-system-x86"),
    }
}

fn uefi(c: &Collected) -> Requirement {
    let (id, title) = ("uefi", "UEFI firmware");
    match c.uefi {
        true => pass(id, title, "found"),
        false => miss(
            id,
            title,
            CheckResult::Warn,
            "missing: no generation 2 virtual machines",
            "apt install ovmf",
        ),
    }
}

fn network(c: &Collected) -> Requirement {
    let (id, title) = ("network-rights", "Right to change the network");
    match c.network_permitted {
        true => pass(id, title, "CAP_NET_ADMIN"),
        false => miss(
            id,
            title,
            CheckResult::Warn,
            "missing: no switches and no NAT; virtual machines get user-mode networking",
            "run the node as root, or give it CAP_NET_ADMIN",
        ),
    }
}

fn tun(c: &Collected) -> Requirement {
    let (id, title) = ("tun", "Tap interfaces");
    match c.tun {
        true => pass(id, title, "/dev/net/tun opens"),
        false if !c.network_permitted => {
            miss(id, title, CheckResult::Warn, "/dev/net/tun does not open", "run the node as root")
        }
        false => miss(id, title, CheckResult::Fail, "/dev/net/tun does not open", "modprobe tun"),
    }
}

fn program(
    name: &'static str,
    title: &'static str,
    found: bool,
    package: &str,
    severity: CheckResult,
) -> Requirement {
    match found {
        true => pass(name, title, "found"),
        false => miss(name, title, severity, format!("{name} is missing"), format!("apt install {package}")),
    }
}

fn memory(c: &Collected) -> Requirement {
    let (id, title) = ("memory", "Physical memory");
    let MemoryFacts { total_bytes, available_bytes } = c.memory;
    let finding = format!("{} MB, {} MB of them available", total_bytes >> 20, available_bytes >> 20);
    let remedy = "give the host more memory, or stop what is not needed";
    if available_bytes < MEMORY_NEEDED_BYTES && total_bytes < MEMORY_NEEDED_BYTES {
        miss(id, title, CheckResult::Fail, finding, remedy)
    } else if total_bytes < MEMORY_WANTED_BYTES && !c.in_nestling {
        miss(id, title, CheckResult::Warn, finding, remedy)
    } else {
        pass(id, title, finding)
    }
}

fn disk_space(c: &Collected) -> Requirement {
    let (id, title) = ("disk-space", "Disk space");
    let home = c.home.display();
    let Some(free) = c.disk_free_bytes else {
        return miss(id, title, CheckResult::Warn, format!("{home}: unknown"), "check the file system");
    };
    let finding = format!("{} MB free for {home}", free >> 20);
    let remedy = "free some space, or set NESTLING_HOME to a larger file system";
    if free < DISK_NEEDED_BYTES && !c.in_nestling {
        miss(id, title, CheckResult::Fail, finding, remedy)
    } else if free < DISK_WANTED_BYTES && !c.in_nestling {
        miss(id, title, CheckResult::Warn, finding, remedy)
    } else {
        pass(id, title, finding)
    }
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;

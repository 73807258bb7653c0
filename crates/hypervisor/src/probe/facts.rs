//! What this host says about itself: used to choose what to try, to explain, and to know when a proof is stale.
//!
//! Nothing here proves that KVM works. Reading never fails: what cannot be read counts as absent.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use super::Nesting;

/// The state of `/dev/kvm`, as far as opening it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmDevice {
    Usable,
    Missing,
    Forbidden,
}

impl KvmDevice {
    pub(super) fn look() -> Self {
        match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            Ok(_device) => Self::Usable,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Forbidden,
            Err(_) => Self::Missing,
        }
    }
}

/// The maker of the processor decides which extensions there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuVendor {
    Intel,
    Amd,
    Other,
}

impl CpuVendor {
    /// The extensions this maker's processors have.
    #[must_use]
    pub fn nesting(self) -> Option<Nesting> {
        match self {
            Self::Intel => Some(Nesting::Vmx),
            Self::Amd => Some(Nesting::Svm),
            Self::Other => None,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub kvm: KvmDevice,
    pub vendor: CpuVendor,
    pub cpu_name: String,
    /// Sorted, separated by single spaces.
    pub cpu_flags: String,
    pub kernel_release: String,
    /// `module` or `module/parameter` to value, for KVM's modules.
    pub kvm_modules: BTreeMap<String, String>,
}

impl HostFacts {
    #[must_use]
    pub fn read() -> Self {
        let mut facts = Self::from_cpuinfo(&read_text(Path::new("/proc/cpuinfo")));
        facts.kvm = KvmDevice::look();
        facts.kernel_release = rustix::system::uname().release().to_string_lossy().into_owned();
        facts.kvm_modules = kvm_modules(Path::new("/sys/module"));
        facts
    }

    /// The first processor's lines; all processors of a host that can run KVM guests are alike.
    pub(super) fn from_cpuinfo(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .take_while(|line| !line.trim().is_empty())
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map_or("", |(_, value)| value.trim())
        };
        let mut flags: Vec<&str> = field("flags").split_whitespace().collect();
        flags.sort_unstable();
        flags.dedup();
        Self {
            kvm: KvmDevice::Missing,
            vendor: match field("vendor_id") {
                "GenuineIntel" => CpuVendor::Intel,
                "AuthenticAMD" | "HygonGenuine" => CpuVendor::Amd,
                _ => CpuVendor::Other,
            },
            cpu_name: field("model name").to_owned(),
            cpu_flags: flags.join(" "),
            kernel_release: String::new(),
            kvm_modules: BTreeMap::new(),
        }
    }

    pub(super) fn has_flag(&self, name: &str) -> bool {
        self.cpu_flags.split(' ').any(|flag| flag == name)
    }

    /// This host is itself a guest.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.has_flag("hypervisor")
    }

    /// The module that drives this maker's extensions.
    pub(super) fn kvm_module(&self) -> Option<&'static str> {
        match self.vendor {
            CpuVendor::Intel => Some("kvm_intel"),
            CpuVendor::Amd => Some("kvm_amd"),
            CpuVendor::Other => None,
        }
    }

    /// Whether that module offers the extensions to guests; `None` if it is not loaded or does not say.
    pub(super) fn nested_parameter(&self) -> Option<bool> {
        let value = self.kvm_modules.get(&format!("{}/nested", self.kvm_module()?))?;
        Some(matches!(value.as_str(), "Y" | "y" | "1"))
    }
}

/// Parameters that change what a guest can do. Others may be counters, which would make every proof stale.
const PARAMETERS: [&str; 10] = [
    "avic",
    "enable_apicv",
    "ept",
    "force_emulation_prefix",
    "ignore_msrs",
    "nested",
    "npt",
    "tdp_mmu",
    "unrestricted_guest",
    "vgif",
];

fn kvm_modules(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Ok(modules) = fs::read_dir(root) else { return found };
    let names = modules.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with("kvm")) {
        for parameter in PARAMETERS {
            let path = root.join(&name).join("parameters").join(parameter);
            let value = read_text(&path);
            if !value.is_empty() {
                found.insert(format!("{name}/{parameter}"), value.trim().to_owned());
            }
        }
        found.insert(name, String::new());
    }
    found
}

/// A text, up to a bound; empty when unreadable.
fn read_text(path: &Path) -> String {
    const MOST_BYTES: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_is_read_from_the_first_processor() {
        let facts = HostFacts::from_cpuinfo(
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7B13\nflags\t\t: svm fpu  hypervisor svm\n\n\
             processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: other\nflags\t\t: vmx\n",
        );
        assert_eq!(facts.vendor, CpuVendor::Amd);
        assert_eq!(facts.vendor.nesting(), Some(Nesting::Svm));
        assert_eq!(facts.cpu_name, "AMD EPYC 7B13");
        assert_eq!(facts.cpu_flags, "fpu hypervisor svm");
        assert!(facts.is_guest() && facts.has_flag("svm") && !facts.has_flag("vmx") && !facts.has_flag("sv"));
    }

    #[test]
    fn nonsense_is_another_vendor() {
        for text in ["", "\n\n", ":::\n", "flags\nvendor_id: ARM\n"] {
            let facts = HostFacts::from_cpuinfo(text);
            assert_eq!((facts.vendor, facts.cpu_flags.as_str()), (CpuVendor::Other, ""));
            assert_eq!((facts.kvm_module(), facts.nested_parameter()), (None, None));
        }
    }

    #[test]
    fn modules_and_their_parameters_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for (path, value) in
            [("kvm_intel/parameters/nested", "Y\n"), ("kvm/parameters/halt_poll_ns", "200\n"), ("ext4/x", "")]
        {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let modules = kvm_modules(dir.path());
        let expected = [("kvm", ""), ("kvm_intel", ""), ("kvm_intel/nested", "Y")];
        assert_eq!(modules, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let mut facts = HostFacts::from_cpuinfo("vendor_id : GenuineIntel\n");
        assert_eq!(facts.nested_parameter(), None);
        facts.kvm_modules = modules;
        assert_eq!(facts.nested_parameter(), Some(true));
        facts.kvm_modules.insert("kvm_intel/nested".into(), "N".into());
        assert_eq!(facts.nested_parameter(), Some(false));
    }
}

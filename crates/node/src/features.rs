//! The role that makes a host of machines out of this one.
//!
//! The check looks at the processor alone, as Windows does: a host that has QEMU's emulation runs machines without the
//! role, and what it lacks is told by [`crate::doctor`].

use std::time::Duration;

use nestling_hypervisor::probe::{CpuVendor, HostFacts, KvmDevice};
use nestling_identity::{Action, Identity};
use nestling_store::Batch;
use tokio::{process::Command, time::timeout};

use crate::{
    Node, NodeError,
    error::{Object, Result},
    networks::Decided,
    node::Shared,
};

pub const HYPER_V: &str = "Hyper-V";

pub const NO_EXTENSIONS: &str =
    "Hyper-V cannot be installed: The processor does not have required virtualization capabilities.";
pub const NO_SLAT: &str =
    "Hyper-V cannot be installed: the processor does not support second level address translation (SLAT).";
/// For the kernel to load a module, inside an emulated guest too.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
const NOT_ENABLED: &str = "Hyper-V cannot be installed: virtualization support is not enabled in the BIOS.";

/// A role of this host, as Get-WindowsFeature lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub display_name: &'static str,
    pub installed: bool,
}

/// What installing a role did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureInstalled {
    pub feature: Feature,
    /// False when it was there already.
    pub changed: bool,
    /// What was prepared, one sentence each.
    pub steps: Vec<String>,
}

impl Node {
    pub async fn features(&self, who: &Identity) -> Result<Vec<Feature>> {
        self.authorize(who, Action::ReadHost)?;
        Ok(vec![feature(self.has_role().await)])
    }

    pub async fn install_feature(&self, who: &Identity, name: &str) -> Result<FeatureInstalled> {
        self.authorize(who, Action::ChangeHost)?;
        if !name.eq_ignore_ascii_case(HYPER_V) {
            return Err(NodeError::NotFound { object: Object::Feature, name: name.to_owned() });
        }
        prerequisites(&HostFacts::read()).map_err(refused)?;
        let mut steps = vec![load_kvm().await.map_err(refused)?];
        let (engine, _) = self.engines.verdict().await?;
        steps.push(format!("The engine is chosen: {}.", engine.reason));
        let changed = !self.has_role().await;
        if changed {
            self.networks
                .change(|defined, home| {
                    let mut home = home.clone();
                    home.features.push(HYPER_V.to_owned());
                    let mut batch = Batch::default();
                    batch.put(&home)?;
                    Ok(Decided { defined: defined.clone(), home: Some(home), batch, answer: () })
                })
                .await?;
        }
        steps.push("The node runs, and prepares the host again at each start.".to_owned());
        Ok(FeatureInstalled { feature: feature(true), changed, steps })
    }
}

impl Shared {
    async fn has_role(&self) -> bool {
        self.networks.home().await.features.iter().any(|f| f == HYPER_V)
    }

    /// What a start of the host undoes: the kernel's modules; and the engine's choice, so that nobody waits for it later.
    pub async fn prepare_role(&self) {
        if !self.has_role().await {
            return;
        }
        if let Err(reason) = load_kvm().await {
            tracing::warn!(reason, "the host is not prepared");
        }
        if let Err(error) = self.engines.decide().await {
            tracing::warn!(error = error.message(), "no engine");
        }
    }
}

fn feature(installed: bool) -> Feature {
    Feature { name: HYPER_V, display_name: HYPER_V, installed }
}

fn refused(reason: String) -> NodeError {
    NodeError::Prerequisite { feature: HYPER_V, reason }
}

pub fn has_flag(facts: &HostFacts, flag: &str) -> bool {
    facts.cpu_flags.split(' ').any(|f| f == flag)
}

/// The flag of second level address translation that belongs to the extensions.
pub fn slat_flag(facts: &HostFacts) -> &'static str {
    if facts.vendor == CpuVendor::Intel { "ept" } else { "npt" }
}

/// What the role needs of the processor.
fn prerequisites(facts: &HostFacts) -> std::result::Result<(), String> {
    if !has_flag(facts, "vmx") && !has_flag(facts, "svm") {
        return Err(NO_EXTENSIONS.to_owned());
    }
    if !has_flag(facts, slat_flag(facts)) {
        return Err(NO_SLAT.to_owned());
    }
    Ok(())
}

/// Whether loading KVM's module may make it usable.
pub fn lacks_kvm(facts: &HostFacts) -> bool {
    facts.kvm == KvmDevice::Missing && (has_flag(facts, "vmx") || has_flag(facts, "svm"))
}

/// Loads the kernel's module for this processor.
pub async fn load_kvm() -> std::result::Result<String, String> {
    let facts = HostFacts::read();
    if facts.kvm == KvmDevice::Usable {
        return Ok("KVM is loaded.".to_owned());
    }
    let module = if facts.vendor == CpuVendor::Intel { "kvm_intel" } else { "kvm_amd" };
    let complaint = complaint(Command::new("modprobe").arg(module), LOAD_TIMEOUT).await;
    judge_module(module, complaint, HostFacts::read().kvm)
}

/// Why a command did not do its work, if it did not.
async fn complaint(command: &mut Command, deadline: Duration) -> Option<String> {
    match timeout(deadline, command.kill_on_drop(true).output()).await {
        Ok(Ok(output)) if output.status.success() => None,
        Ok(Ok(output)) => Some(String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect()),
        Ok(Err(error)) => Some(format!("modprobe cannot be run: {error}")),
        Err(_) => Some(format!("modprobe did not end within {} seconds", deadline.as_secs())),
    }
}

fn judge_module(
    module: &str,
    complaint: Option<String>,
    kvm: KvmDevice,
) -> std::result::Result<String, String> {
    match (complaint, kvm) {
        (_, KvmDevice::Usable) => Ok(format!("KVM's module {module} is loaded.")),
        (_, KvmDevice::Forbidden) => {
            Err("Hyper-V cannot be installed: this user may not open /dev/kvm; run the node as root."
                .to_owned())
        }
        (Some(text), _) if text.contains("Operation not supported") => Err(NOT_ENABLED.to_owned()),
        (Some(text), _) => Err(format!("Hyper-V cannot be installed: {text}")),
        (None, KvmDevice::Missing) => {
            Err(format!("Hyper-V cannot be installed: {module} is loaded, and still there is no /dev/kvm."))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn facts(vendor: CpuVendor, flags: &str) -> HostFacts {
        HostFacts {
            kvm: KvmDevice::Missing,
            vendor,
            cpu_name: String::new(),
            cpu_flags: flags.to_owned(),
            kernel_release: String::new(),
            kvm_modules: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_given_up() {
        let soon = Duration::from_millis(20);
        let hangs = complaint(Command::new("sleep").arg("600"), soon).await.unwrap();
        assert!(hangs.contains("did not end"), "{hangs}");
        assert_eq!(complaint(&mut Command::new("true"), LOAD_TIMEOUT).await, None);
        assert_eq!(complaint(&mut Command::new("false"), LOAD_TIMEOUT).await, Some(String::new()));
    }

    #[test]
    fn the_processor_decides_in_the_articles_words() {
        let check = |vendor, flags| prerequisites(&facts(vendor, flags));
        assert_eq!(check(CpuVendor::Amd, "fpu sse").unwrap_err(), NO_EXTENSIONS);
        assert_eq!(check(CpuVendor::Amd, "svm").unwrap_err(), NO_SLAT);
        assert_eq!(check(CpuVendor::Intel, "npt vmx").unwrap_err(), NO_SLAT);
        assert_eq!(check(CpuVendor::Amd, "npt svm"), Ok(()));
        assert_eq!(check(CpuVendor::Intel, "ept vmx"), Ok(()));
    }

    #[test]
    fn the_refusal_is_windows_own() {
        let error = refused(NO_EXTENSIONS.to_owned());
        assert_eq!(
            error.message(),
            "A prerequisite check for the Hyper-V feature failed.\n\
             1. Hyper-V cannot be installed: The processor does not have required virtualization capabilities."
        );
    }

    #[test]
    fn what_modprobe_says_is_judged_by_what_came_of_it() {
        let judge = |complaint: Option<&str>, kvm| judge_module("kvm_amd", complaint.map(str::to_owned), kvm);
        assert_eq!(judge(None, KvmDevice::Usable).unwrap(), "KVM's module kvm_amd is loaded.");
        assert!(judge(Some("not found"), KvmDevice::Usable).is_ok(), "it is built into the kernel");
        let off = judge(
            Some("modprobe: ERROR: could not insert 'kvm_amd': Operation not supported"),
            KvmDevice::Missing,
        );
        assert_eq!(off.unwrap_err(), NOT_ENABLED);
        assert!(judge(None, KvmDevice::Missing).unwrap_err().contains("/dev/kvm"));
    }
}

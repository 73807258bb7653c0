//! The decision itself: pure, from facts and trials to the engine, the reason and what to change.
//!
//! KVM is tried with few processor models, best first. Another model is tried only when QEMU refused one before the
//! guest's first instruction: what hangs or computes wrongly with one model is not to be trusted with another.

use super::facts::{CpuVendor, HostFacts, KvmDevice};
use super::{Accel, Nesting, ProbeOutcome};

/// One model tried under KVM, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The model without the flag of the virtualization extensions.
    pub model: String,
    pub outcome: ProbeOutcome,
}

/// What VMs run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    pub accel: Accel,
    /// The model without the flag of the virtualization extensions.
    pub model: String,
    /// The extensions a VM can be given; `None` if it can be given none.
    pub nesting: Option<Nesting>,
    /// Why this engine, as a sentence for the administrator.
    pub reason: String,
    /// What to change for a better one.
    pub remedy: Option<String>,
}

/// Without QEMU there is no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot run virtual machines: {} does not exist; install QEMU (Debian: apt install qemu-system-x86)", path.display())]
pub struct NoEngine {
    pub path: std::path::PathBuf,
}

/// The model under TCG: what TCG of QEMU 7.2 can do of an EPYC. All else is off by name, so that a guest sees the same
/// processor under every version of QEMU, and can be moved between them.
const TCG_MODEL: &str =
    "EPYC-v1,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec";

impl Engine {
    /// The argument of `-cpu` for a VM with the extensions exposed, or explicitly hidden.
    #[must_use]
    pub fn cpu(&self, expose_virtualization_extensions: bool) -> String {
        cpu(self.accel, &self.model, self.nesting, expose_virtualization_extensions)
    }

    /// The same for TCG, which every host can run.
    #[must_use]
    pub fn tcg_cpu(expose_virtualization_extensions: bool) -> String {
        cpu(Accel::Tcg, TCG_MODEL, Some(Nesting::Svm), expose_virtualization_extensions)
    }

    fn tcg(reason: String, remedy: Option<String>) -> Self {
        Self { accel: Accel::Tcg, model: TCG_MODEL.to_owned(), nesting: Some(Nesting::Svm), reason, remedy }
    }
}

fn cpu(accel: Accel, model: &str, nesting: Option<Nesting>, exposed: bool) -> String {
    match (nesting, exposed) {
        // Both names: `host` may have either, and a hidden extension must stay hidden.
        (None, _) => format!("{model},-vmx,-svm"),
        (Some(Nesting::Svm), true) if accel == Accel::Tcg => format!("{model},+svm,+npt"),
        (Some(Nesting::Svm), false) if accel == Accel::Tcg => format!("{model},-svm,-npt"),
        (Some(nesting), true) => format!("{model},+{}", nesting.flag()),
        (Some(nesting), false) => format!("{model},-{}", nesting.flag()),
    }
}

/// The models worth trying under KVM. `host` is fastest; without `arch-capabilities` it starts where an outer hypervisor
/// shows that register but refuses to read it (MSR 0x10a); the named model needs least of KVM.
fn candidates(vendor: CpuVendor) -> &'static [&'static str] {
    match vendor {
        CpuVendor::Intel => &["host", "host,-arch-capabilities", "Nehalem-v1"],
        CpuVendor::Amd => &["host", "host,-arch-capabilities", "EPYC-v1"],
        CpuVendor::Other => &["host"],
    }
}

/// The model to try next and the whole argument of `-cpu` to try it with; `None` when it is time to [`decide`].
#[must_use]
pub fn next_candidate(facts: &HostFacts, tried: &[Trial]) -> Option<(&'static str, String)> {
    if facts.kvm != KvmDevice::Usable {
        return None;
    }
    if tried.iter().any(|trial| !matches!(trial.outcome, ProbeOutcome::Refused { .. })) {
        return None;
    }
    let model = *candidates(facts.vendor).get(tried.len())?;
    Some((model, cpu(Accel::Kvm, model, facts.vendor.nesting(), true)))
}

/// Chooses. With `nesting_wanted`, an engine that cannot give VMs the extensions is passed over.
pub fn decide(facts: &HostFacts, trials: &[Trial], nesting_wanted: bool) -> Result<Engine, NoEngine> {
    for trial in trials {
        match &trial.outcome {
            ProbeOutcome::QemuMissing { path } => return Err(NoEngine { path: path.clone() }),
            // With a maker unknown to us, nothing was asked of nesting, so nothing is proven of it.
            ProbeOutcome::Proven if facts.vendor.nesting().is_some() || !nesting_wanted => {
                return Ok(Engine {
                    accel: Accel::Kvm,
                    model: trial.model.clone(),
                    nesting: facts.vendor.nesting(),
                    reason: format!("KVM works here: {} with processor model {}", trial.outcome, trial.model),
                    remedy: None,
                });
            }
            ProbeOutcome::Proven | ProbeOutcome::NoNesting if nesting_wanted => {
                let reason = "KVM works here, but gives its guests no virtualization extensions".to_owned();
                return Ok(Engine::tcg(reason, Some(nesting_remedy(facts))));
            }
            ProbeOutcome::NoNesting => {
                return Ok(Engine {
                    accel: Accel::Kvm,
                    model: trial.model.clone(),
                    nesting: None,
                    reason: "KVM works here, but gives its guests no virtualization extensions".to_owned(),
                    remedy: Some(nesting_remedy(facts)),
                });
            }
            _ => {}
        }
    }
    Ok(without_kvm(facts, trials))
}

fn without_kvm(facts: &HostFacts, trials: &[Trial]) -> Engine {
    // The last trial is the one that ended the search; only before any trial does the device itself decide.
    let outcome = trials.last().map(|trial| &trial.outcome);
    let (why, remedy) = match (outcome, facts.kvm) {
        (Some(ProbeOutcome::NoPermission), _) | (None, KvmDevice::Forbidden) => (
            ProbeOutcome::NoPermission.to_string(),
            "let this user into the group kvm (usermod -aG kvm USER, then log in again), or run Nestling as root"
                .to_owned(),
        ),
        (Some(ProbeOutcome::NoDevice), _) | (None, KvmDevice::Missing) => {
            (ProbeOutcome::NoDevice.to_string(), device_remedy(facts))
        }
        (Some(outcome), _) => (outcome.to_string(), broken_remedy(facts)),
        (None, KvmDevice::Usable) => ("no test guest was run under KVM".to_owned(), broken_remedy(facts)),
    };
    Engine::tcg(
        format!("KVM cannot be used: {why}; QEMU's own emulation (TCG) is used, which is slower"),
        Some(remedy),
    )
}

fn device_remedy(facts: &HostFacts) -> String {
    let extensions = facts.vendor.nesting();
    match (facts.kvm_module(), extensions) {
        (Some(module), Some(flag)) if facts.has_flag(flag.flag()) => {
            format!("load its driver: modprobe {module}")
        }
        _ if facts.is_guest() => OUTER_HYPERVISOR.to_owned(),
        _ => "turn on virtualization (Intel VT-x, AMD-V) in the host's firmware settings".to_owned(),
    }
}

fn nesting_remedy(facts: &HostFacts) -> String {
    match (facts.kvm_module(), facts.nested_parameter()) {
        (Some(module), Some(false)) => format!(
            "put \"options {module} nested=1\" into /etc/modprobe.d/nestling.conf, stop all VMs, \
             then: modprobe -r {module} && modprobe {module}"
        ),
        _ if facts.is_guest() => OUTER_HYPERVISOR.to_owned(),
        _ => "use a host whose KVM offers nested virtualization".to_owned(),
    }
}

fn broken_remedy(facts: &HostFacts) -> String {
    if facts.is_guest() {
        OUTER_HYPERVISOR.to_owned()
    } else {
        "update the host's kernel and QEMU, then run nestling doctor again".to_owned()
    }
}

const OUTER_HYPERVISOR: &str = "this host is itself a virtual machine: have its hypervisor expose virtualization \
    extensions to it (Set-VMProcessor -ExposeVirtualizationExtensions $true), or use a physical host";

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

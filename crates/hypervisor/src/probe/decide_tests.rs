use std::time::Duration;

use super::*;
use crate::probe::ProbeOutcome::{
    Hung, NoDevice, NoNesting, NoPermission, Proven, QemuMissing, Refused, Wrong,
};

const INTEL: &str = "vendor_id : GenuineIntel\nflags : fpu vmx\n";
const AMD: &str = "vendor_id : AuthenticAMD\nflags : fpu svm\n";
const INTEL_GUEST: &str = "vendor_id : GenuineIntel\nflags : fpu hypervisor\n";
const OTHER: &str = "vendor_id : CentaurHauls\nflags : fpu vmx\n";

fn host(cpuinfo: &str) -> HostFacts {
    HostFacts { kvm: KvmDevice::Usable, ..HostFacts::from_cpuinfo(cpuinfo) }
}

fn trials(outcomes: &[(&str, ProbeOutcome)]) -> Vec<Trial> {
    let trial = |(model, outcome): &(&str, ProbeOutcome)| Trial {
        model: (*model).to_owned(),
        outcome: outcome.clone(),
    };
    outcomes.iter().map(trial).collect()
}

fn refused() -> ProbeOutcome {
    Refused { reason: "failed to set MSR 0x10a".to_owned() }
}

fn hung() -> ProbeOutcome {
    Hung { after: Duration::from_secs(5), stage: "speed".to_owned() }
}

fn tcg_because(engine: &Engine, why: &str, remedy: &str) {
    assert_eq!(engine.accel, Accel::Tcg);
    assert_eq!(engine.nesting, Some(Nesting::Svm));
    assert_eq!(
        engine.reason,
        format!("KVM cannot be used: {why}; QEMU's own emulation (TCG) is used, which is slower")
    );
    let found = engine.remedy.as_deref().unwrap();
    assert!(found.starts_with(remedy), "{found}");
}

#[test]
fn a_good_host_gets_kvm_with_its_own_extensions() {
    for (cpuinfo, nesting, on, off) in
        [(INTEL, Nesting::Vmx, "host,+vmx", "host,-vmx"), (AMD, Nesting::Svm, "host,+svm", "host,-svm")]
    {
        for wanted in [true, false] {
            let engine = decide(&host(cpuinfo), &trials(&[("host", Proven)]), wanted).unwrap();
            assert_eq!((engine.accel, engine.nesting, &engine.remedy), (Accel::Kvm, Some(nesting), &None));
            assert_eq!(
                engine.reason,
                "KVM works here: a test guest ran to its end with processor model host"
            );
            assert_eq!((engine.cpu(true).as_str(), engine.cpu(false).as_str()), (on, off));
        }
    }
}

#[test]
fn the_model_that_was_proven_is_the_one_used() {
    let tried = trials(&[("host", refused()), ("host,-arch-capabilities", Proven)]);
    let engine = decide(&host(INTEL), &tried, true).unwrap();
    assert_eq!(engine.cpu(true), "host,-arch-capabilities,+vmx");
}

#[test]
fn a_guest_that_hangs_or_fails_means_tcg() {
    let engine = decide(&host(INTEL_GUEST), &trials(&[("host", hung())]), false).unwrap();
    tcg_because(
        &engine,
        "a test guest had not ended after 5s; the last it began: speed",
        "this host is itself a virtual machine",
    );
    let wrong = Wrong { detail: "KVM internal error in stage \"vector arithmetic\"".to_owned() };
    let engine =
        decide(&host(AMD), &trials(&[("host", refused()), ("host,-arch-capabilities", wrong)]), true)
            .unwrap();
    tcg_because(
        &engine,
        "a test guest failed: KVM internal error in stage \"vector arithmetic\"",
        "update the host's kernel and QEMU",
    );
}

#[test]
fn every_model_refused_means_tcg() {
    let tried =
        trials(&[("host", refused()), ("host,-arch-capabilities", refused()), ("Nehalem-v1", refused())]);
    assert_eq!(next_candidate(&host(INTEL), &tried), None);
    let engine = decide(&host(INTEL), &tried, true).unwrap();
    tcg_because(
        &engine,
        "QEMU did not start a test guest: failed to set MSR 0x10a",
        "update the host's kernel",
    );
}

#[test]
fn no_device_is_explained_by_what_is_missing() {
    let without = |cpuinfo| HostFacts { kvm: KvmDevice::Missing, ..host(cpuinfo) };
    let why = "/dev/kvm does not exist or has no driver";
    for (cpuinfo, remedy) in [
        (INTEL, "load its driver: modprobe kvm_intel"),
        (AMD, "load its driver: modprobe kvm_amd"),
        (INTEL_GUEST, "this host is itself a virtual machine"),
        ("vendor_id : GenuineIntel\nflags : fpu\n", "turn on virtualization (Intel VT-x, AMD-V)"),
    ] {
        assert_eq!(next_candidate(&without(cpuinfo), &[]), None);
        tcg_because(&decide(&without(cpuinfo), &[], true).unwrap(), why, remedy);
        // The device went away between looking and probing.
        tcg_because(&decide(&host(cpuinfo), &trials(&[("host", NoDevice)]), true).unwrap(), why, remedy);
    }
}

#[test]
fn no_permission_names_the_group() {
    let facts = HostFacts { kvm: KvmDevice::Forbidden, ..host(AMD) };
    assert_eq!(next_candidate(&facts, &[]), None);
    for engine in [decide(&facts, &[], false), decide(&host(AMD), &trials(&[("host", NoPermission)]), false)]
    {
        tcg_because(&engine.unwrap(), "this user may not open /dev/kvm", "let this user into the group kvm");
    }
}

#[test]
fn without_nesting_kvm_serves_only_those_who_do_not_want_it() {
    let mut facts = host(INTEL);
    facts.kvm_modules.insert("kvm_intel/nested".to_owned(), "N".to_owned());
    let tried = trials(&[("host", NoNesting)]);
    let plain = decide(&facts, &tried, false).unwrap();
    assert_eq!((plain.accel, plain.nesting), (Accel::Kvm, None));
    assert_eq!(plain.cpu(true), "host,-vmx,-svm");
    let nested = decide(&facts, &tried, true).unwrap();
    assert_eq!((nested.accel, nested.nesting), (Accel::Tcg, Some(Nesting::Svm)));
    for engine in [plain, nested] {
        assert_eq!(engine.reason, "KVM works here, but gives its guests no virtualization extensions");
        assert_eq!(
            engine.remedy.unwrap(),
            "put \"options kvm_intel nested=1\" into /etc/modprobe.d/nestling.conf, stop all VMs, \
             then: modprobe -r kvm_intel && modprobe kvm_intel"
        );
    }
    facts.kvm_modules.insert("kvm_intel/nested".to_owned(), "Y".to_owned());
    let remedy = decide(&facts, &tried, true).unwrap().remedy.unwrap();
    assert_eq!(remedy, "use a host whose KVM offers nested virtualization");
}

#[test]
fn an_unknown_maker_gets_kvm_but_no_nesting() {
    let tried = trials(&[("host", Proven)]);
    let engine = decide(&host(OTHER), &tried, false).unwrap();
    assert_eq!((engine.accel, engine.nesting), (Accel::Kvm, None));
    assert_eq!(decide(&host(OTHER), &tried, true).unwrap().accel, Accel::Tcg);
}

#[test]
fn without_qemu_there_is_no_engine() {
    let tried = trials(&[("none", QemuMissing { path: "/x".into() })]);
    assert_eq!(decide(&host(AMD), &tried, false), Err(NoEngine { path: "/x".into() }));
}

#[test]
fn models_are_tried_in_order_and_only_after_a_refusal() {
    let facts = host(AMD);
    let mut tried = Vec::new();
    for expected in ["host", "host,-arch-capabilities", "EPYC-v1"] {
        let (model, cpu) = next_candidate(&facts, &tried).unwrap();
        assert_eq!((model, cpu), (expected, format!("{expected},+svm")));
        tried.push(Trial { model: model.to_owned(), outcome: refused() });
    }
    assert_eq!(next_candidate(&facts, &tried), None);
    for outcome in [Proven, NoNesting, hung(), Wrong { detail: String::new() }, NoDevice] {
        assert_eq!(next_candidate(&facts, &trials(&[("host", outcome)])), None);
    }
}

#[test]
fn tcg_shows_or_hides_svm_with_nested_paging() {
    assert!(Engine::tcg_cpu(true).ends_with(",+svm,+npt") && Engine::tcg_cpu(false).ends_with(",-svm,-npt"));
}

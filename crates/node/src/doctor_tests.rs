use std::collections::BTreeMap;

use super::*;

/// A host that has everything.
fn good() -> Collected {
    Collected {
        host: HostFacts {
            kvm: KvmDevice::Usable,
            vendor: CpuVendor::Amd,
            cpu_name: "AMD EPYC".into(),
            cpu_flags: "npt svm".into(),
            kernel_release: "6.1.0-32-amd64".into(),
            kvm_modules: BTreeMap::from([("kvm_amd/nested".into(), "1".into())]),
        },
        in_nestling: false,
        engine: Ok((EngineView { kind: EngineKind::Kvm, reason: "KVM works here".into() }, None)),
        qemu: Ok("7.2".into()),
        qemu_img: true,
        uefi: true,
        nft: true,
        dnsmasq: true,
        mmdebstrap: true,
        network_permitted: true,
        tun: true,
        memory: MemoryFacts { total_bytes: 16 << 30, available_bytes: 8 << 30 },
        home: "/home".into(),
        disk_free_bytes: Some(100 << 30),
    }
}

/// What is not as it should be: id, result and finding of each.
fn findings(c: &Collected) -> Vec<(&'static str, CheckResult, String)> {
    let missed = check(c).into_iter().filter(|r| r.result != CheckResult::Pass);
    missed
        .map(|r| {
            assert!(r.remedy.is_some(), "{} has no remedy", r.id);
            (r.id, r.result, r.finding)
        })
        .collect()
}

#[test]
fn a_good_host_passes_every_check() {
    assert_eq!(findings(&good()), []);
    let ids: Vec<&str> = check(&good()).iter().map(|r| r.id).collect();
    assert_eq!(
        ids,
        [
            "kernel",
            "virtualization-extensions",
            "slat",
            "kvm-device",
            "nested-parameter",
            "qemu",
            "qemu-img",
            "engine",
            "uefi",
            "network-rights",
            "tun",
            "nft",
            "dnsmasq",
            "mmdebstrap",
            "memory",
            "disk-space"
        ]
    );
}

/// In a machine of ours without extensions, the check fails with the sentence of the walkthrough's first step.
#[test]
fn a_guest_without_extensions_fails_with_the_articles_sentence() {
    let mut c = good();
    c.in_nestling = true;
    c.host.cpu_flags = "hypervisor".into();
    c.host.kvm = KvmDevice::Missing;
    let found = findings(&c);
    assert_eq!(found[0], ("virtualization-extensions", CheckResult::Fail, NO_EXTENSIONS.to_owned()));
    assert_eq!(found[1], ("slat", CheckResult::Fail, NO_SLAT.to_owned()));
    let remedy = check(&c).remove(1).remedy.unwrap();
    assert!(
        remedy.contains("Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"),
        "{remedy}"
    );
}

#[test]
fn a_host_without_extensions_is_warned_since_emulation_takes_their_place() {
    let mut c = good();
    c.host.cpu_flags = String::new();
    c.host.kvm = KvmDevice::Missing;
    c.host.kvm_modules.clear();
    c.engine =
        Ok((EngineView { kind: EngineKind::Tcg, reason: "emulation".into() }, Some("firmware".into())));
    let found = findings(&c);
    let ids: Vec<&str> = found.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, ["virtualization-extensions", "slat", "kvm-device", "engine"]);
    assert!(found.iter().all(|(_, result, _)| *result == CheckResult::Warn));
}

#[test]
fn each_thing_that_lacks_is_told_alone() {
    type Break = fn(&mut Collected);
    let cases: [(Break, &str, CheckResult); 13] = [
        (|c| c.host.kernel_release = "5.10.0-8".into(), "kernel", CheckResult::Warn),
        (|c| c.host.kvm = KvmDevice::Forbidden, "kvm-device", CheckResult::Warn),
        (
            |c| _ = c.host.kvm_modules.insert("kvm_amd/nested".into(), "0".into()),
            "nested-parameter",
            CheckResult::Warn,
        ),
        (|c| c.qemu = Err("QEMU 6.0 is too old".into()), "qemu", CheckResult::Fail),
        (|c| c.qemu_img = false, "qemu-img", CheckResult::Fail),
        (|c| c.engine = Err("no QEMU".into()), "engine", CheckResult::Fail),
        (|c| c.uefi = false, "uefi", CheckResult::Warn),
        (|c| c.network_permitted = false, "network-rights", CheckResult::Warn),
        (|c| c.tun = false, "tun", CheckResult::Fail),
        (|c| c.nft = false, "nft", CheckResult::Fail),
        (|c| c.dnsmasq = false, "dnsmasq", CheckResult::Warn),
        (|c| c.memory.total_bytes = 1 << 30, "memory", CheckResult::Warn),
        (|c| c.disk_free_bytes = Some(1 << 20), "disk-space", CheckResult::Fail),
    ];
    for (break_it, id, result) in cases {
        let mut c = good();
        break_it(&mut c);
        let found: Vec<_> = findings(&c).into_iter().map(|(id, result, _)| (id, result)).collect();
        assert_eq!(found, [(id, result)]);
    }
}

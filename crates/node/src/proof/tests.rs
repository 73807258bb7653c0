//! Proofs by a node, of machines with the smallest guest that there is: a boot sector that asks for a login. What a real guest
//! shows is the story's (`crates/cli/tests/stories/proof.rs`).

use std::{fs, io::Write, path::Path, process::Command, time::Duration};

use nestling_model::protection::{Proof, ProofRun, Proving, RunState, Signs};

use super::*;
use crate::{
    ErrorKind, JobSettings, NewVm, NewVmDisk, Node, PointsWish,
    protection::{
        job_tests::{all, named},
        tests::{MIB, backed_up, image, prepare, wish},
    },
    testing::{ME, TestHome, eventually, small},
};

/// Writes "proof login: " to the serial port, and waits.
const LOGIN: &[u8] = b"\x31\xc0\x8e\xd8\xfc\xba\xf8\x03\xbe\x16\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd\r\nproof login: \0";

/// Gives a disk a boot sector.
pub(crate) fn make_bootable(image: &Path) {
    let mut sector = [0; 512];
    sector[..LOGIN.len()].copy_from_slice(LOGIN);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&sector).unwrap();
    let command = format!("write -s {} 0 512", file.path().display());
    let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(image).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn of(machines: &[&str]) -> ProofWish {
    ProofWish {
        machines: machines.iter().map(|name| name.parse().unwrap()).collect(),
        job: None,
        points: Vec::new(),
        repository: None,
        signs: Signs::default(),
        parallel: 1,
    }
}

async fn ended(node: &Node, number: u64) -> ProofRun {
    let entry = node.proof.book.find(&number.to_string()).unwrap();
    tokio::time::timeout(Duration::from_secs(120), entry.ended.cancelled()).await.expect("it ends");
    entry.run()
}

pub(crate) async fn proven(node: &Node, wish: ProofWish) -> ProofRun {
    let begun = node.prove(&ME, wish).await.unwrap();
    ended(node, begun.run.number).await
}

/// Nothing is there but the machines that were, and none of them runs.
pub(crate) async fn nothing_left(home: &TestHome, node: &Node, machines: usize) {
    assert_eq!(node.vms(&ME).await.unwrap().len(), machines);
    assert!(node.instant_boots(&ME).await.unwrap().is_empty() && home.engines().is_empty());
    assert!(fs::read_dir(home.path().join("vms")).unwrap().count() <= machines);
    // What was served ends beside.
    eventually(async || fs::read_dir(home.path().join("read")).unwrap().count() == 0).await;
}

async fn verdict(node: &Node, vm: &str) -> Option<Proof> {
    let wish = PointsWish { vm: Some(vm.to_owned()), count_max: 1, ..Default::default() };
    node.points(&ME, wish).await.unwrap().points.remove(0).point.proof
}

/// A machine `vm` that boots, a machine `bad` whose disk is empty, and a point of each in `R`.
async fn two_machines(node: &Node, vaults: &Path) {
    prepare(node, vaults).await;
    make_bootable(&image(node));
    let path = node.home.disks().join("bad.qcow2");
    let new_disk = Some(NewVmDisk { size_bytes: 16 * MIB, path: Some(path) });
    node.create_vm(&ME, NewVm { new_disk, ..small("bad") }).await.unwrap();
    for vm in ["vm", "bad"] {
        assert!(backed_up(node, wish(vm)).await.state.is_success());
    }
}

#[test]
fn what_boots_is_proven_with_a_picture_and_what_does_not_is_told() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        two_machines(&node, vaults.path()).await;
        let run = proven(&node, of(&["b*", "vm"])).await;
        let [bad, good] = run.points.as_slice() else { panic!("{run:?}") };
        let failed = run.points.iter().filter(|point| !point.state.is_success()).count();
        assert_eq!((run.state, failed), (RunState::Failed, 1));
        assert_eq!((bad.state, bad.ready_ms), (RunState::Failed, None));
        assert!(bad.reason.as_ref().unwrap().as_str().contains("No bootable device"), "{bad:?}");
        assert!(bad.console.iter().any(|line| line.as_str().contains("Boot failed")), "{bad:?}");
        assert_eq!(good.state, RunState::Succeeded, "{good:?}");
        assert_eq!(good.seen.as_ref().unwrap().as_str(), "a login prompt came");
        assert!(good.ready_ms.unwrap() > 0 && good.has_screen && bad.has_screen);
        let png = node.proof_screen(&ME, "1", 1).await.unwrap();
        assert!(png.len() > 300 && png.starts_with(b"\x89PNG\r\n\x1a\n"));
        assert_eq!(node.proof_screen(&ME, "1", 2).await.unwrap_err().code(), ErrorKind::NotFound);
        nothing_left(&home, &node, 2).await;

        let told = verdict(&node, "vm").await.unwrap();
        assert!(told.passed && told.message.as_str().starts_with("proof 1: up after "), "{told:?}");
        assert!(!verdict(&node, "bad").await.unwrap().passed);
        let none = node.prove(&ME, of(&["web*"])).await.unwrap_err();
        assert_eq!(none.code(), ErrorKind::NotFound, "{}", none.message());
        assert_eq!(node.prove(&ME, of(&[])).await.unwrap_err().code(), ErrorKind::Invalid);
    });
    home.life(async |node| {
        assert!(verdict(&node, "vm").await.unwrap().passed, "it is kept");
        assert!(node.proof_screen(&ME, "1", 0).await.is_ok());
    });
}

#[test]
fn a_guest_that_shows_nothing_and_a_proof_that_is_cancelled_leave_nothing() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        two_machines(&node, vaults.path()).await;
        let never = |seconds_max| ProofWish {
            signs: Signs { console: Some("never said".to_owned()), seconds_max, ..Signs::default() },
            ..of(&["vm"])
        };
        let run = proven(&node, never(8)).await;
        let why = run.points[0].reason.clone().unwrap();
        assert!(why.as_str().contains("\"never said\" is not on its console"), "{why}");
        let begun = node.prove(&ME, never(600)).await.unwrap().run.number.to_string();
        eventually(async || {
            let view = node.proof(&ME, &begun).await.unwrap();
            view.progress.first().is_some_and(|at| at.stage == "waiting for the guest")
        })
        .await;
        // It is known for what it is, and no job takes it for a machine.
        let boot = node.instant_boots(&ME).await.unwrap().remove(0);
        assert_eq!((boot.vm.as_str(), boot.proof), ("proof-vm-2-1", Some(2)));
        let notes = node.vm(&ME, "proof-vm-2-1").await.unwrap().vm.notes;
        assert!(notes.starts_with("Runs for proof 2 of recovery point"), "{notes}");
        assert_eq!(node.candidates(false).await.len(), 2);
        assert_eq!(
            node.finish_instant_boot(&ME, "proof-vm-2-1").await.unwrap_err().code(),
            ErrorKind::Invalid
        );
        node.cancel_proof(&ME, &begun).await.unwrap();
        let run = ended(&node, 2).await;
        assert_eq!((run.state, run.points[0].state), (RunState::Cancelled, RunState::Cancelled));
        nothing_left(&home, &node, 2).await;
        assert!(!verdict(&node, "vm").await.unwrap().passed, "what was cancelled says nothing");
        assert_eq!(node.cancel_proof(&ME, &begun).await.unwrap_err().code(), ErrorKind::InvalidState);
    });
}

/// Those who are told of failures are told of this one, too.
#[test]
fn a_job_that_proves_what_it_saves_fails_with_what_does_not_boot() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        two_machines(&node, vaults.path()).await;
        let daily = Proving { every_hours: Some(24), ..Proving::default() };
        let job = JobSettings { proving: Some(Some(daily)), ..all(None) };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let run = async || {
            let begun = node.run_job(&ME, "A").await.unwrap();
            let entry = node.protection.runs.find(&begun.run.number.to_string()).unwrap();
            tokio::time::timeout(Duration::from_secs(120), entry.ended.cancelled()).await.expect("it ends");
            entry.run()
        };
        let first = run().await;
        assert_eq!(first.state, RunState::Failed);
        let reason = first.reason.unwrap();
        assert_eq!(reason.as_str(), "proof 1: the recovery points of bad do not boot");
        assert!(first.machines.iter().all(|machine| machine.state.is_success()), "the points are there");
        assert_eq!(node.proof(&ME, "1").await.unwrap().job.as_deref(), Some("A"));
        assert_eq!(run().await.state, RunState::Succeeded, "both were proven today");
        assert_eq!(node.proofs(&ME).await.unwrap().len(), 1);
        nothing_left(&home, &node, 2).await;
    });
}

//! Machines that run from the vault, without a guest: their firmware reads the first sectors and waits.

use std::fs;

use nestling_model::{Operation, VmState, protection::RunState};

use super::tests::{as_new, backed_up_vm, bytes, good, recovered};
use crate::{
    ErrorKind, Node, RecoveryWish, Whereto,
    protection::tests::{backed_up, wish},
    testing::{ME, TestHome, eventually, reaches},
};

pub(crate) fn instant(point: &str, name: &str) -> RecoveryWish {
    let mut wish = as_new(point, Some(name));
    if let Whereto::AsNew { instant, .. } = &mut wish.whereto {
        *instant = true;
    }
    wish
}

async fn all_here(node: &Node) {
    eventually(async || node.instant_boots(&ME).await.unwrap().is_empty()).await;
}

#[test]
fn a_machine_runs_from_the_vault_through_a_node_and_gets_its_disks() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let then = home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        good(&recovered(&node, RecoveryWish { start: true, ..instant("vm@newest", "fast") }).await);
        let view = node.vm(&ME, "fast").await.unwrap();
        assert_eq!(view.vm.state, VmState::Running, "{:?}", view.vm.state_reason);
        let image = &view.vm.disks[0].path;
        assert!(fs::metadata(image).unwrap().len() < 1 << 20, "nothing was brought over");

        // What it needs stays, and what is not all there is not backed up.
        assert_eq!(backed_up(&node, wish("fast")).await.state, RunState::Failed);
        let (_, point) = node.choose_point("vm@newest", None).await.unwrap();
        let needed = node.remove_point(&ME, &point.id.to_string(), None).await.unwrap_err();
        assert_eq!(needed.code(), ErrorKind::InUse, "{}", needed.message());
        assert_eq!(node.forget_repository(&ME, "R").await.unwrap_err().code(), ErrorKind::InUse);
        assert_eq!(node.finish_instant_boot(&ME, "vm").await.unwrap_err().code(), ErrorKind::Invalid);
        then
    });
    home.life(async |node| {
        assert_eq!(node.vm(&ME, "fast").await.unwrap().vm.state, VmState::Running);
        let begun = node.finish_instant_boot(&ME, "fast").await.unwrap();
        assert!(begun.finishing && begun.disks.len() == 1);
        all_here(&node).await;
        node.operate(&ME, "fast", Operation::TurnOff).await.unwrap();
        let image = node.vm(&ME, "fast").await.unwrap().vm.disks[0].path.clone();
        assert_eq!(bytes(&image), then);
        node.operate(&ME, "fast", Operation::Start).await.unwrap();
        assert!(backed_up(&node, wish("fast")).await.state.is_success());
        node.operate(&ME, "fast", Operation::TurnOff).await.unwrap();
        node.remove_vm(&ME, "fast", true).await.unwrap();
    });
}

/// A link that is dead stops the machine, also through a node; it goes on by itself, and no byte is wrong afterwards.
#[test]
fn a_repository_that_is_away_is_waited_for() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (place, away) = (vaults.path().join("r"), vaults.path().join("away"));
    let then = home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        good(&recovered(&node, instant("vm@newest", "fast")).await);
        then
    });
    fs::rename(&place, &away).unwrap();
    home.life(async |node| {
        node.operate(&ME, "fast", Operation::Start).await.unwrap();
        reaches(&node, "fast", VmState::Paused).await;
    });
    home.life(async |node| {
        let found = node.vm(&ME, "fast").await.unwrap().vm;
        assert_eq!(found.state, VmState::Paused, "{:?}", found.state_reason);
        fs::rename(&away, &place).unwrap();
        reaches(&node, "fast", VmState::Running).await;
        node.finish_instant_boot(&ME, "fast").await.unwrap();
        all_here(&node).await;
        node.operate(&ME, "fast", Operation::TurnOff).await.unwrap();
        let image = node.vm(&ME, "fast").await.unwrap().vm.disks[0].path.clone();
        assert_eq!(bytes(&image), then);
    });
}

#[test]
fn what_is_thrown_away_leaves_nothing() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        backed_up_vm(&node, vaults.path()).await;
        let own = fs::read_dir(home.path().join("vms")).unwrap().count();
        good(&recovered(&node, RecoveryWish { start: true, ..instant("vm@newest", "fast") }).await);
        node.discard_instant_boot(&ME, "fast").await.unwrap();
        assert!(node.vm(&ME, "fast").await.is_err() && node.instant_boots(&ME).await.unwrap().is_empty());
        assert_eq!(fs::read_dir(home.path().join("vms")).unwrap().count(), own);
        let (_, point) = node.choose_point("vm@newest", None).await.unwrap();
        node.remove_point(&ME, &point.id.to_string(), None).await.unwrap();
    });
}

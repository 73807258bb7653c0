//! Machines that start from a kernel of an image, on another host or after the image was built anew. None is started: what a
//! guest sees is the story's (`crates/cli/tests/stories/recover.rs`).

use std::{fs, path::Path};

use nestling_hypervisor::disk::ImageFormat;
use nestling_model::{Boot, protection::RunState};

use super::{
    book::Recovery,
    instant_tests::instant,
    tests::{as_new, good, in_place, recovered},
    values::{RecoveryWish, Whereto},
};
use crate::{
    ImportImage, NewVm, NewVmDisk, Node,
    exchange::tests::{imported, wish as import},
    protection::tests::{MIB, backed_up, new_repository, wish},
    testing::{ME, TestHome, small},
};

async fn image(node: &Node, name: &str, kernel: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vmlinuz"), kernel).unwrap();
    fs::write(dir.path().join("initrd.img"), "initrd").unwrap();
    let new = ImportImage { name: name.into(), path: dir.path().to_owned(), format: None, generation: None };
    node.import_image(&ME, new).await.unwrap();
}

async fn add_repository(node: &Node, vaults: &Path) {
    node.add_repository(&ME, new_repository("R", &vaults.join("r"), "hunter2")).await.unwrap();
}

/// What the kernel of a machine says.
async fn kernel(node: &Node, vm: &str) -> String {
    match node.vm(&ME, vm).await.unwrap().vm.boot {
        Boot::Kernel { kernel, .. } if kernel.starts_with(node.home.images().canonicalize().unwrap()) => {
            fs::read_to_string(kernel).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// A machine `k` that starts from the image `mine`, and a point of it.
async fn backed_up_machine(node: &Node, vaults: &Path) {
    add_repository(node, vaults).await;
    image(node, "mine", "one").await;
    let new_disk = Some(NewVmDisk { size_bytes: MIB, path: None });
    let new =
        NewVm { image: Some("mine".into()), append: Some("nestling.x=1".into()), new_disk, ..small("k") };
    node.create_vm(&ME, new).await.unwrap();
    assert!(backed_up(node, wish("k")).await.state.is_success());
}

fn from_image(wish: RecoveryWish, name: &str) -> RecoveryWish {
    let mut wish = wish;
    if let Whereto::AsNew { image, .. } = &mut wish.whereto {
        *image = Some(name.to_owned());
    }
    wish
}

fn warns(recovery: &Recovery, what: &str) -> bool {
    recovery.warnings.messages().iter().any(|warning| warning.as_str().contains(what))
}

#[test]
fn a_machine_that_starts_from_a_kernel_comes_back_on_another_host() {
    let (first, second) = (TestHome::new(), TestHome::new());
    let (vaults, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = out.path().join("k");
    first.life(async |node| {
        backed_up_machine(&node, vaults.path()).await;
        let whereto = Whereto::Folder { folder: folder.clone(), format: ImageFormat::Qcow2 };
        good(&recovered(&node, RecoveryWish { whereto, ..as_new("k@newest", None) }).await);
        let twin = recovered(&node, as_new("k@newest", Some("twin"))).await;
        assert_eq!((twin.state, kernel(&node, "twin").await.as_str()), (RunState::Succeeded, "one"));
    });
    second.life(async |node| {
        add_repository(&node, vaults.path()).await;
        let none = recovered(&node, as_new("k@newest", None)).await;
        let reason = none.reason.unwrap().to_string();
        assert!(reason.contains("nestling image import mine PATH") && reason.contains("--image"), "{reason}");
        let none = imported(&node, import(&folder)).await.unwrap_err().message();
        assert!(none.contains("nestling image import mine PATH"), "{none}");

        image(&node, "mine", "two").await;
        let back = recovered(&node, as_new("k@newest", None)).await;
        assert!(back.state.is_success() && warns(&back, "another version of the image 'mine'"), "{back:?}");
        assert_eq!(kernel(&node, "k").await, "two");
        let boot = node.vm(&ME, "k").await.unwrap().vm.boot;
        assert!(matches!(boot, Boot::Kernel { append, .. } if append.ends_with("nestling.x=1")));
        let fast = recovered(&node, instant("k@newest", "fast")).await;
        assert!(fast.state.is_success() && warns(&fast, "another version"), "{fast:?}");
        node.discard_instant_boot(&ME, "fast").await.unwrap();

        image(&node, "other", "three").await;
        good(&recovered(&node, from_image(as_new("k@newest", Some("o")), "other")).await);
        assert_eq!(kernel(&node, "o").await, "three");

        let new_identity = true;
        let named = |name: &str| Some(name.parse().unwrap());
        let (vm, warnings) =
            imported(&node, crate::ImportWish { name: named("i"), new_identity, ..import(&folder) })
                .await
                .unwrap();
        assert!(warnings.iter().any(|warning| warning.contains("another version")), "{warnings:?}");
        assert_eq!((kernel(&node, "i").await.as_str(), vm.disks.len()), ("two", 1));
        // OVF has no words for a kernel.
        let ovf = crate::ImportWish {
            name: named("v"),
            new_identity,
            image: Some("other".into()),
            ..import(&folder.join("machine.ovf"))
        };
        imported(&node, ovf).await.unwrap();
        assert_eq!(kernel(&node, "v").await, "three");
    });
}

#[test]
fn in_place_a_kernel_that_has_gone_is_found_again() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        backed_up_machine(&node, vaults.path()).await;
        let as_it_was = recovered(&node, in_place("k@newest")).await;
        assert_eq!((as_it_was.state, kernel(&node, "k").await.as_str()), (RunState::Succeeded, "one"));
        fs::remove_dir_all(fs::canonicalize(node.home.images().join("mine")).unwrap()).unwrap();
        let lost = recovered(&node, in_place("k@newest")).await;
        assert!(lost.state.is_success() && warns(&lost, "nestling image import mine"), "{lost:?}");
        image(&node, "mine", "two").await;
        let found = recovered(&node, in_place("k@newest")).await;
        assert!(found.state.is_success() && warns(&found, "another version"), "{found:?}");
        assert_eq!(kernel(&node, "k").await, "two");
    });
}

//! A node that is killed at every step of creating, running and removing a machine.
//!
//! The node runs in a process of its own (this same test program), which ends itself by SIGKILL at the step. Afterwards a
//! new node must find the old or the new, nothing half made, and a machine that works.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use nestling_hypervisor::{RunState, disk::ImageFormat};
use nestling_model::{Operation, VmState, protection::RunState as Ended};
use rustix::process::{Signal, getpid, kill_process};

use crate::{
    NewVm, NewVmDisk, Node, Seed, Settings,
    exchange::tests::{domain, imported, wish as import_of},
    proof::tests::{nothing_left, of, proven},
    protection::{
        job_tests::{MINUTE, T0, all, clock_at, named},
        tests::{MIB, backed_up, image, prepare, wish, write},
    },
    recovery::{
        RecoveryWish, Whereto,
        tests::{as_new, bytes, in_place, recovered},
    },
    testing::{ME, TestHome, eventually, settings, small},
};

const HOME: &str = "NESTLING_TEST_CRASH_HOME";
const STEP: &str = "NESTLING_TEST_CRASH_STEP";
const STORY: &str = "NESTLING_TEST_CRASH_STORY";
/// Of a node that is started when a job is due, and does nothing else.
const DUE: &str = "due";
/// The one step that is no step: in the middle of writing a state.
const WHILE_SAVING: &str = "while a state is written";

fn disk(home: &Path) -> PathBuf {
    home.join("disks/own.qcow2")
}

fn with_files(home: &Path) -> NewVm {
    let disk = NewVmDisk { size_bytes: 1 << 20, path: Some(disk(home)) };
    NewVm { new_disk: Some(disk), seed: Some(Seed::default()), ..small("vm") }
}

async fn tell(node: &Node, story: &str) {
    match story {
        "create" => _ = node.create_vm(&ME, with_files(node.home.root())).await.unwrap(),
        "remove" => _ = node.remove_vm(&ME, "vm", true).await.unwrap(),
        // Its scheduler dies.
        DUE => std::future::pending().await,
        "back up" => _ = backed_up(node, wish("vm")).await,
        "recover" => _ = recovered(node, as_new("vm@newest", Some("new"))).await,
        "prove" => _ = proven(node, of(&["vm"])).await,
        "import" => {
            let described = domain(node.home.root(), "theirs.img", "raw");
            imported(node, import_of(&described)).await.unwrap();
        }
        "export" => _ = recovered(node, export_to(node.home.root())).await,
        "recover in place" => _ = recovered(node, in_place("vm@newest")).await,
        operations => {
            for operation in operations.split(' ') {
                let operation = match operation {
                    "start" => Operation::Start,
                    "save" => Operation::Save,
                    "pause" => Operation::Pause,
                    "off" => Operation::TurnOff,
                    other => panic!("{other}"),
                };
                node.operate(&ME, "vm", operation).await.unwrap();
            }
        }
    }
}

#[test]
#[ignore = "the other half of the tests below, which run it in a process of its own"]
fn the_node_that_dies() {
    let (Ok(home), Ok(step), Ok(story)) = (env::var(HOME), env::var(STEP), env::var(STORY)) else { return };
    let die = move |reached: &'static str| {
        if reached == step {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        if step == WHILE_SAVING && reached == "saving" {
            let home = PathBuf::from(env::var(HOME).unwrap());
            std::thread::spawn(move || die_at_first_byte_of_a_state(&home));
        }
    };
    let settings = Settings { at_step: Some(Arc::new(die)), ..settings() };
    let settings = if story == DUE { clock_at(T0 + 15 * MINUTE, settings).0 } else { settings };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::open(Path::new(&home), settings).await.unwrap();
        tell(&node, &story).await;
    });
}

/// Until the state is being written; it may also be whole by then.
fn die_at_first_byte_of_a_state(home: &Path) {
    let begun = |dir: &Path| {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files
            .filter(|f| f.file_name().to_string_lossy().contains("saved"))
            .any(|f| f.metadata().is_ok_and(|m| m.len() > 0))
    };
    loop {
        let dirs = std::fs::read_dir(home.join("vms")).unwrap().flatten();
        if dirs.map(|d| d.path()).any(|d| begun(&d)) {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    }
}

/// Runs a story in a node that dies at a step.
fn die(home: &TestHome, story: &str, step: &str) {
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash_tests::the_node_that_dies", "--ignored", "--nocapture"])
        .env(HOME, home.path())
        .env(STEP, step)
        .env(STORY, story)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "\"{step}\" was not reached in \"{story}\"");
}

/// Files below the home that are no part of a node without machines.
fn left(home: &TestHome) -> Vec<PathBuf> {
    let below = |dir: &str| {
        let entries = std::fs::read_dir(home.path().join(dir)).unwrap();
        entries.map(|e| e.unwrap().path()).collect::<Vec<_>>()
    };
    ["vms", "disks"].into_iter().flat_map(below).collect()
}

/// A machine that is there works, and goes without a trace.
async fn works(home: &TestHome, node: &Node) {
    let view = node.vm(&ME, "vm").await.unwrap();
    assert!(view.vm.disks.iter().all(|d| d.path.exists()), "{:?}", view.vm.disks);
    assert!(view.vm.state.is_settled());
    match view.vm.state {
        VmState::Running => {}
        VmState::Paused => _ = node.operate(&ME, "vm", Operation::Resume).await.unwrap(),
        _ => _ = node.operate(&ME, "vm", Operation::Start).await.unwrap(),
    }
    assert_eq!(home.engines().len(), 1);
    node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
    assert!(home.engines().is_empty());
    node.remove_vm(&ME, "vm", true).await.unwrap();
    assert_eq!(left(home), [] as [PathBuf; 0]);
}

#[test]
fn creation_is_whole_or_nothing() {
    let steps = [
        ("creation noted", false),
        ("a file made", false),
        ("created in the store", true),
        ("files named", true),
    ];
    for (step, is_there) in steps {
        let home = TestHome::new();
        die(&home, "create", step);
        home.life(async |node| {
            if is_there {
                works(&home, &node).await;
            } else {
                assert!(node.vms(&ME).await.unwrap().is_empty(), "{step}");
                assert_eq!(left(&home), [] as [PathBuf; 0], "{step}");
                node.create_vm(&ME, with_files(node.home.root())).await.unwrap();
            }
        });
    }
}

#[test]
fn a_life_goes_on_from_either_side_of_a_step() {
    for (story, step, states) in [
        ("start", "launch", [VmState::Off, VmState::Off]),
        ("start", "launched", [VmState::Running, VmState::Running]),
        ("start", "started", [VmState::Running, VmState::Running]),
        ("start off", "engine ended", [VmState::Off, VmState::Running]),
    ] {
        let home = TestHome::new();
        home.life(async |node| {
            node.create_vm(&ME, with_files(node.home.root())).await.unwrap();
        });
        die(&home, story, step);
        home.life(async |node| {
            let state = node.vm(&ME, "vm").await.unwrap().vm.state;
            assert!(states.contains(&state) || !state.is_settled(), "{state} after \"{step}\"");
            crate::testing::settles(&node, "vm").await;
            works(&home, &node).await;
        });
    }
}

#[test]
fn removal_is_whole_or_nothing() {
    let home = TestHome::new();
    home.life(async |node| {
        node.create_vm(&ME, with_files(node.home.root())).await.unwrap();
    });
    assert!(disk(home.path()).exists());
    die(&home, "remove", "removed from the store");
    home.life(async |node| {
        assert!(node.vms(&ME).await.unwrap().is_empty());
        assert_eq!(left(&home), [] as [PathBuf; 0]);
    });
}

/// What was saved before the node died is what goes on: not an older state, and not a newer disk under it.
#[test]
fn a_resume_that_died_goes_on_or_starts_over() {
    for step in ["launch", "launched", "started"] {
        let home = TestHome::new();
        home.life(async |node| {
            node.create_vm(&ME, with_files(node.home.root())).await.unwrap();
            tell(&node, "start save").await;
        });
        die(&home, "start", step);
        home.life(async |node| {
            let view = node.vm(&ME, "vm").await.unwrap();
            let saved = node.home.vm(view.vm.id).saved().exists();
            let expected = if step == "launch" { VmState::Saved } else { VmState::Running };
            assert_eq!((view.vm.state, saved), (expected, step == "launch"), "{step}");
            works(&home, &node).await;
        });
    }
}

/// A save that was cut short loses no memory, lets a guest that ran go on, and leaves one that was paused paused.
#[test]
fn a_save_that_died_is_finished_or_never_was() {
    for (story, before) in [("start save", VmState::Running), ("start pause save", VmState::Paused)] {
        for step in ["saving", WHILE_SAVING, "saved", "noted as saved"] {
            let home = TestHome::new();
            home.life(async |node| {
                node.create_vm(&ME, with_files(node.home.root())).await.unwrap();
            });
            die(&home, story, step);
            let engine = home.engines();
            home.life(async |node| {
                let vm = node.vm(&ME, "vm").await.unwrap().vm;
                let saved = node.home.vm(vm.id).saved().exists();
                let label = format!("\"{story}\" at \"{step}\"");
                match step {
                    "saving" => assert_eq!(vm.state, before, "{label}"),
                    "saved" | "noted as saved" => assert_eq!(vm.state, VmState::Saved, "{label}"),
                    _ => assert!([before, VmState::Saved].contains(&vm.state), "{label}: {}", vm.state),
                }
                assert_eq!(saved, vm.state == VmState::Saved, "{label}");
                if vm.state == VmState::Saved {
                    assert!(home.engines().is_empty(), "{label}");
                } else {
                    assert_eq!(home.engines(), engine, "{label}");
                    let running = node.vms.find("vm").unwrap().now().running.unwrap();
                    let does = running.machine.run_state().await.unwrap();
                    let expected =
                        if before == VmState::Running { RunState::Running } else { RunState::Paused };
                    assert_eq!(does, expected, "{label}");
                }
                works(&home, &node).await;
            });
        }
    }
}

/// Whatever a backup had done when its node died: it is interrupted, nothing of it is left on the machine that a later
/// one does not clear away, and that one has all that there is.
#[test]
fn a_backup_that_died_is_interrupted_and_the_next_one_is_whole() {
    for on in [false, true] {
        for step in [
            "run written down",
            if on { "capture prepared" } else { "bitmaps added" },
            "instant made",
            "point durable",
            "point written down",
        ] {
            let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
            let label = format!("\"{step}\", running: {on}");
            home.life(async |node| {
                prepare(&node, vaults.path()).await;
                if on {
                    tell(&node, "start").await;
                }
                assert!(backed_up(&node, wish("vm")).await.state.is_success(), "{label}");
            });
            die(&home, "back up", step);
            home.life(async |node| {
                let died = node.run(&ME, "2").await.unwrap().run;
                assert_eq!(died.state, Ended::Interrupted, "{label}");
                let next = backed_up(&node, wish("vm")).await;
                assert!(next.state.is_success(), "{label}: {next:?}");
                let reading = next.machines[0].disks[0].reading.unwrap();
                assert!(reading.is_incremental(), "{label}: {reading:?}");
                if on {
                    tell(&node, "off").await;
                }
                let bitmaps = crate::protection::tests::bitmaps(&node.home.disks().join("vm.qcow2"));
                assert_eq!(bitmaps, 1, "{label}");
            });
        }
    }
}

#[test]
fn a_recovery_that_died_leaves_a_whole_machine_or_nothing() {
    for (step, is_there) in [
        ("recovery written down", false),
        ("creation noted", false),
        ("a disk recovered", false),
        ("created in the store", true),
        ("files named", true),
    ] {
        let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
        let then = home.life(async |node| {
            prepare(&node, vaults.path()).await;
            write(&image(&node), MIB, 7);
            assert!(backed_up(&node, wish("vm")).await.state.is_success(), "{step}");
            bytes(&image(&node))
        });
        let own = std::fs::read_dir(home.path().join("vms")).unwrap().count();
        die(&home, "recover", step);
        home.life(async |node| {
            assert_eq!(node.recovery(&ME, "1").await.unwrap().state, Ended::Interrupted, "{step}");
            assert_eq!(node.vm(&ME, "new").await.is_ok(), is_there, "{step}");
            if !is_there {
                assert_eq!(std::fs::read_dir(home.path().join("vms")).unwrap().count(), own, "{step}");
                assert!(
                    recovered(&node, as_new("vm@newest", Some("new"))).await.state.is_success(),
                    "{step}"
                );
            }
            let made = node.vm(&ME, "new").await.unwrap().vm;
            assert_eq!(bytes(&made.disks[0].path), then, "{step}");
        });
    }
}

/// Whatever a proof had done when its node died, the next one throws away what it left.
#[test]
fn a_proof_that_died_leaves_nothing() {
    for step in [
        "proof written down",
        "files named",
        "launched",
        "proof looked at",
        "removed from the store",
        "proof of a point written down",
    ] {
        let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
        home.life(async |node| {
            prepare(&node, vaults.path()).await;
            assert!(backed_up(&node, wish("vm")).await.state.is_success(), "{step}");
        });
        die(&home, "prove", step);
        home.life(async |node| {
            let died = node.proof(&ME, "1").await.unwrap().run;
            assert!(died.state.has_ended(), "{step}");
            eventually(async || node.vms(&ME).await.unwrap().len() == 1).await;
            eventually(async || home.engines().is_empty()).await;
            eventually(async || std::fs::read_dir(home.path().join("vms")).unwrap().count() <= 1).await;
            let next = proven(&node, of(&["vm"])).await;
            assert_eq!((next.number, next.state), (2, Ended::Failed), "{step}: its disk is empty");
            nothing_left(&home, &node, 1).await;
        });
    }
}

fn export_to(home: &Path) -> RecoveryWish {
    let whereto = Whereto::Folder { folder: home.join("export"), format: ImageFormat::Vhdx };
    RecoveryWish { whereto, ..as_new("vm@newest", None) }
}

#[test]
fn an_import_that_died_leaves_a_whole_machine_or_nothing() {
    for (step, is_there) in [
        ("creation noted", false),
        ("a disk imported", false),
        ("created in the store", true),
        ("files named", true),
    ] {
        let home = TestHome::new();
        std::fs::write(home.path().join("theirs.img"), vec![7_u8; 1 << 20]).unwrap();
        die(&home, "import", step);
        home.life(async |node| {
            assert_eq!(node.vms(&ME).await.unwrap().len(), usize::from(is_there), "{step}");
            if !is_there {
                assert_eq!(left(&home), [] as [PathBuf; 0], "{step}");
                tell(&node, "import").await;
            }
            let made = node.vm(&ME, "theirs").await.unwrap().vm;
            assert!(bytes(&made.disks[0].path) == vec![7_u8; 1 << 20], "{step}");
        });
    }
}

#[test]
fn an_export_that_died_leaves_nothing() {
    for step in ["recovery written down", "a folder begun", "a disk exported"] {
        let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
        home.life(async |node| {
            prepare(&node, vaults.path()).await;
            assert!(backed_up(&node, wish("vm")).await.state.is_success(), "{step}");
        });
        let parts = || {
            let entries = std::fs::read_dir(home.path()).unwrap().flatten();
            entries.filter(|e| e.file_name().to_string_lossy().starts_with(".nestling-")).count()
        };
        die(&home, "export", step);
        assert_eq!(parts(), usize::from(step != "recovery written down"), "{step}");
        home.life(async |node| {
            assert_eq!(node.recovery(&ME, "1").await.unwrap().state, Ended::Interrupted, "{step}");
            assert!(parts() == 0 && !home.path().join("export").exists(), "{step}");
            assert!(recovered(&node, export_to(home.path())).await.state.is_success(), "{step}");
        });
    }
}

/// From the first byte to the last one a machine does not start; before and after, it does.
#[test]
fn a_recovery_in_place_that_died_is_done_again_before_the_machine_starts() {
    for (step, starts) in [
        ("recovery written down", true),
        ("disks given", false),
        ("a disk overwritten", false),
        ("disks recovered", false),
        ("disks whole", true),
    ] {
        let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
        let then = home.life(async |node| {
            prepare(&node, vaults.path()).await;
            write(&image(&node), MIB, 7);
            assert!(backed_up(&node, wish("vm")).await.state.is_success(), "{step}");
            let then = bytes(&image(&node));
            write(&image(&node), 2 * MIB, 9);
            then
        });
        die(&home, "recover in place", step);
        home.life(async |node| {
            assert_eq!(node.recovery(&ME, "1").await.unwrap().state, Ended::Interrupted, "{step}");
            let started = node.operate(&ME, "vm", Operation::Start).await;
            assert_eq!(started.is_ok(), starts, "{step}: {:?}", started.err());
            if starts {
                tell(&node, "off").await;
            }
            assert!(recovered(&node, in_place("vm@newest")).await.state.is_success(), "{step}");
            assert_eq!(bytes(&image(&node)), then, "{step}");
            let next = backed_up(&node, wish("vm")).await;
            assert!(next.state.is_success(), "{step}: {next:?}");
            assert_eq!(next.machines[0].new_bytes, 0, "{step}");
            tell(&node, "start off").await;
        });
    }
}

/// A job that was due when the node died has one whole run for that time, whatever had happened: it is begun by the next node,
/// or found as interrupted and begun again once. And the next time has its run.
#[test]
fn a_due_job_whose_node_died_runs_once() {
    for (step, left) in [
        ("job due", None),
        ("run written down", Some(Ended::Interrupted)),
        ("instant made", Some(Ended::Interrupted)),
    ] {
        let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
        let (before, _) = clock_at(T0, settings());
        home.life_with(before, async |node| {
            prepare(&node, vaults.path()).await;
            node.create_job(&ME, named("A"), all(Some("every 15 minutes"))).await.unwrap();
        });
        die(&home, DUE, step);
        let (after, hands) = clock_at(T0 + 16 * MINUTE, settings());
        home.life_with(after, async |node| {
            let states = async || {
                eventually(async || node.protection.runs.all().iter().all(|r| r.ended.is_cancelled())).await;
                let runs = node.protection.runs.documents();
                runs.iter().map(|run| run.state).collect::<Vec<_>>()
            };
            let mut expected: Vec<Ended> = left.into_iter().chain([Ended::Succeeded]).collect();
            node.shared().look().await;
            assert_eq!(states().await, expected, "{step}");
            node.shared().look().await;
            assert_eq!(states().await, expected, "{step}: once");
            hands.send_replace(T0 + 30 * MINUTE);
            node.shared().look().await;
            expected.push(Ended::Succeeded);
            assert_eq!(states().await, expected, "{step}");
        });
    }
}

//! Machines on real engines (emulation; the firmware alone), through the node's use cases.

use std::time::{Duration, Instant};

use nestling_identity::Identity;
use nestling_model::{EngineKind, Operation, StartAction, StopAction, VmState};

use crate::{
    ErrorKind, NewVm, NodeError, VmChange,
    testing::{ME, TestHome, name, reaches, small, started},
};

#[test]
fn a_machine_lives_through_all_its_states() {
    let home = TestHome::new();
    home.life(async |node| {
        let view = node.create_vm(&ME, small("Ada")).await.unwrap();
        assert_eq!((view.vm.state, view.memory_assigned_bytes, view.engine), (VmState::Off, 0, None));
        let view = node.operate(&ME, "ada", Operation::Start).await.unwrap();
        assert_eq!(view.vm.state, VmState::Running);
        assert_eq!((view.memory_assigned_bytes, view.engine), (32 << 20, Some(EngineKind::Tcg)));
        assert_eq!(home.engines().len(), 1);
        for (operation, state) in [
            (Operation::Start, VmState::Running),
            (Operation::Pause, VmState::Paused),
            (Operation::Pause, VmState::Paused),
            (Operation::Resume, VmState::Running),
            (Operation::Reset, VmState::Running),
            (Operation::Save, VmState::Saved),
            (Operation::Start, VmState::Running),
            (Operation::Pause, VmState::Paused),
            (Operation::Save, VmState::Saved),
            (Operation::RemoveSavedState, VmState::Off),
            (Operation::TurnOff, VmState::Off),
            (Operation::Start, VmState::Running),
            (Operation::TurnOff, VmState::Off),
        ] {
            let view = node.operate(&ME, "Ada", operation).await.unwrap();
            assert_eq!(view.vm.state, state, "after {operation:?}");
            assert_eq!(home.engines().len(), usize::from(state.has_engine()), "after {operation:?}");
        }
        let files = node.home.vm(view.vm.id);
        assert!(!files.saved().exists());
        assert_eq!(node.remove_vm(&ME, "Ada", true).await.unwrap(), crate::RemovedVm::default());
        assert!(!files.dir().exists());
        let gone = node.vm(&ME, "Ada").await.unwrap_err();
        assert_eq!(gone.message(), "Hyper-V was unable to find a virtual machine with name \"Ada\".");
        assert_eq!(gone.code(), ErrorKind::NotFound);
    });
}

#[test]
fn what_a_running_machine_cannot_change_is_refused_and_unchanged() {
    let home = TestHome::new();
    home.life(async |node| {
        let before = started(&node, "Server2016").await;
        let expose = VmChange { expose_virtualization_extensions: Some(true), ..VmChange::default() };
        let refused = node.change_vm(&ME, "Server2016", expose.clone()).await.unwrap_err();
        let id = before.vm.id.0.to_string().to_uppercase();
        assert_eq!(
            refused.message(),
            format!(
                "Failed to modify device 'Processor'.\n\
                 The operation cannot be performed while the virtual machine is in its current state.\n\
                 'Server2016' failed to modify device 'Processor'. (Virtual machine ID {id})\n\
                 The operation cannot be performed while the virtual machine is in its current state."
            )
        );
        let memory = VmChange { memory_startup_bytes: Some(64 << 20), ..VmChange::default() };
        let refused = node.change_vm(&ME, "Server2016", memory).await.unwrap_err();
        assert!(refused.message().starts_with("Failed to modify device 'Memory'."), "{refused}");
        assert_eq!(node.vm(&ME, "Server2016").await.unwrap().vm, before.vm);
        let notes = VmChange { notes: Some("n".into()), name: Some(name("L1")), ..VmChange::default() };
        let renamed = node.change_vm(&ME, "Server2016", notes).await.unwrap();
        assert_eq!((renamed.vm.name.as_str(), renamed.vm.notes.as_str()), ("L1", "n"));
        node.operate(&ME, "L1", Operation::TurnOff).await.unwrap();
        let exposed = node.change_vm(&ME, "L1", expose).await.unwrap();
        assert!(exposed.vm.processor.expose_virtualization_extensions);
    });
}

#[test]
fn extensions_need_version_8() {
    let home = TestHome::new();
    home.life(async |node| {
        let old = NewVm { version: Some("5.0".parse().unwrap()), ..small("old") };
        node.create_vm(&ME, old).await.unwrap();
        let expose = VmChange { expose_virtualization_extensions: Some(true), ..VmChange::default() };
        let refused = node.change_vm(&ME, "old", expose.clone()).await.unwrap_err();
        assert!(refused.message().contains("configuration version 8.0 or higher"), "{refused}");
        assert_eq!(refused.code(), ErrorKind::Invalid);
        assert_eq!(node.update_version(&ME, "old").await.unwrap().vm.version.as_str(), "12.0");
        node.change_vm(&ME, "old", expose).await.unwrap();
    });
}

/// A guest that does not answer keeps nobody waiting: what else is asked is refused at once, power off gets through.
#[test]
fn power_off_interrupts_a_shutdown_that_hangs() {
    let home = TestHome::new();
    home.life(async |node| {
        started(&node, "deaf").await;
        let asking = node.clone();
        let shutdown =
            tokio::spawn(async move { asking.operate(&ME, "deaf", Operation::ShutDown).await.map(|_| ()) });
        reaches(&node, "deaf", VmState::Stopping).await;
        let refused = node.operate(&ME, "deaf", Operation::Pause).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InvalidState);
        assert_eq!(refused.hint().unwrap(), "'deaf' is Stopping");
        let begun = Instant::now();
        let off = node.operate(&ME, "deaf", Operation::TurnOff).await.unwrap();
        assert_eq!(off.vm.state, VmState::Off);
        assert!(begun.elapsed() < Duration::from_secs(5));
        let interrupted = shutdown.await.unwrap().unwrap_err();
        assert!(matches!(interrupted, NodeError::Interrupted { .. }), "{interrupted}");
        assert!(home.engines().is_empty());
    });
}

#[test]
fn an_engine_that_dies_is_noticed_at_once_with_the_reason() {
    let home = TestHome::new();
    home.life(async |node| {
        started(&node, "frail").await;
        let mut events = node.events(&ME).unwrap();
        let begun = Instant::now();
        home.kill_engines();
        reaches(&node, "frail", VmState::Off).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let view = node.vm(&ME, "frail").await.unwrap();
        assert_eq!(view.vm.state_reason.as_deref(), Some("QEMU was killed by signal 9 (SIGKILL)"));
        let told = events.recv().await.unwrap();
        assert_eq!(
            (told.object.as_str(), told.message.as_str()),
            ("frail", "QEMU was killed by signal 9 (SIGKILL)")
        );
        let view = node.operate(&ME, "frail", Operation::Start).await.unwrap();
        assert_eq!(view.vm.state_reason, None);
    });
}

#[test]
fn machines_outlive_the_node_and_are_found_again() {
    let home = TestHome::new();
    home.life(async |node| {
        started(&node, "a").await;
        started(&node, "b").await;
        node.operate(&ME, "b", Operation::Pause).await.unwrap();
    });
    let engines = home.engines();
    assert_eq!(engines.len(), 2);
    home.life(async |node| {
        let views = node.vms(&ME).await.unwrap();
        let states: Vec<VmState> = views.iter().map(|v| v.vm.state).collect();
        assert_eq!(states, [VmState::Running, VmState::Paused]);
        assert!(views.iter().all(|v| v.engine == Some(EngineKind::Tcg) && v.uptime_ms > 0));
        node.operate(&ME, "b", Operation::Resume).await.unwrap();
        assert_eq!(home.engines(), engines);
    });
    home.kill_engines();
    home.life(async |node| {
        // The default start action brings back what ran.
        for vm in ["a", "b"] {
            reaches(&node, vm, VmState::Running).await;
        }
        let off = VmChange { start_action: Some(StartAction::Nothing), ..VmChange::default() };
        node.change_vm(&ME, "a", off).await.unwrap();
    });
    home.kill_engines();
    home.life(async |node| {
        let a = node.vm(&ME, "a").await.unwrap().vm;
        assert_eq!(a.state, VmState::Off);
        assert_eq!(a.state_reason.as_deref(), Some("its engine was gone when the node started"));
        reaches(&node, "b", VmState::Running).await;
    });
}

#[test]
fn start_actions_decide_what_starts_with_the_node() {
    let home = TestHome::new();
    home.life(async |node| {
        for (vm, action) in [
            ("always", StartAction::Start),
            ("ran", StartAction::StartIfRunning),
            ("rested", StartAction::StartIfRunning),
            ("never", StartAction::Nothing),
        ] {
            let new = NewVm { start_action: Some(action), ..small(vm) };
            node.create_vm(&ME, new).await.unwrap();
        }
        for vm in ["ran", "never"] {
            node.operate(&ME, vm, Operation::Start).await.unwrap();
        }
    });
    home.kill_engines();
    home.life(async |node| {
        reaches(&node, "ran", VmState::Running).await;
        // Only the node has started, so what was turned off stays so.
        for vm in ["always", "rested", "never"] {
            assert_eq!(node.vm(&ME, vm).await.unwrap().vm.state, VmState::Off, "{vm}");
        }
    });
    home.kill_engines();
    home.forget_boot();
    home.life(async |node| {
        reaches(&node, "always", VmState::Running).await;
        reaches(&node, "ran", VmState::Running).await;
        for vm in ["rested", "never"] {
            assert_eq!(node.vm(&ME, vm).await.unwrap().vm.state, VmState::Off, "{vm}");
        }
    });
}

#[test]
fn a_name_is_given_once_whatever_its_case_and_whoever_asks_first() {
    let home = TestHome::new();
    home.life(async |node| {
        let both = tokio::join!(node.create_vm(&ME, small("Twin")), node.create_vm(&ME, small("tWIN")));
        let errors: Vec<NodeError> = [both.0, both.1].into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code(), ErrorKind::Exists);
        node.create_vm(&ME, small("other")).await.unwrap();
        let taken = VmChange { name: Some(name("TWIN")), ..VmChange::default() };
        assert_eq!(node.change_vm(&ME, "other", taken).await.unwrap_err().code(), ErrorKind::Exists);
        let own = VmChange { name: Some(name("OTHER")), ..VmChange::default() };
        assert_eq!(node.change_vm(&ME, "other", own).await.unwrap().vm.name.as_str(), "OTHER");
    });
}

#[test]
fn definitions_that_this_host_cannot_give_are_refused() {
    let home = TestHome::new();
    home.life(async |node| {
        for bad in [
            NewVm { processor_count: Some(0), ..small("x") },
            NewVm { processor_count: Some(10_000), ..small("x") },
            NewVm { memory_startup_bytes: Some(0), ..small("x") },
            NewVm { memory_startup_bytes: Some(1 << 60), ..small("x") },
            NewVm { memory_startup_bytes: Some((32 << 20) + 1), ..small("x") },
            NewVm { append: Some("quiet".into()), ..small("x") },
            NewVm { notes: "x".repeat(10_000), ..small("x") },
        ] {
            assert_eq!(node.create_vm(&ME, bad).await.unwrap_err().code(), ErrorKind::Invalid);
        }
        let missing = NewVm { disk_path: Some("/nonexistent.qcow2".into()), ..small("x") };
        assert_eq!(node.create_vm(&ME, missing).await.unwrap_err().code(), ErrorKind::NotFound);
        let no_switch = NewVm { switch: Some("nowhere".into()), ..small("x") };
        assert_eq!(node.create_vm(&ME, no_switch).await.unwrap_err().code(), ErrorKind::NotFound);
        let no_image = NewVm { image: Some("pebble".into()), ..small("x") };
        let unbuilt = node.create_vm(&ME, no_image).await.unwrap_err();
        assert_eq!(unbuilt.hint().unwrap(), "build it: nestling image build pebble");
        assert!(node.vms(&ME).await.unwrap().is_empty());
        node.create_vm(&ME, small("x")).await.unwrap();
    });
}

#[test]
fn a_stranger_gets_nothing() {
    let home = TestHome::new();
    home.life(async |node| {
        let stranger = Identity::Local { uid: 4_000_000 };
        let denied = node.create_vm(&stranger, small("x")).await.unwrap_err();
        assert_eq!(denied.message(), "You do not have the required permission to complete this task.");
        assert_eq!(node.vms(&stranger).await.unwrap_err().code(), ErrorKind::Denied);
        assert!(node.events(&stranger).is_err() && node.stop(&stranger).await.is_err());
    });
}

#[test]
fn more_memory_than_is_there_is_refused_at_the_start() {
    let home = TestHome::new();
    home.life(async |node| {
        let total = crate::facts::memory().total_bytes >> 20 << 20;
        let big = NewVm { memory_startup_bytes: Some(total), ..small("big") };
        node.create_vm(&ME, big).await.unwrap();
        let refused = node.operate(&ME, "big", Operation::Start).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::Requirement);
        let text = refused.message();
        let sentence = "Not enough memory in the system to start the virtual machine big with ram size";
        assert!(text.starts_with("'big' failed to start.") && text.contains(sentence), "{text}");
        assert_eq!(node.vm(&ME, "big").await.unwrap().vm.state, VmState::Off);
    });
}

/// A thousand machines: made fast, listed fast, and cheap to have.
#[test]
fn a_thousand_machines_are_no_burden() {
    const ALONE: &str = "NESTLING_TEST_ALONE";
    // The memory that is looked at is the whole process's, and other tests take some: it gets one of its own.
    if std::env::var_os(ALONE).is_none() {
        let test = std::env::current_exe().unwrap();
        let name = "vm::tests::a_thousand_machines_are_no_burden";
        let done = std::process::Command::new(test).args(["--exact", name]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let home = TestHome::new();
    home.life(async |node| {
        // How long it takes is measured by ./bench on a machine that does nothing else; here, that it does not grow
        // with what is there already.
        let mut quarters = Vec::new();
        for quarter in 0..4 {
            let begun = Instant::now();
            for n in quarter * 250..(quarter + 1) * 250 {
                node.create_vm(&ME, small(&format!("vm{n:04}"))).await.unwrap();
            }
            quarters.push(begun.elapsed());
        }
        let mut listings = Vec::new();
        let mut views = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            views = node.vms(&ME).await.unwrap();
            listings.push(begun.elapsed());
        }
        let listed = listings.into_iter().min().unwrap_or_default();
        assert_eq!(views.len(), 1000);
        let macs: std::collections::BTreeSet<_> = views.iter().map(|v| v.adapters[0].adapter.mac).collect();
        assert_eq!(macs.len(), 1000);
        let rss = resident_bytes();
        eprintln!("created in {quarters:?}, listed in {listed:?}, {} MB", rss >> 20);
        assert!(quarters[2].min(quarters[3]) < 4 * quarters[0].max(quarters[1]), "{quarters:?}");
        assert!(listed < Duration::from_millis(100), "{listed:?}");
        assert!(rss < 100 << 20, "{rss}");
    });
    let begun = Instant::now();
    home.life(async |node| {
        assert_eq!(node.vms(&ME).await.unwrap().len(), 1000);
        eprintln!("opened and listed in {:?}, {} MB", begun.elapsed(), resident_bytes() >> 20);
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_host_that_goes_down_stops_its_machines_and_comes_back_with_them() {
    let home = TestHome::new();
    home.life(async |node| {
        for (vm, action) in
            [("kept", StopAction::Save), ("cut", StopAction::TurnOff), ("deaf", StopAction::ShutDown)]
        {
            started(&node, vm).await;
            let change = VmChange { stop_action: Some(action), ..VmChange::default() };
            node.change_vm(&ME, vm, change).await.unwrap();
        }
        node.create_vm(&ME, small("rested")).await.unwrap();
        node.stop_machines(&ME, Duration::from_secs(3)).await.unwrap();
        let states: Vec<VmState> = node.vms(&ME).await.unwrap().iter().map(|v| v.vm.state).collect();
        assert_eq!(states, [VmState::Off, VmState::Off, VmState::Saved, VmState::Off]);
        assert!(home.engines().is_empty());
    });
    home.life(async |node| {
        for vm in ["kept", "cut", "deaf"] {
            reaches(&node, vm, VmState::Running).await;
        }
        assert_eq!(node.vm(&ME, "rested").await.unwrap().vm.state, VmState::Off);
        for vm in ["kept", "cut", "deaf"] {
            node.operate(&ME, vm, Operation::TurnOff).await.unwrap();
        }
    });
    home.life(async |node| {
        assert!(node.vms(&ME).await.unwrap().iter().all(|v| v.vm.state == VmState::Off));
    });
}

#[test]
fn a_saved_machine_keeps_the_devices_that_it_was_saved_with() {
    let home = TestHome::new();
    home.life(async |node| {
        started(&node, "vm").await;
        let saved = node.operate(&ME, "vm", Operation::Save).await.unwrap();
        let refused = node.add_adapter(&ME, "vm", crate::NewAdapter::default()).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InvalidState);
        let id = saved.adapters[0].adapter.id;
        assert!(node.remove_adapter(&ME, "vm", id).await.is_err());
        let memory = VmChange { memory_startup_bytes: Some(64 << 20), ..VmChange::default() };
        assert!(node.change_vm(&ME, "vm", memory).await.is_err());
        node.change_vm(&ME, "vm", VmChange { notes: Some("n".into()), ..VmChange::default() }).await.unwrap();
        assert_eq!(node.operate(&ME, "vm", Operation::Start).await.unwrap().vm.state, VmState::Running);
    });
}

/// Whoever asks may go away: what was begun is done whole, and what was claimed comes free.
#[test]
fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let home = TestHome::new();
    home.life(async |node| {
        for n in 0..20 {
            let name = format!("vm{n}");
            let (making, new) = (node.clone(), small(&name));
            let asked = tokio::spawn(async move { making.create_vm(&ME, new).await.map(|_| ()) });
            tokio::time::sleep(Duration::from_micros(200 * n)).await;
            asked.abort();
        }
        // Every creation that was begun ends soon; then each name is either taken or free, and works.
        for n in 0..20 {
            let name = format!("vm{n}");
            let made = crate::testing::eventually(async || {
                match (node.create_vm(&ME, small(&name)).await, node.vm(&ME, &name).await) {
                    (Ok(_), Ok(_)) => true,
                    (Err(e), Ok(_)) if e.code() == ErrorKind::Exists => true,
                    _ => false,
                }
            });
            made.await;
        }
        assert_eq!(node.vms(&ME).await.unwrap().len(), 20);
    });
    home.life(async |node| {
        assert_eq!(node.vms(&ME).await.unwrap().len(), 20);
    });
}

#[test]
fn an_engine_that_hangs_is_ended_by_power_off() {
    let home = TestHome::new();
    home.life(async |node| {
        started(&node, "hung").await;
        home.signal_engines(rustix::process::Signal::STOP);
        let reading = Instant::now();
        assert_eq!(node.vms(&ME).await.unwrap()[0].vm.state, VmState::Running);
        assert!(reading.elapsed() < Duration::from_secs(2), "readers do not wait for it");
        let off = node.operate(&ME, "hung", Operation::TurnOff).await.unwrap();
        assert_eq!(off.vm.state, VmState::Off);
        assert!(home.engines().is_empty());
    });
}

/// Whoever looks never sees a machine run whose engine has gone.
#[test]
fn a_machine_whose_engine_dies_in_a_save_is_off_and_nothing_else() {
    let home = TestHome::new();
    home.life(async |node| {
        let new = NewVm { memory_startup_bytes: Some(512 << 20), ..small("vm") };
        node.create_vm(&ME, new).await.unwrap();
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        let mut now = node.vms.find("vm").unwrap().watch();
        now.mark_unchanged();
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.last() != Some(&VmState::Off) {
                now.changed().await.unwrap();
                seen.push(now.borrow_and_update().vm.state);
            }
            seen
        });
        let saving = node.clone();
        let save = tokio::spawn(async move { saving.operate(&ME, "vm", Operation::Save).await.map(|_| ()) });
        reaches(&node, "vm", VmState::Saving).await;
        home.kill_engines();
        assert!(save.await.unwrap().is_err());
        assert_eq!(seen.await.unwrap(), [VmState::Saving, VmState::Off]);
        let view = node.vm(&ME, "vm").await.unwrap();
        assert!(view.vm.state_reason.is_some() && !node.home.vm(view.vm.id).saved().exists());
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
    });
}

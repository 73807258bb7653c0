//! What is done around a guest that nobody answers for, and what a node finds that follows one which died. What real databases
//! do is the story's (`crates/cli/tests/stories/applications.rs`).

use nestling_model::{
    Operation,
    protection::{Freeze, RunState},
};
use serde_json::json;

use super::*;
use crate::{
    BackupWish, Node,
    protection::tests::{backed_up, prepare, wish},
    testing::{ME, TestHome, eventually},
};

fn ready(on_failure: OnFailure) -> BackupWish {
    let consistency = Consistency::Application {
        freeze: Freeze { seconds_max: 2, mount_points: Vec::new() },
        applications: vec![Application::Found { cut_logs: true }],
        before: Vec::new(),
        after: Vec::new(),
        after_durable: Vec::new(),
        on_failure,
    };
    BackupWish { consistency, ..wish("vm") }
}

async fn log(node: &Node, run: u64) -> String {
    node.run_log(&ME, &run.to_string()).await.unwrap()
}

#[test]
fn a_guest_that_does_not_answer_is_a_warning_or_no_backup() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let off = backed_up(&node, ready(OnFailure::Fail)).await;
        assert_eq!(off.machines[0].consistency, Some(ConsistencyReached::Off), "{off:?}");

        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        let warned = backed_up(&node, ready(OnFailure::Warn)).await;
        let machine = &warned.machines[0];
        assert_eq!(
            (machine.state, machine.consistency),
            (RunState::SucceededWithWarnings, Some(ConsistencyReached::Crash)),
            "{machine:?}"
        );
        let warnings = format!("{:?}", machine.warnings);
        assert!(warnings.contains("its applications were not ready"), "{warnings}");
        assert!(log(&node, warned.number).await.contains("in the guest: "), "what was tried is told");

        let failed = backed_up(&node, ready(OnFailure::Fail)).await;
        let reason = failed.machines[0].reason.clone().unwrap();
        assert!(reason.as_str().contains("could not be made ready"), "{reason}");
        assert_eq!(failed.machines[0].point, None);
    });
}

#[test]
fn what_another_engines_guest_was_owed_is_not_done() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let number = home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let run = backed_up(&node, wish("vm")).await;
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        for due in ["Release", "Cut"] {
            // Two of one run cannot be; of two machines they can.
            let vm = if due == "Cut" { json!(run.machines[0].id) } else { json!(uuid::Uuid::from_u128(7)) };
            let owed = json!({
                "run": run.id, "vm": vm, "engine": "another", "due": due,
                "parts": [{"application": {"MariaDb": {"cut_logs": true}}, "notes": ["bin.000007"]}],
            });
            let owed: Owed = serde_json::from_value(owed).unwrap();
            node.keeper.put(&owed).await.unwrap();
        }
        run.number
    });
    home.life(async |node| {
        eventually(async || log(&node, number).await.contains("the next backup cuts them")).await;
        assert!(log(&node, number).await.contains("the next node lets the guest go"));
    });
    home.life(async |node| assert!(node.protection.owed.is_empty(), "it is forgotten"));
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let Consistency::Application { freeze, before, after, after_durable, on_failure, .. } =
        ready(OnFailure::Warn).consistency
    else {
        unreachable!()
    };
    let applications = vec![Application::Vss { mode: nestling_model::protection::VssMode::Copy }];
    let vss = Consistency::Application { freeze, applications, before, after, after_durable, on_failure };
    let refused = check_possible(&vss).unwrap_err().message();
    assert!(refused.contains("full backup"), "{refused}");
}

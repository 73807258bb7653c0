//! Loans as the host above sees them: what is lent, and what is left when it is not given back.

use std::time::Duration;

use nestling_model::{
    Operation,
    protection::{Consistency, RepositoryId, RunState},
};
use uuid::Uuid;

use super::{super::loan::LoanPoint, *};
use crate::{
    ErrorKind, Settings,
    protection::tests::{MIB, backed_up, bitmaps, good, image, prepare, why, wish, write},
    testing::{ME, TestHome, eventually, settings},
};

fn loan_wish(vm: &str) -> LoanWish {
    LoanWish {
        vm: vm.to_owned(),
        repository: RepositoryId(Uuid::from_u128(77)),
        points: Vec::new(),
        full: false,
        excluded: Vec::new(),
        consistency: Consistency::Crash,
    }
}

async fn ready(node: &Node, wish: LoanWish) -> LoanView {
    let begun = node.lend(&ME, wish).await.unwrap();
    reached(node, &begun, LoanState::Ready).await
}

async fn reached(node: &Node, loan: &LoanView, state: LoanState) -> LoanView {
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let view = node.loan(&ME, &loan.id.to_string(), Duration::from_secs(1)).await.unwrap();
        if view.state == state {
            return view;
        }
    }
    panic!("it does not get {state:?}");
}

fn impatient() -> Settings {
    Settings { loan_patience: Some(Duration::from_millis(700)), ..settings() }
}

#[test]
fn an_instant_is_read_confirmed_and_given_back() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        write(&image(&node), MIB, 7);
        let loan = ready(&node, loan_wish("vm")).await;
        let id = loan.id.to_string();
        let lent = loan.instant.unwrap();
        assert_eq!(
            (lent.disks.len(), lent.disks[0].name.as_str(), lent.disks[0].bytes),
            (1, "ide-0", 16 * MIB)
        );
        let told = node.loan_data(&ME, &id, "0", 0..16 * MIB).await.unwrap();
        assert_eq!(told.until, 16 * MIB);
        assert!(told.ranges.iter().any(|range| range.contains(&MIB)) && told.ranges.len() < 3, "{told:?}");
        let bytes = node.loan_bytes(&ME, &id, "0", MIB..MIB + 5).await.unwrap();
        assert_eq!(bytes.as_ref(), [7; 5]);
        for (disk, from, to) in
            [("1", 0, 1), ("0", 0, 0), ("0", 16 * MIB, 16 * MIB + 1), ("0", 5, 1), ("x", 0, 1)]
        {
            let range = from..to;
            assert!(node.loan_bytes(&ME, &id, disk, range.clone()).await.is_err(), "{disk} {range:?}");
        }
        assert!(node.loan_bytes(&ME, &id, "0", 0..8 * MIB).await.is_err(), "too much at once");
        assert!(node.loan_changes(&ME, &id, "0", 0).await.is_err(), "nothing is known of changes");

        // A person's backup is refused meanwhile; the run is one of this node.
        let refused = node.back_up(&ME, wish("vm")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InUse);
        node.confirm_loan(&ME, &id).await.unwrap();
        let point = "ab".repeat(32).parse().unwrap();
        node.return_loan(&ME, &id, Some(point)).await.unwrap();
        let ended = reached(&node, &loan_of(&id), LoanState::Ended).await;
        assert_eq!((ended.reason, ended.warnings.len()), (None, 0));
        let run = node.runs(&ME, Some("vm"), None).await.unwrap().remove(0).run;
        assert_eq!((run.state, run.machines[0].point), (RunState::Succeeded, Some(point)));
        assert_eq!(run.causes.len(), 1);
        assert_eq!(bitmaps(&image(&node)), 1, "tracking counts from the point");
        assert!(node.loan_bytes(&ME, &id, "0", 0..1).await.is_err());
    });
}

/// Of which nothing was captured.
fn made_up(entry: &Arc<Entry>, stage: Stage) -> Loan {
    Loan {
        id: Uuid::new_v4(),
        vm: "vm".parse().unwrap(),
        entry: Arc::clone(entry),
        stage: watch::Sender::new(stage),
        orders: mpsc::channel(1).0,
        touched: Mutex::new(Instant::now()),
        failed: AtomicBool::new(false),
        returned: AtomicBool::new(false),
    }
}

#[test]
fn the_host_above_begins_again_where_this_node_would() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let id = ready(&node, loan_wish("vm")).await.id.to_string();
        let loan = made_up(&node.protection.loans.find(&id).unwrap().entry, Stage::Ending);
        let again = |error: NodeError, engine| conduct::ended(&loan, &Err(error), engine).again;
        assert!(again(NodeError::Stopping, false));
        assert!(again(NodeError::invalid("it broke off"), true), "its engine has ended");
        assert!(!again(NodeError::invalid("it broke off"), false));
        assert!(!again(NodeError::Cancelled, true), "somebody wanted it");
    });
}

#[test]
fn loans_that_have_ended_keep_nobody_from_lending_and_are_forgotten_when_they_are_many() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let id = ready(&node, loan_wish("vm")).await.id.to_string();
        let entry = Arc::clone(&node.protection.loans.find(&id).unwrap().entry);
        let loans = Loans::default();
        let add = |stage: Stage| {
            let loan = Arc::new(made_up(&entry, stage));
            loans.add(&loan).map(|()| loan.id.to_string())
        };
        let first = add(Stage::Ended(Ended::default())).unwrap();
        for _ in 0..ENDED_MAX + 9 {
            add(Stage::Ended(Ended::default())).unwrap();
        }
        assert_eq!(lock(&loans.0).len(), ENDED_MAX);
        assert!(loans.find(&first).is_err());
        let lent: Vec<String> = (0..LOANS_MAX).map(|_| add(Stage::Preparing).unwrap()).collect();
        assert!(add(Stage::Preparing).is_err());
        assert!(lent.iter().all(|id| loans.find(id).is_ok()));
    });
}

fn loan_of(id: &str) -> LoanView {
    LoanView {
        id: id.parse().unwrap(),
        state: LoanState::Ending,
        instant: None,
        warnings: Vec::new(),
        reason: None,
        again: false,
    }
}

#[test]
fn what_nobody_asks_for_any_more_is_given_up_and_leaves_nothing() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life_with(impatient(), async |node| {
        prepare(&node, vaults.path()).await;
        for running in [false, true] {
            if running {
                node.operate(&ME, "vm", Operation::Start).await.unwrap();
            }
            ready(&node, loan_wish("vm")).await;
            let run = async || node.runs(&ME, Some("vm"), None).await.unwrap().remove(0).run;
            eventually(async || run().await.state.has_ended()).await;
            assert_eq!(run().await.state, RunState::Failed);
            assert!(run().await.reason.unwrap().as_str().contains("host above"));
        }
        // Nothing is held any more, and the machine can be backed up and stopped.
        good(&backed_up(&node, wish("vm")).await);
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        assert_eq!(bitmaps(&image(&node)), 1, "the one of the backup");
    });
}

#[test]
fn a_point_that_was_not_confirmed_does_not_count() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let loan = ready(&node, loan_wish("vm")).await;
        node.return_loan(&ME, &loan.id.to_string(), Some("ab".repeat(32).parse().unwrap())).await.unwrap();
        let ended = reached(&node, &loan, LoanState::Ended).await;
        assert!(ended.reason.unwrap().contains("confirmed"));
        assert_eq!(bitmaps(&image(&node)), 0);

        let loan = ready(&node, loan_wish("vm")).await;
        node.return_loan(&ME, &loan.id.to_string(), None).await.unwrap();
        let ended = reached(&node, &loan, LoanState::Ended).await;
        assert!(ended.reason.is_none() && !ended.again);
        assert_eq!(bitmaps(&image(&node)), 0);
    });
}

#[test]
fn loans_of_two_repositories_above_and_own_backups_count_each_by_themselves() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        good(&backed_up(&node, wish("vm")).await);
        let mut points = Vec::new();
        for number in [1_u128, 2] {
            let repository = RepositoryId(Uuid::from_u128(number));
            let loan = ready(&node, LoanWish { repository, ..loan_wish("vm") }).await;
            let described = crate::protection::description::Description::read(
                loan.instant.as_ref().unwrap().description.as_bytes(),
            );
            let id = PointId::from_bytes([number as u8; 32]);
            points.push((repository, LoanPoint { id, disks: described.unwrap().disks_then() }));
            node.confirm_loan(&ME, &loan.id.to_string()).await.unwrap();
            node.return_loan(&ME, &loan.id.to_string(), Some(id)).await.unwrap();
            reached(&node, &loan, LoanState::Ended).await;
        }
        assert_eq!(bitmaps(&image(&node)), 3);
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "its own is still there");
        for (repository, point) in points {
            let wish = LoanWish { repository, points: vec![point], ..loan_wish("vm") };
            let loan = ready(&node, wish).await;
            let lent = loan.instant.clone().unwrap();
            assert_eq!((lent.point, lent.disks[0].since), (Some(0), Ok(())));
            let told = node.loan_changes(&ME, &loan.id.to_string(), "0", 0).await.unwrap();
            assert_eq!((told.ranges.len(), told.until), (0, 16 * MIB));
            node.return_loan(&ME, &loan.id.to_string(), None).await.unwrap();
            reached(&node, &loan, LoanState::Ended).await;
        }
        assert_eq!(bitmaps(&image(&node)), 3, "nothing of what was given back is left");
    });
}

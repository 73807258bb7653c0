//! Two nodes: one has a machine `L1`, the other stands for the node inside it. What travels between them is twisted here as a
//! hostile node would; the guest channel itself is tested where it is.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::FutureExt;
use nestling_identity::Identity;
use nestling_model::{
    Operation,
    protection::{NotTracked, PointId, Reading, Run, RunState},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    super::{
        loan::{LoanView, LoanWish, Stretches},
        tests::{MIB, backed_up, bitmaps, ended, good, image, prepare, saved_byte, why, wish, write},
        values::{BackupWish, PointsWish},
    },
    port::{Answer, MachineInside, NodesInside, Refused, Way},
};
use crate::{
    ErrorKind, Node, NodeError, Settings, VmChange,
    locked::lock,
    testing::{ME, TestHome, settings, small},
};

/// What the node inside does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    None,
    /// It cannot be reached.
    Gone,
    /// It goes away when so many reads have been answered.
    GoneAfter(usize),
    ShortBytes,
    LongBytes,
    ListsOutside,
    ListsBackwards,
    ListsThatStand,
    ChangesOfNothing,
    Description,
    Disks,
    Point,
    NeverReady,
    NotConfirmed,
    /// The machine is started in the middle of its backup.
    Starts,
}

/// The way into the node that stands for the one inside.
struct Direct {
    inner: OnceLock<Node>,
    twist: Mutex<Twist>,
    reads: AtomicUsize,
}

fn told(error: &NodeError) -> Refused {
    Refused::new(error.code(), error.message())
}

impl Direct {
    fn node(&self) -> Node {
        self.inner.get().unwrap().clone()
    }

    fn twist(&self) -> Twist {
        *lock(&self.twist)
    }

    fn answer<T: Send + 'static>(
        &self,
        work: impl Future<Output = crate::Result<T>> + Send + 'static,
        change: impl FnOnce(T, Twist) -> T + Send + 'static,
    ) -> Answer<T> {
        let twist = self.twist();
        let gone = match twist {
            Twist::Gone => true,
            Twist::GoneAfter(reads) => self.reads.load(Relaxed) >= reads,
            _ => false,
        };
        if gone {
            let why = Refused::new(ErrorKind::GuestAbsent, "no node answers inside the virtual machine");
            return std::future::ready(Err(why)).boxed();
        }
        async move { work.await.map(|done| change(done, twist)).map_err(|error| told(&error)) }.boxed()
    }
}

fn twisted_list(told: Stretches, twist: Twist) -> Stretches {
    match twist {
        Twist::ListsOutside => {
            Stretches { ranges: std::iter::once(0..u64::MAX).collect(), until: told.until }
        }
        Twist::ListsBackwards => {
            Stretches { ranges: vec![MIB..2 * MIB, 0..1, MIB..MIB + 1], until: told.until }
        }
        Twist::ListsThatStand => Stretches { ranges: Vec::new(), until: 0 },
        _ => told,
    }
}

fn twisted_loan(mut view: LoanView, twist: Twist) -> LoanView {
    if twist == Twist::NeverReady {
        view.instant = None;
    }
    if let Some(lent) = &mut view.instant {
        match twist {
            Twist::Description => lent.description = "{\"version\": 1}".to_owned(),
            Twist::Disks => lent.disks[0].bytes = u64::MAX,
            Twist::Point => lent.point = Some(99),
            // There is no point that anything could be known since.
            Twist::ChangesOfNothing => lent.disks[0].since = Ok(()),
            _ => {}
        }
    }
    view
}

impl NodesInside for Direct {
    fn machines(&self, _: &Way) -> Answer<Vec<MachineInside>> {
        let node = self.node();
        let machine = |view: crate::VmView| MachineInside {
            id: view.vm.id,
            name: view.vm.name.clone(),
            tags: view.vm.tags.clone(),
            state: view.vm.state,
            memory_bytes: view.vm.memory.startup_bytes,
            processors: view.vm.processor.count,
            generation: view.vm.generation,
            switches: Vec::new(),
            nesting: false,
            hosts_nestling: false,
        };
        let work = async move { Ok(node.vms(&ME).await?.into_iter().map(machine).collect()) };
        self.answer(work, |all, _| all)
    }

    fn lend(&self, _: &Way, wish: LoanWish) -> Answer<LoanView> {
        let node = self.node();
        self.answer(async move { node.lend(&Identity::Parent, wish).await }, twisted_loan)
    }

    fn loan(&self, _: &Way, loan: Uuid, wait: Duration) -> Answer<LoanView> {
        let node = self.node();
        self.answer(async move { node.loan(&ME, &loan.to_string(), wait).await }, twisted_loan)
    }

    fn data(&self, _: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Stretches> {
        let node = self.node();
        let work = async move { node.loan_data(&ME, &loan.to_string(), &disk.to_string(), range).await };
        self.answer(work, twisted_list)
    }

    fn changed(&self, _: &Way, loan: Uuid, disk: usize, from: u64) -> Answer<Stretches> {
        let node = self.node();
        let work = async move { node.loan_changes(&ME, &loan.to_string(), &disk.to_string(), from).await };
        self.answer(work, twisted_list)
    }

    fn bytes(&self, _: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Bytes> {
        let (node, twist) = (self.node(), self.twist());
        let first = self.reads.load(Relaxed) == 0;
        let work = async move {
            if first && twist == Twist::Starts {
                node.operate(&ME, "vm", Operation::Start).await?;
            }
            node.loan_bytes(&ME, &loan.to_string(), &disk.to_string(), range).await
        };
        let change = |bytes: Bytes, twist| match twist {
            Twist::ShortBytes => bytes.slice(1..),
            Twist::LongBytes => [bytes, Bytes::from_static(b"x")].concat().into(),
            _ => bytes,
        };
        let answer = self.answer(work, change);
        self.reads.fetch_add(1, Relaxed);
        answer
    }

    fn confirm(&self, _: &Way, loan: Uuid) -> Answer<()> {
        let node = self.node();
        if self.twist() == Twist::NotConfirmed {
            return std::future::ready(Err(Refused::new(ErrorKind::Failed, "it was not"))).boxed();
        }
        self.answer(async move { node.confirm_loan(&ME, &loan.to_string()).await }, |(), _| ())
    }

    fn give_back(&self, _: &Way, loan: Uuid, point: Option<PointId>) -> Answer<LoanView> {
        let node = self.node();
        self.answer(async move { node.return_loan(&ME, &loan.to_string(), point).await }, |view, _| view)
    }
}

struct Nest {
    outer: Node,
    inner: Node,
    direct: Arc<Direct>,
}

impl Nest {
    fn twist(&self, twist: Twist) {
        *lock(&self.direct.twist) = twist;
        self.direct.reads.store(0, Relaxed);
    }

    async fn backed_up(&self) -> Run {
        backed_up(&self.outer, wish("l1/VM")).await
    }
}

/// A host with a machine `L1` that runs and a repository `R`; inside it a machine `vm`, and a repository of its own.
fn nest(work: impl AsyncFnOnce(Nest)) {
    let (homes, vaults) = ([TestHome::new(), TestHome::new()], TempDir::new().unwrap());
    let direct = Arc::new(Direct {
        inner: OnceLock::new(),
        twist: Mutex::new(Twist::None),
        reads: AtomicUsize::new(0),
    });
    let port: Arc<dyn NodesInside> = direct.clone();
    let with_port = Settings { nodes_inside: Some(port), ..settings() };
    homes[0].life_with(with_port, async |outer| {
        let patient = Settings { loan_patience: Some(Duration::from_secs(4)), ..settings() };
        let inner = Node::open(homes[1].path(), patient).await.unwrap();
        prepare_both(&outer, &inner, vaults.path()).await;
        assert!(direct.inner.set(inner.clone()).is_ok());
        work(Nest { outer, inner, direct: Arc::clone(&direct) }).await;
    });
}

async fn prepare_both(outer: &Node, inner: &Node, vaults: &Path) {
    let repository = super::super::tests::new_repository("R", &vaults.join("outer"), "hunter2");
    outer.add_repository(&ME, repository).await.unwrap();
    outer.create_vm(&ME, small("L1")).await.unwrap();
    outer.operate(&ME, "L1", Operation::Start).await.unwrap();
    prepare(inner, &vaults.join("inner")).await;
    write(&image(inner), MIB, 7);
}

#[test]
fn a_machine_inside_is_saved_in_the_host_s_vault_and_then_only_what_changed() {
    nest(async |nest| {
        let first = nest.backed_up().await;
        let machine = good(&first);
        assert_eq!((machine.path.to_string().as_str(), why(&first)), ("L1/vm", Some(NotTracked::FirstPoint)));
        assert_ne!(machine.id, nest.inner.vms.find("vm").unwrap().now().vm.id, "an id of this host");
        assert_eq!(saved_byte(&nest.outer, MIB).await, 7);
        assert!(machine.disks[0].read_bytes >= 65536 && machine.disks[0].read_bytes < 2 * MIB);

        // The node inside makes backups of its own in between.
        good(&backed_up(&nest.inner, wish("vm")).await);
        let second = nest.backed_up().await;
        let disk = &good(&second).disks[0];
        assert!(
            matches!(disk.reading, Some(Reading::Changes { since }) if Some(since) == first.machines[0].point)
        );
        assert_eq!((disk.read_bytes, bitmaps(&image(&nest.inner))), (0, 2));
        assert_eq!(why(&backed_up(&nest.inner, wish("vm")).await), None);

        // With an engine, and when somebody else wrote to the image.
        nest.inner.operate(&ME, "vm", Operation::Start).await.unwrap();
        assert_eq!(why(&nest.backed_up().await), None);
        nest.inner.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        write(&image(&nest.inner), 2 * MIB, 9);
        let touched = nest.backed_up().await;
        assert!(why(&touched).is_some());
        assert_eq!(saved_byte(&nest.outer, 2 * MIB).await, 9);
        let full = backed_up(&nest.outer, BackupWish { full: true, ..wish("L1/vm") }).await;
        assert_eq!(why(&full), Some(NotTracked::Asked));

        let of = async |vm: &str| {
            let asked = PointsWish { vm: Some(vm.to_owned()), count_max: 100, ..PointsWish::default() };
            nest.outer.points(&ME, asked).await.unwrap().points.len()
        };
        assert_eq!((of("l1/VM").await, of("L1/*").await, of("vm").await), (5, 5, 0));
    });
}

#[test]
fn whatever_the_node_inside_says_there_is_no_wrong_point() {
    nest(async |nest| {
        for (twist, says) in [
            (Twist::Gone, "no node answers"),
            (Twist::ShortBytes, "asked for"),
            (Twist::LongBytes, "asked for"),
            (Twist::ListsOutside, "not inside the disk"),
            (Twist::ListsBackwards, "not in order"),
            (Twist::ListsThatStand, "ends where none may end"),
            (Twist::Description, "cannot be read"),
            (Twist::Disks, "other disks"),
            (Twist::Point, "a point that there is not"),
            (Twist::NeverReady, "nothing is there"),
            (Twist::NotConfirmed, "it was not"),
        ] {
            nest.twist(twist);
            let begun = nest.outer.back_up(&ME, wish("L1/vm")).await;
            let why = match begun {
                Ok(begun) => {
                    let run = ended(&nest.outer, begun).await;
                    assert_eq!((run.state, run.machines[0].point), (RunState::Failed, None), "{twist:?}");
                    run.machines[0].reason.as_ref().unwrap().to_string()
                }
                Err(error) => error.message(),
            };
            assert!(why.contains(says), "{twist:?}: {why}");
        }
        // None of it has left anything there, and a lie about changes since nothing is not believed.
        nest.twist(Twist::None);
        crate::testing::eventually(async || bitmaps(&image(&nest.inner)) == 0).await;
        nest.twist(Twist::ChangesOfNothing);
        let run = nest.backed_up().await;
        assert_eq!((why(&run), saved_byte(&nest.outer, MIB).await), (Some(NotTracked::FirstPoint), 7));
    });
}

#[test]
fn a_node_inside_that_vanishes_ends_the_backup_and_keeps_nothing() {
    nest(async |nest| {
        nest.twist(Twist::GoneAfter(0));
        let begun = Instant::now();
        let refused = nest.outer.back_up(&ME, wish("L1/vm")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::GuestAbsent, "{}", refused.message());
        assert!(refused.hint().is_some());
        nest.twist(Twist::GoneAfter(1));
        let run = nest.backed_up().await;
        assert_eq!(run.state, RunState::Failed);
        assert!(begun.elapsed() < Duration::from_secs(60));
        // It cannot be told, so it gives the loan up by itself.
        nest.twist(Twist::None);
        crate::testing::eventually(async || bitmaps(&image(&nest.inner)) == 0).await;
        good(&nest.backed_up().await);
    });
}

#[test]
fn a_machine_inside_that_is_started_meanwhile_is_backed_up_as_it_is_then() {
    nest(async |nest| {
        nest.twist(Twist::Starts);
        let run = nest.backed_up().await;
        good(&run);
        assert_eq!(saved_byte(&nest.outer, MIB).await, 7);
        let runs = nest.inner.runs(&ME, Some("vm"), None).await.unwrap();
        let states: Vec<RunState> = runs.iter().map(|view| view.run.state).collect();
        assert_eq!(states, [RunState::Succeeded, RunState::Failed], "newest first");
    });
}

#[test]
fn a_run_that_is_cancelled_gives_back_what_it_borrowed() {
    nest(async |nest| {
        // A machine of a backup inside has its turn, so the loan has to wait.
        let vm = nest.inner.vms.find("vm").unwrap().now().vm.id;
        let turn = nest.inner.protection.turns.take(vm).await;
        let begun = nest.outer.back_up(&ME, wish("L1/vm")).await.unwrap();
        let number = begun.run.number.to_string();
        crate::testing::eventually(async || nest.inner.runs(&ME, Some("vm"), None).await.unwrap().len() == 1)
            .await;
        nest.outer.cancel_run(&ME, &number).await.unwrap();
        assert_eq!(ended(&nest.outer, begun).await.state, RunState::Cancelled);
        let inner = async || nest.inner.runs(&ME, Some("vm"), None).await.unwrap()[0].run.state;
        crate::testing::eventually(async || inner().await == RunState::Cancelled).await;
        drop(turn);
        good(&nest.backed_up().await);
    });
}

#[test]
fn a_machine_inside_that_is_missing_is_told_and_ids_are_of_their_host() {
    nest(async |nest| {
        for missing in ["L1/none", "none/vm"] {
            let refused = nest.outer.back_up(&ME, wish(missing)).await.unwrap_err();
            assert_eq!(refused.code(), ErrorKind::NotFound, "{missing}: {}", refused.message());
        }
        nest.outer.operate(&ME, "L1", Operation::TurnOff).await.unwrap();
        let refused = nest.outer.back_up(&ME, wish("L1/vm")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::GuestAbsent);
    });
    let id = |n: u128| nestling_model::VmId(Uuid::from_u128(n));
    let (a, b) = (super::id_inside(id(1), id(2)), super::id_inside(id(2), id(1)));
    assert!(a != b && a == super::id_inside(id(1), id(2)) && a != id(2));
    assert_eq!(a.0.get_version_num(), 8);
}

#[test]
fn a_job_covers_machines_inside_by_name_and_by_pattern() {
    use super::super::job_values::JobSettings;
    nest(async |nest| {
        let settings = |include: &str| JobSettings {
            include: Some(vec![include.parse().unwrap()]),
            consistency: Some(nestling_model::protection::Consistency::Crash),
            ..JobSettings::default()
        };
        nest.outer.create_job(&ME, "j".parse().unwrap(), settings("L1/*")).await.unwrap();
        let plan = nest.outer.plan_job(&ME, "j").await.unwrap();
        assert_eq!((plan.machines.len(), plan.problem), (1, None));
        assert_eq!(plan.machines[0].path.to_string(), "L1/vm");
        let begun = nest.outer.run_job(&ME, "j").await.unwrap();
        let run = ended(&nest.outer, begun).await;
        assert_eq!((run.machines.len(), good(&run).path.to_string().as_str()), (1, "L1/vm"));

        // What the node inside says of a tag can leave a machine out, and bring none in.
        let tags = vec!["scratch".parse().unwrap()];
        let change = VmChange { add_tags: tags, ..VmChange::default() };
        nest.inner.change_vm(&ME, "vm", change).await.unwrap();
        let excluding =
            JobSettings { exclude: Some(vec!["tag:scratch".parse().unwrap()]), ..settings("L1/*") };
        for (name, settings) in [("less", excluding), ("none", settings("tag:scratch"))] {
            nest.outer.create_job(&ME, name.parse().unwrap(), settings).await.unwrap();
            let plan = nest.outer.plan_job(&ME, name).await.unwrap();
            assert!(plan.machines.is_empty(), "{name}: {plan:?}");
        }

        // A node inside that does not answer: what was saved before is not forgotten.
        nest.twist(Twist::Gone);
        nest.outer.operate(&ME, "L1", Operation::TurnOff).await.unwrap();
        let begun = nest.outer.run_job(&ME, "j").await.unwrap();
        let run = ended(&nest.outer, begun).await;
        assert_eq!((run.state, run.machines.len()), (RunState::Failed, 1), "{run:?}");
        nest.outer.create_job(&ME, "k".parse().unwrap(), settings("L1/other")).await.unwrap();
        let begun = nest.outer.run_job(&ME, "k").await.unwrap();
        let run = ended(&nest.outer, begun).await;
        assert_eq!((run.state, run.machines.len()), (RunState::SucceededWithWarnings, 0));
        assert_eq!(run.warnings.messages().len(), 1 + 1, "{:?}", run.warnings);
    });
}

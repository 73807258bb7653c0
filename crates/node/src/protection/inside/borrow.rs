//! A machine inside another one in a run: its instant is asked for, checked, and given back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_model::protection::PointId;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        conduct::excluded_of,
        earlier::Earlier,
        loan::{LoanPoint, LoanState, LoanView, LoanWish},
        machine::{Backup, Holder, Taken, TakenDisk},
        saving::Served,
    },
    Inside, Patience, Refused,
    check::{self, Checked, CheckedDisk, Expected},
    disk::{InsideDisk, Shares},
    refused,
    session::{Session, in_time},
};
use crate::{ErrorKind, NodeError, error::Result};

/// For one look at a loan whose state is waited for.
const LOOK_WAIT: Duration = Duration::from_secs(10);
/// A node that answers sooner is not asked sooner again.
const LOOK_DELAY: Duration = Duration::from_millis(200);
/// For the node inside to end a loan whose point is durable: logs may be cut.
const END_TIMEOUT: Duration = Duration::from_secs(3600);
/// For it to take back a loan of which there is no point. Nobody who does not ask has a loan for long, so little is lost.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(15);
/// So often a node inside hears that somebody still wants what it keeps.
const TOUCH_INTERVAL: Duration = Duration::from_secs(20);

/// An instant that a node inside keeps.
pub struct Borrowed {
    session: Arc<Session>,
    touching: JoinHandle<()>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.session.left.cancel();
        self.touching.abort();
    }
}

impl Borrowed {
    fn new(session: Arc<Session>) -> Self {
        let touched = Arc::clone(&session);
        let touching = tokio::spawn(async move {
            loop {
                sleep(TOUCH_INTERVAL).await;
                // Whoever reads finds out why, if it is no more.
                let _ = touched.look(Duration::ZERO).await;
            }
        });
        Self { session, touching }
    }

    /// Whether somebody waits for an answer about its disks now.
    pub fn is_waited_for(&self) -> bool {
        self.session.waiting.load(Relaxed) > 0
    }

    /// It takes too long: nothing is read any more.
    pub fn is_late(&self, why: &str) -> NodeError {
        self.session.left.cancel();
        let (vm, why) = (self.session.path.to_string(), format!("the node inside is too slow: {why}"));
        NodeError::Inside { vm, why, kind: ErrorKind::Timeout, again: false }
    }

    pub async fn confirm(&self) -> Result<()> {
        self.session.asked(self.session.confirm()).await
    }

    /// There is no point. If the node inside knows better why, its reason is the one that counts.
    pub async fn gave_up(self, error: NodeError, unread: bool) -> NodeError {
        let given = timeout(GIVE_BACK_TIMEOUT, async {
            let mut view = self.session.give_back(None).await?;
            while view.state != LoanState::Ended {
                view = self.session.look(LOOK_WAIT).await?;
                sleep(LOOK_DELAY).await;
            }
            Ok::<_, Refused>(view)
        });
        match given.await {
            Ok(Ok(view)) if unread && view.reason.is_some() => self.session.ended(&view),
            Ok(Err(why)) if unread => self.session.error(&why),
            _ => error,
        }
    }
}

fn taken(borrowed: Borrowed, inside: &Inside, checked: Checked) -> Taken {
    let shares = Arc::new(Shares::new());
    let disk = |(number, disk): (usize, CheckedDisk)| {
        let (session, shares) = (Arc::clone(&borrowed.session), Arc::clone(&shares));
        let (name, tracked) = (disk.name.as_str(), disk.since.is_ok());
        let served = InsideDisk::new(session, number, name, disk.bytes, tracked, shares);
        let served = Served::Inside(Arc::new(served));
        TakenDisk { served, name: disk.name, bytes: disk.bytes, since: disk.since }
    };
    Taken {
        disks: checked.disks.into_iter().enumerate().map(disk).collect(),
        vm: inside.id,
        description: checked.description,
        taken_at_ms: checked.taken_at_ms,
        point: checked.point,
        consistency: checked.consistency,
        frozen_for: checked.frozen_for,
        took: checked.took,
        warnings: checked.warnings,
        holder: Holder::Inside(borrowed),
    }
}

impl Backup<'_> {
    /// One instant of a machine inside another one.
    pub async fn borrow(&self, inside: &Inside, points: &Earlier, patience: &mut Patience) -> Result<Taken> {
        self.entry.does(self.number, self.path, "asking the node inside");
        let (found, way, inner) = self.unless_over(self.node.find_inside(&inside.path)).await?;
        if found.id != inside.id {
            return Err(self.is_strange("another machine has its name by now"));
        }
        let ids = points.points.iter().map(|point| PointId::from_bytes(point.id.0));
        let wish = LoanWish {
            vm: inner.0.to_string(),
            repository: self.known.repository.id,
            points: ids.zip(points.then()).map(|(id, disks)| LoanPoint { id, disks }).collect(),
            full: self.way.full,
            excluded: excluded_of(&self.way.excluded_disks, self.path),
            consistency: self.way.consistency.clone(),
        };
        let (port, asked_at) = (self.node.nodes_inside(self.path)?, Instant::now());
        let begun = in_time(port.lend(&way, wish));
        let begun = async { begun.await.map_err(|why| refused(self.path, &why)) };
        let view = self.unless_over(begun).await?;
        let over = [self.entry.cancel.clone(), self.node.stopping.clone()];
        let (loan, path, left) = (view.id, self.path.clone(), CancellationToken::new());
        let session = Session { port, way, loan, path, over, left, waiting: AtomicUsize::new(0) };
        let borrowed = Borrowed::new(Arc::new(session));
        let view = self.ready(&borrowed.session, view, asked_at, patience.ready_left).await;
        patience.waited(asked_at.elapsed());
        match view.and_then(|view| self.checked(inside, view, points, asked_at)) {
            Ok(checked) => Ok(taken(borrowed, inside, checked)),
            Err(error) => Err(borrowed.gave_up(error, false).await),
        }
    }

    /// Looks at what is said of the instant.
    fn checked(
        &self,
        inside: &Inside,
        view: LoanView,
        points: &Earlier,
        asked_at: Instant,
    ) -> Result<Checked> {
        let lent = view.instant.ok_or_else(|| self.is_strange("it is ready, and nothing is there"))?;
        let then = points.then();
        let expected = Expected {
            vm: inside.id,
            path: self.path,
            run: self.entry.run().id,
            now_ms: self.node.now_ms(),
            asked_for: asked_at.elapsed(),
            points: &then,
        };
        check::check(&lent, &expected).map_err(|why| self.is_strange(why))
    }

    /// Waits until the instant is there.
    async fn ready(
        &self,
        session: &Session,
        view: LoanView,
        asked_at: Instant,
        patience: Duration,
    ) -> Result<LoanView> {
        let left = patience.saturating_sub(asked_at.elapsed());
        let late = |_| Err(self.is_strange("the instant is not ready after hours"));
        let ready = timeout(left, self.prepared(session, view));
        self.unless_over(async { ready.await.unwrap_or_else(late) }).await
    }

    async fn prepared(&self, session: &Session, mut view: LoanView) -> Result<LoanView> {
        self.entry.does(self.number, self.path, "the node inside makes the instant");
        loop {
            match view.state {
                LoanState::Ready => return Ok(view),
                LoanState::Ending | LoanState::Ended => return Err(session.ended(&view)),
                LoanState::Preparing => {}
            }
            sleep(LOOK_DELAY).await;
            view = session.asked(session.look(LOOK_WAIT)).await?;
        }
    }

    fn is_strange(&self, why: &str) -> NodeError {
        let why = format!("the node inside gave an answer that makes no sense: {why}");
        NodeError::Inside { vm: self.path.to_string(), why, kind: ErrorKind::Failed, again: false }
    }

    /// The point is durable. What the node inside could not do then, in its words.
    pub async fn is_durable(&self, borrowed: Borrowed, point: PointId) -> Vec<String> {
        let session = &borrowed.session;
        let given = timeout(END_TIMEOUT, async {
            let mut view = session.give_back(Some(point)).await?;
            while view.state != LoanState::Ended && !self.is_over() {
                view = session.look(LOOK_WAIT).await?;
                sleep(LOOK_DELAY).await;
            }
            Ok::<_, Refused>(view)
        });
        let why = match given.await {
            Ok(Ok(view)) => {
                let mut warnings = view.warnings;
                warnings.extend(view.reason);
                return check::harmless(&warnings);
            }
            Ok(Err(why)) => session.error(&why).message(),
            Err(_) => "it has not answered in time".to_owned(),
        };
        vec![format!("the node inside may not know that the point is durable, and cuts no logs then: {why}")]
    }
}

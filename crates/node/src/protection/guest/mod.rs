//! Applications in a guest: made ready before the instant, let go after it, and their logs cut once the point is durable.
//!
//! ```text
//!   written down ► ready ► capture (freeze, instant, thaw) ► let go ► save ► durable ► written down ► logs cut ► forgotten
//!                    └───────── whatever fails ────────────────┘
//! ```
//!
//! What must never happen: that a guest which was made ready is not let go, however the run ends; that logs are cut for a point
//! that is not durable, or that is worth less than its applications were promised; that what a guest says means anything to
//! this host. All programs run beside the machine's task, so that one that hangs holds up no operation. Before the capture a
//! program is waited for to its end, also when the run shall end: one that was left alone would undo what lets the guest go.

pub mod owed;
mod programs;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use nestling_hypervisor::RunState;
use nestling_model::{
    EventKind, Operation,
    protection::{Application, Command, Consistency, ConsistencyReached, OnFailure},
};
use nestling_store::Document;

use self::{
    owed::{Due, Owed, Part},
    programs::{Ended, Guest, Program},
};
use super::{capturing::Capturing, runs::Entry};
use crate::{
    NodeError,
    error::Result,
    node::Shared,
    vm::{
        Running,
        capture::{CaptureWish, Held, Seen},
    },
};

/// For a guest to let go of file systems that a node left frozen.
const THAW_WITHIN: Duration = Duration::from_secs(60);

/// What a run does with the applications of one guest.
struct Steps {
    running: Arc<Running>,
    on_failure: OnFailure,
    before: Vec<Command>,
    /// Whether it is a failure when one of them does not run there.
    named: bool,
    owed: Owed,
}

/// Refuses what the words of a job allow and nothing here can do.
pub fn check_possible(consistency: &Consistency) -> Result<()> {
    let Consistency::Application { applications, .. } = consistency else { return Ok(()) };
    if applications.iter().any(|application| matches!(application, Application::Vss { .. })) {
        return Err(NodeError::invalid(
            "what a Windows guest's applications are told cannot be chosen: each freeze by its agent is a full backup to them; \
             ask for the consistency of file systems",
        ));
    }
    Ok(())
}

fn named(applications: &[Application]) -> (bool, Vec<Part>) {
    let part = |application| Part { application, notes: Vec::new() };
    match applications {
        [Application::Found { cut_logs }] => {
            let postgresql = Application::PostgreSql { cut_logs: *cut_logs, cut_archive: None };
            (false, vec![part(postgresql), part(Application::MariaDb { cut_logs: *cut_logs })])
        }
        named => (true, named.iter().cloned().map(part).collect()),
    }
}

impl Capturing<'_> {
    /// Captures the machine, its applications ready if that is wanted. With what is owed to the guest once the point is durable.
    pub async fn instant(&self, wish: CaptureWish) -> Result<(Seen, Option<Owed>)> {
        let wants = matches!(self.consistency, Consistency::Application { .. });
        let Some(mut steps) = self.guest_steps() else {
            let seen = self.capture(wish).await?;
            // What has an engine now and had none was started in between, and nobody made it ready.
            if wants && matches!(seen.held, Held::Engine(_)) {
                return Err(self.gave_up(seen, self.overtaken(), false).await);
            }
            return Ok((seen, None));
        };
        self.node.keeper.put(&steps.owed).await?;
        self.node.steps.reached("guest to be let go");
        let ready = self.make_ready(&mut steps).await;
        let seen = match &ready {
            _ if self.is_over() => Err(NodeError::Cancelled),
            Err(why) if steps.on_failure == OnFailure::Fail => Err(self.not_ready(why)),
            _ => self.capture(wish).await,
        };
        let released = let_go(&steps.owed, &self.guest(&steps.running)).await;
        forget(self.node, &steps.owed).await;
        if let Err(why) = &released {
            self.node.events.tell(EventKind::Warning, self.path.to_string(), why.as_str());
        }
        let mut seen = seen?;
        match self.judge(&mut seen, &steps, ready.and(released)) {
            Ok(()) => {
                let owed = (seen.consistency == ConsistencyReached::Application).then_some(steps.owed);
                Ok((seen, owed))
            }
            Err(error) => Err(self.gave_up(seen, error, false).await),
        }
    }

    fn guest(&self, running: &Running) -> Guest<'_> {
        Guest { agent: running.machine.agent(), log: &self.entry.log, path: self.path.to_string() }
    }

    async fn capture(&self, wish: CaptureWish) -> Result<Seen> {
        self.entry.does(self.number, self.path, "making the instant");
        let seen = self.handle.ask(Operation::Modify, move |owner| Box::pin(owner.capture(wish)));
        self.unless_over(seen).await
    }

    fn not_ready(&self, why: &str) -> NodeError {
        NodeError::NotReady { vm: self.handle.now().vm.name.clone(), why: why.to_owned() }
    }

    fn overtaken(&self) -> NodeError {
        let why = "it was started while its applications were to be made ready".to_owned();
        NodeError::BackupEnded { vm: self.handle.now().vm.name.clone(), why }
    }

    /// `None` where there is no guest or nothing is to be done in it.
    fn guest_steps(&self) -> Option<Steps> {
        let Consistency::Application { applications, before, after, after_durable, on_failure, .. } =
            self.consistency
        else {
            return None;
        };
        let now = self.handle.now();
        let running = now.running?;
        let (named, parts) = named(applications);
        let mut owed = Owed::new(self.entry.run().id, now.vm.id, &running.machine, parts)?;
        (owed.after, owed.after_durable) = (after.clone(), after_durable.clone());
        Some(Steps { running, on_failure: *on_failure, before: before.clone(), named, owed })
    }

    /// Own programs first, then what is ready-made. What does not run there is forgotten, unless it was named.
    async fn make_ready(&self, steps: &mut Steps) -> std::result::Result<(), String> {
        self.entry.does(self.number, self.path, "making applications ready");
        if !matches!(steps.running.machine.run_state().await, Ok(RunState::Running)) {
            return Err("it is paused, so nothing in its guest can be made ready".to_owned());
        }
        let guest = self.guest(&steps.running);
        for command in &steps.before {
            if self.is_over() {
                return Err("the run is to end".to_owned());
            }
            Program::own(command).run(&guest).await?;
        }
        let mut ready = Vec::new();
        for part in &steps.owed.parts {
            let Some(program) = Program::prepare(&part.application).filter(|_| !self.is_over()) else {
                continue;
            };
            match program.run(&guest).await? {
                Ended::Done(notes) => ready.push(Part { notes, ..part.clone() }),
                Ended::Absent if steps.named => {
                    return Err(format!("{} does not run in the guest", name(&part.application)));
                }
                Ended::Absent => {}
            }
        }
        if ready.is_empty() && !steps.named {
            guest.say("neither PostgreSQL nor MariaDB runs there");
        }
        steps.owed.parts = ready;
        Ok(())
    }

    /// What the instant is worth, now that it is known how all of it went.
    fn judge(&self, seen: &mut Seen, steps: &Steps, went: std::result::Result<(), String>) -> Result<()> {
        if !matches!(seen.held, Held::Engine(_)) {
            // It went off in between, and its task has judged that.
            return Ok(());
        }
        let is_same = |now: Option<Arc<Running>>| now.is_some_and(|now| Arc::ptr_eq(&now, &steps.running));
        if !is_same(self.handle.now().running) {
            return Err(self.overtaken());
        }
        match went {
            Ok(()) if seen.consistency == ConsistencyReached::FileSystem => {
                seen.consistency = ConsistencyReached::Application;
                Ok(())
            }
            // The freeze failed, and was judged.
            Ok(()) => Ok(()),
            Err(why) if steps.on_failure == OnFailure::Fail => Err(self.not_ready(&why)),
            Err(why) => {
                seen.warnings.push(format!("its applications were not ready: {why}"));
                Ok(())
            }
        }
    }

    /// Cuts logs in the guest: the point is durable. Why not, if it could not be done.
    pub async fn cut_logs(&self, owed: Option<Owed>) -> Option<String> {
        let mut owed = owed?;
        owed.due = Due::Cut;
        let has_some = owed.parts.iter().any(|part| Program::cut(&part.application, &part.notes).is_some());
        if !has_some && owed.after_durable.is_empty() {
            return None;
        }
        self.entry.does(self.number, self.path, "cutting logs");
        if let Err(error) = self.node.keeper.put(&owed).await {
            return Some(format!("no logs were cut in the guest: {}", error.message()));
        }
        self.node.steps.reached("logs to be cut");
        let went = settle(self.node, self.entry, &owed).await;
        went.err().map(|why| format!("not all logs were cut in the guest: {why}"))
    }
}

fn name(application: &Application) -> &'static str {
    match application {
        Application::PostgreSql { .. } => "PostgreSQL",
        Application::MariaDb { .. } => "MariaDB",
        Application::Vss { .. } => "VSS",
        Application::Found { .. } => "a database",
    }
}

/// Lets a guest go: what was made ready last comes first. All is done, whatever fails; the first failure is told.
async fn let_go(owed: &Owed, guest: &Guest<'_>) -> std::result::Result<(), String> {
    let ready_made = owed.parts.iter().rev().filter_map(|part| Program::release(&part.application));
    all(ready_made.chain(owed.after.iter().map(Program::own)), guest).await
}

async fn cut(owed: &Owed, guest: &Guest<'_>) -> std::result::Result<(), String> {
    let ready_made = owed.parts.iter().filter_map(|part| Program::cut(&part.application, &part.notes));
    all(ready_made.chain(owed.after_durable.iter().map(Program::own)), guest).await
}

async fn all(programs: impl Iterator<Item = Program>, guest: &Guest<'_>) -> std::result::Result<(), String> {
    let mut went = Ok(());
    for program in programs {
        went = went.and(program.run(guest).await.map(drop));
    }
    went
}

/// Does what a guest is owed, if it is still that guest, and forgets it.
async fn settle(node: &Shared, entry: &Entry, owed: &Owed) -> std::result::Result<(), String> {
    let now = node.vms.find(&owed.vm.0.to_string()).map(|handle| handle.now()).ok();
    let path = now.as_ref().map(|now| now.vm.name.to_string()).unwrap_or_default();
    let running = now.and_then(|now| now.running).filter(|running| owed.is_of(&running.machine));
    let guest = running.map(|running| Guest { agent: running.machine.agent(), log: &entry.log, path });
    let went = match (owed.due, guest) {
        (Due::Release, Some(guest)) => {
            // It may have died in the middle of a freeze, and runs nothing before that is over.
            if let Err(error) = guest.agent.thaw(THAW_WITHIN).await {
                guest.say(&error.to_string());
            }
            let_go(owed, &guest).await
        }
        (Due::Cut, Some(guest)) => cut(owed, &guest).await,
        // Whoever was to be let go is no more.
        (Due::Release, None) => Ok(()),
        (Due::Cut, None) => Err("it has ended or was started anew; the next backup cuts them".to_owned()),
    };
    forget(node, owed).await;
    went
}

async fn forget(node: &Shared, owed: &Owed) {
    if let Err(error) = node.keeper.delete::<Owed>(owed.id()).await {
        tracing::warn!(
            error = error.message(),
            "what was done in a guest is not forgotten, and is done again"
        );
    }
}

/// Does what a node that died has left undone.
pub fn settle_left(node: &Arc<Shared>) {
    for owed in node.protection.owed.clone() {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            // A backup of the machine that begins meanwhile waits for it.
            let _turn = node.protection.turns.take(owed.vm).await;
            // A run is forgotten when many came after it: its guest has long been let go.
            let Ok(entry) = node.protection.runs.find(&owed.run.0.to_string()) else {
                return forget(&node, &owed).await;
            };
            entry.log.say(match owed.due {
                Due::Release => "the next node lets the guest go",
                Due::Cut => "the point is durable: the next node cuts logs in the guest",
            });
            if let Err(why) = settle(&node, &entry, &owed).await {
                entry.log.say(&why);
                node.events.tell(EventKind::Warning, format!("run {}", entry.number()), why);
            }
        });
    }
}

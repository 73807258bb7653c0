//! The task that owns a machine.
//!
//! It does one thing at a time, in the order in which it was asked. While an operation runs, what else is asked is
//! judged at once by the state that is then: most is refused, as Hyper-V does, and power off ends the operation, however
//! deep it hangs. What was refused or interrupted is told so; nothing waits for ever.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use nestling_model::{Operation, Vm, VmState, life::admit};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{owner::Owner, running::Running};
use crate::{
    NodeError,
    error::{Device, ModifyReason, Named, Object, Result},
    node::Shared,
};

/// How many questions may wait for one machine.
const WAITING_MAX: usize = 64;

/// A machine as everyone sees it.
#[derive(Clone)]
pub struct Now {
    pub vm: Arc<Vm>,
    pub running: Option<Arc<Running>>,
}

/// What is asked for, and how it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub operation: Operation,
    /// The part of the machine that is changed, where Hyper-V names it in a refusal.
    pub device: Option<Device>,
    /// Whether it is the recovery that asks to which the machine belongs.
    pub for_recovery: bool,
}

impl From<Operation> for Asked {
    fn from(operation: Operation) -> Self {
        Self { operation, device: None, for_recovery: false }
    }
}

impl Asked {
    pub fn refuse(self, vm: &Vm, state: VmState) -> NodeError {
        let named = Named { name: vm.name.clone(), id: vm.id };
        match self.device {
            Some(device) => NodeError::ModifyDevice { vm: named, device, reason: ModifyReason::State(state) },
            None => NodeError::State { vm: named, state, operation: self.operation },
        }
    }

    /// Why it is not done now: the state does not have it, or the machine's disks are being overwritten.
    fn refusal(self, node: &Shared, vm: &Vm) -> Option<NodeError> {
        if admit(vm.state, self.operation).is_err() {
            return Some(self.refuse(vm, vm.state));
        }
        let recovery = node.recovery.unfinished.holder(vm.id).filter(|_| !self.for_recovery)?;
        Some(NodeError::Recovering { vm: vm.name.clone(), recovery })
    }
}

/// A question to a machine's task.
trait Question: Send {
    fn asked(&self) -> Asked;
    fn answer<'a>(self: Box<Self>, owner: &'a mut Owner) -> BoxFuture<'a, ()>;
    fn refuse(self: Box<Self>, error: NodeError);
}

struct Pending<T, F> {
    asked: Asked,
    job: F,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Question for Pending<T, F>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a mut Owner) -> BoxFuture<'a, Result<T>> + Send,
{
    fn asked(&self) -> Asked {
        self.asked
    }

    fn answer<'a>(self: Box<Self>, owner: &'a mut Owner) -> BoxFuture<'a, ()> {
        let Self { job, reply, .. } = *self;
        let work = job(owner);
        Box::pin(async move {
            let answer = work.await;
            // An error means that whoever asked has gone away.
            let _ = reply.send(answer);
        })
    }

    fn refuse(self: Box<Self>, error: NodeError) {
        let _ = self.reply.send(Err(error));
    }
}

/// The way to a machine's task.
pub struct Handle {
    questions: mpsc::Sender<Box<dyn Question>>,
    now: watch::Receiver<Now>,
}

impl Handle {
    /// Starts the task of a machine.
    pub fn spawn(owner: impl FnOnce(watch::Sender<Now>) -> Owner, first: Now) -> Self {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        let (publish, now) = watch::channel(first);
        let owner = owner(publish);
        tokio::spawn(run(owner, asked));
        Self { questions, now }
    }

    pub fn now(&self) -> Now {
        self.now.borrow().clone()
    }

    /// Waits until no operation runs, and until an engine that has ended is known to have.
    pub async fn settled(&self, patience: Duration) -> Result<()> {
        let mut now = self.now.clone();
        let holds_still = |now: &Now| {
            let is_ending = now.running.as_ref().is_some_and(|running| running.machine.is_silent());
            now.vm.state.is_settled() && !is_ending
        };
        match timeout(patience, now.wait_for(holds_still)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => {
                let name = self.now().vm.name.to_string();
                Err(NodeError::NotFound { object: Object::Vm, name })
            }
            Err(_) => {
                let vm = self.now().vm;
                Err(Asked::from(Operation::Modify).refuse(&vm, vm.state))
            }
        }
    }

    #[cfg(test)]
    pub fn watch(&self) -> watch::Receiver<Now> {
        self.now.clone()
    }

    /// Has the task do something. The work goes on when the caller stops waiting.
    pub async fn ask<T, F>(&self, asked: impl Into<Asked>, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Owner) -> BoxFuture<'a, Result<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let question = Box::new(Pending { asked: asked.into(), job, reply });
        let vm = self.now().vm;
        let gone = || NodeError::NotFound { object: Object::Vm, name: vm.name.to_string() };
        self.questions.send(question).await.map_err(|_| gone())?;
        match answer.await {
            Ok(answer) => answer,
            // The job was dropped: by power off, or because the machine was removed.
            Err(_) if self.questions.is_closed() => Err(gone()),
            Err(_) => Err(NodeError::Interrupted { vm: Named { name: vm.name.clone(), id: vm.id } }),
        }
    }
}

async fn run(mut owner: Owner, mut questions: mpsc::Receiver<Box<dyn Question>>) {
    let mut waiting = VecDeque::new();
    let stopping = owner.node.stopping.clone();
    while !owner.removed {
        let question = match waiting.pop_front() {
            Some(question) => question,
            None => tokio::select! {
                () = stopping.cancelled() => return,
                question = questions.recv() => match question {
                    Some(question) => question,
                    None => return,
                },
                exit = ended(owner.running.clone()) => {
                    owner.engine_ended(exit).await;
                    continue;
                }
            },
        };
        if let Some(refusal) = question.asked().refusal(&owner.node, &owner.vm) {
            question.refuse(refusal);
            continue;
        }
        answer(&mut owner, question, &mut questions, &mut waiting).await;
    }
}

/// Answers one question, and judges meanwhile what else is asked.
async fn answer(
    owner: &mut Owner,
    question: Box<dyn Question>,
    questions: &mut mpsc::Receiver<Box<dyn Question>>,
    waiting: &mut VecDeque<Box<dyn Question>>,
) {
    let (node, now) = (Arc::clone(&owner.node), owner.publish.subscribe());
    let mut work = question.answer(owner);
    loop {
        tokio::select! {
            biased;
            () = &mut work => return,
            Some(other) = questions.recv() => {
                let vm = Arc::clone(&now.borrow().vm);
                let asked = other.asked();
                let power_off = asked.operation == Operation::TurnOff && vm.state.has_engine();
                if power_off {
                    drop(work);
                    waiting.push_front(other);
                    return;
                }
                let full = || (waiting.len() >= WAITING_MAX).then(|| asked.refuse(&vm, vm.state));
                match asked.refusal(&node, &vm).or_else(full) {
                    Some(refusal) => other.refuse(refusal),
                    None => waiting.push_back(other),
                }
            }
        }
    }
}

async fn ended(running: Option<Arc<Running>>) -> nestling_hypervisor::Exit {
    match running {
        Some(running) => running.machine.exited().await,
        None => std::future::pending().await,
    }
}

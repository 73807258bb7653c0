//! One recovery point: a machine straight from the vault, looked at until it shows that it is up, and thrown away.
//!
//! The machine has another name and another identity, is plugged into nothing, and carries the number of its proof from before
//! it exists, so that whoever finds it knows what it is. Whatever happens to it, it goes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nestling_hypervisor::Machine;
use nestling_model::{
    EventKind, Operation, VmId, VmName,
    name::NAME_CHARS_MAX,
    protection::{Command, Message, Signs},
};
use nestling_vault::Point;
use tokio::time::timeout;

use super::{
    book::Entry,
    cables::{self, Cables},
    signs,
};
use crate::{
    Node, NodeError, RecoveryWish, Whereto,
    blocking::blocking,
    clock::whole_ms,
    error::Result,
    protection::{repositories::Known, scripts},
    recovery::RecoveryEntry,
    vm::Handle,
};

/// For the making of a machine that shall end to do so.
const CANCEL_PATIENCE: Duration = Duration::from_secs(30);

pub struct Boot<'a> {
    pub node: &'a Node,
    pub entry: &'a Arc<Entry>,
    pub known: &'a Known,
    pub point: &'a Point,
    /// The point's place in the proof.
    pub index: usize,
}

/// Why a point is not proven.
pub enum Miss {
    /// The proof was to end.
    Over,
    Why(String),
}

impl From<NodeError> for Miss {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Cancelled => Self::Over,
            error => Self::Why(error.message()),
        }
    }
}

/// What came of it.
pub struct Came {
    /// What showed that the guest is up.
    pub result: std::result::Result<String, Miss>,
    /// How long that took.
    pub ready_ms: u64,
    pub warnings: Vec<String>,
    pub console: Vec<Message>,
    pub has_screen: bool,
}

impl Boot<'_> {
    pub async fn run(&self) -> Came {
        let began = Instant::now();
        let mut came = Came {
            result: Err(Miss::Over),
            ready_ms: 0,
            warnings: Vec::new(),
            console: Vec::new(),
            has_screen: false,
        };
        self.entry.does(self.index, "making the machine");
        let (made, failed) = self.make(began).await;
        if let Some(vm) = made {
            self.node.steps.reached("proof machine made");
            came.result = match failed {
                Ok(()) => self.watch(vm, began).await,
                Err(miss) => Err(miss),
            };
            came.ready_ms = whole_ms(began.elapsed());
            self.look(vm, &mut came).await;
            self.node.steps.reached("proof looked at");
            self.entry.does(self.index, "removing the machine");
            // Of a node that ends, the next one removes it.
            if let Err(error) = self.node.throw_away(vm).await
                && !self.node.stopping.is_cancelled()
            {
                came.warnings.push(format!("its machine is left: {}", error.message()));
            }
            self.node.steps.reached("proof machine removed");
        } else if let Err(miss) = failed {
            came.result = Err(miss);
        }
        came
    }

    /// Somebody wants no more of it.
    async fn over(&self) {
        tokio::select! {
            () = self.entry.cancel.cancelled() => {}
            () = self.node.stopping.cancelled() => {}
        }
    }

    fn left(&self, began: Instant) -> Duration {
        Duration::from_secs(self.entry.signs().seconds_max.into()).saturating_sub(began.elapsed())
    }

    /// The machine, if one was made, and why it is of no use.
    async fn make(&self, began: Instant) -> (Option<VmId>, std::result::Result<(), Miss>) {
        let recovery = match self.begin().await {
            Ok(recovery) => recovery,
            Err(error) => return (None, Err(error.into())),
        };
        let ended = tokio::select! {
            ended = timeout(self.left(began), recovery.ended.cancelled()) => {
                ended.map_err(|_| Miss::Why("its machine could not be made in time".to_owned()))
            }
            () = self.over() => Err(Miss::Over),
        };
        if ended.is_err() {
            recovery.stop();
            // What comes later is swept at the proof's end.
            let _ = timeout(CANCEL_PATIENCE, recovery.ended.cancelled()).await;
        }
        let done = recovery.recovery();
        let failed = match ended {
            Ok(()) if done.state.is_success() => Ok(()),
            Ok(()) => {
                let reason = done.reason.map(|reason| reason.to_string());
                Err(Miss::Why(reason.unwrap_or_else(|| "its machine could not be made".to_owned())))
            }
            Err(miss) => Err(miss),
        };
        (done.vm_id.map(VmId), failed)
    }

    async fn begin(&self) -> Result<Arc<RecoveryEntry>> {
        let number = self.entry.number();
        let wish = RecoveryWish {
            point: self.point.id.to_string(),
            repository: Some(self.known.repository.name.to_string()),
            disks: Vec::new(),
            whereto: Whereto::AsNew {
                name: Some(name(self.point.name.as_str(), number, self.index)?),
                switches: Vec::new(),
                no_switch: true,
                format: None,
                new_identity: true,
                instant: true,
                image: None,
            },
            start: false,
        };
        let (known, point) = (self.known.clone(), self.point.clone());
        self.node.begin_recovery_of(&format!("proof {number}"), known, point, wish, Some(number)).await
    }

    /// Starts it, and waits for what shows that it is up.
    async fn watch(&self, vm: VmId, began: Instant) -> std::result::Result<String, Miss> {
        self.entry.does(self.index, "starting the machine");
        let handle = self.node.vms.find(&vm.0.to_string())?;
        let signs = self.entry.signs();
        let adapters = handle.now().vm.adapters.clone();
        cables::check(&signs, &adapters).map_err(Miss::Why)?;
        handle.operate(Operation::Start).await?;
        self.node.steps.reached("proof machine started");
        let machine = running(&handle)?;
        let mut cables = Cables::plug_in(&machine, &adapters, &signs)?;
        self.entry.does(self.index, "waiting for the guest");
        let seen = tokio::select! {
            up = timeout(self.left(began), signs::up(&machine, &signs, cables.as_mut())) => up,
            () = self.over() => return Err(Miss::Over),
        };
        let seen = match seen {
            Ok(seen) => seen.map_err(Miss::Why)?,
            Err(_) => return Err(Miss::Why(silence(&signs, cables.as_ref(), &handle))),
        };
        if let Some(program) = &signs.in_guest {
            self.entry.does(self.index, "running a program in the guest");
            tokio::select! {
                ran = signs::run_in_guest(&machine, program) => ran.map_err(Miss::Why)?,
                () = self.over() => return Err(Miss::Over),
            }
        }
        if let Some(program) = &signs.on_host {
            self.entry.does(self.index, "running a program of the host");
            self.run_on_host(program, &handle).await?;
        }
        Ok(seen)
    }

    async fn run_on_host(&self, program: &Command, handle: &Handle) -> std::result::Result<(), Miss> {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let environment = [
            ("PATH", path),
            ("NESTLING_HOME", self.node.home.root().display().to_string()),
            ("NESTLING_PROOF", self.entry.number().to_string()),
            ("NESTLING_PROOF_VM", handle.now().vm.name.to_string()),
            ("NESTLING_VM", self.point.name.to_string()),
            ("NESTLING_POINT", self.point.id.to_string()),
            ("NESTLING_REPOSITORY", self.known.repository.name.to_string()),
        ];
        let ended = scripts::run_program(program, &environment, self.over()).await;
        if self.entry.cancel.is_cancelled() || self.node.stopping.is_cancelled() {
            return Err(Miss::Over);
        }
        if let Err(why) = ended.result {
            let said = ended.output.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
            return Err(Miss::Why(format!("the program {} {why}{said}", program.program)));
        }
        Ok(())
    }

    /// What there is to see of it, well or not.
    async fn look(&self, vm: VmId, came: &mut Came) {
        let machine = self.node.vms.find(&vm.0.to_string()).and_then(|handle| running(&handle));
        let Ok(machine) = machine else { return };
        came.console = signs::last_lines(&machine.console().attach().recent);
        if machine.is_silent() || matches!(came.result, Err(Miss::Over)) {
            return;
        }
        match self.keep_picture(&machine).await {
            Ok(()) => came.has_screen = true,
            Err(why) => {
                self.node.events.tell(EventKind::Warning, self.point.name.to_string(), why.as_str());
                came.warnings.push(why);
            }
        }
    }

    async fn keep_picture(&self, machine: &Machine) -> std::result::Result<(), String> {
        let bytes = machine.picture().await.map_err(|error| {
            let why = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
            format!("{error}{why}")
        })?;
        let (node, number, index) = (self.node.clone(), self.entry.number(), self.index);
        let kept = blocking(move || node.proof.book.keep_picture(number, index, &bytes)).await;
        kept.map_err(|error| error.message())
    }
}

fn running(handle: &Handle) -> Result<Machine> {
    let now = handle.now();
    let running = now.running.as_ref().map(|running| running.machine.clone());
    running.ok_or_else(|| match &now.vm.state_reason {
        Some(reason) => NodeError::Invalid(format!("it ended by itself: {reason}")),
        None => NodeError::NoEngine(now.vm.name.clone()),
    })
}

/// A name that nobody takes for the machine's own, and that says whose point it is.
fn name(of: &str, number: u64, index: usize) -> Result<VmName> {
    let own = of.rsplit('/').next().unwrap_or_default();
    let end = format!("-{number}-{}", index + 1);
    let room = NAME_CHARS_MAX.saturating_sub("proof-".len() + end.len());
    let own: String = own.chars().take(room).collect();
    Ok(format!("proof-{own}{end}").parse()?)
}

fn silence(signs: &Signs, cables: Option<&Cables>, handle: &Handle) -> String {
    let state = handle.now().vm.state;
    format!(
        "after {} seconds {}; the machine is {}",
        signs.seconds_max,
        lacking(signs, cables),
        state.as_str()
    )
}

/// What may not have come, and of ports what has not.
fn lacking(signs: &Signs, cables: Option<&Cables>) -> String {
    if signs.is_any_up() {
        return "neither its agent answers nor is there a login prompt".to_owned();
    }
    let mut all = Vec::new();
    if signs.wants_agent() {
        all.push("its agent does not answer".to_owned());
    }
    all.extend(signs.console.as_ref().map(|text| format!("\"{text}\" is not on its console")));
    all.extend(cables.map(Cables::silence).filter(|silence| !silence.is_empty()));
    all.join(", or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_a_proof_has_a_name_of_its_own() {
        assert_eq!(name("L1/Web01", 7, 0).unwrap().as_str(), "proof-Web01-7-1");
        let long = "x".repeat(NAME_CHARS_MAX);
        assert_eq!(name(&long, 7, 99).unwrap().as_str().chars().count(), NAME_CHARS_MAX);
    }
}

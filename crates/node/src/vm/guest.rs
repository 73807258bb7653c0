//! What is asked of a guest: through its agent, its console, and the node inside it.
//!
//! A guest may be absent, slow or hostile; all that it says is a claim, and none of it makes anyone wait for long.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nestling_hypervisor::{
    ChannelClient, Console,
    agent::{AgentError, ExecRequest},
};
use nestling_identity::{Action, Identity};
use nestling_model::{MacAddress, VmName};
use tokio::{io::AsyncRead, time::timeout};

use super::running::Running;
use crate::{
    Node, NodeError,
    error::Result,
    values::{Exec, ExecResult, GuestInterface, GuestView},
};

const EXEC_SECONDS: u32 = 60;
const EXEC_SECONDS_MAX: u32 = 3600;
/// Longer than any sensible path in a guest.
const PATH_BYTES_MAX: usize = 4096;
const ARGUMENTS_BYTES_MAX: usize = 256 << 10;
const INPUT_BYTES_MAX: usize = 1 << 20;

/// How long an answer about addresses stands, and how long no answer does.
const FRESH: Duration = Duration::from_secs(3);
const SILENT: Duration = Duration::from_secs(15);
/// How long a listing waits for addresses.
const PATIENCE: Duration = Duration::from_millis(700);
/// How many addresses of one adapter are kept; a guest could claim any number.
const ADDRESSES_MAX: usize = 32;

impl Node {
    pub async fn console(&self, who: &Identity, vm: &str) -> Result<Console> {
        self.authorize(who, Action::UseConsole)?;
        let (_, running) = self.engine_of(vm)?;
        Ok(running.machine.console())
    }

    /// The way to the node inside a machine.
    pub async fn channel(&self, who: &Identity, vm: &str) -> Result<ChannelClient> {
        self.authorize(who, Action::ReachInside)?;
        let (_, running) = self.engine_of(vm)?;
        Ok(running.machine.channel())
    }

    pub async fn guest(&self, who: &Identity, vm: &str) -> Result<GuestView> {
        self.authorize(who, Action::UseGuest)?;
        let (name, running) = self.engine_of(vm)?;
        let failed = |source| NodeError::Agent { vm: name.clone(), source };
        let agent = running.machine.agent();
        let info = agent.info().await.map_err(failed)?;
        let interfaces = agent.interfaces().await.map_err(failed)?;
        // Old agents do not know these.
        let os = agent.os_info().await.ok();
        let hostname = agent.hostname().await.ok();
        let interface = |i: nestling_hypervisor::agent::GuestInterface| GuestInterface {
            name: i.name,
            mac: i.mac,
            addresses: i.addresses.iter().map(|(a, len)| format!("{a}/{len}")).collect(),
        };
        Ok(GuestView {
            hostname,
            kernel: os.as_ref().and_then(|os| os.kernel_release.clone()),
            os: os.and_then(|os| os.pretty_name.or(os.id)),
            agent_version: info.version,
            interfaces: interfaces.into_iter().map(interface).collect(),
        })
    }

    pub async fn exec(&self, who: &Identity, vm: &str, exec: Exec) -> Result<ExecResult> {
        self.authorize(who, Action::UseGuest)?;
        let request = exec_request(exec)?;
        let (name, running) = self.engine_of(vm)?;
        let outcome = running
            .machine
            .agent()
            .exec(request)
            .await
            .map_err(|source| NodeError::Agent { vm: name, source })?;
        Ok(ExecResult {
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            stdout: outcome.stdout,
            stderr: outcome.stderr,
            truncated: outcome.truncated,
        })
    }

    pub async fn copy_file(
        &self,
        who: &Identity,
        vm: &str,
        guest_path: &str,
        content: impl AsyncRead + Send + Unpin,
    ) -> Result<()> {
        self.authorize(who, Action::UseGuest)?;
        check_path(guest_path)?;
        let (name, running) = self.engine_of(vm)?;
        running
            .machine
            .agent()
            .write_file(guest_path, content)
            .await
            .map_err(|source| NodeError::Agent { vm: name, source })?;
        Ok(())
    }

    fn engine_of(&self, vm: &str) -> Result<(VmName, Arc<Running>)> {
        let now = self.vms.find(vm)?.now();
        let name = now.vm.name.clone();
        match now.running {
            Some(running) => Ok((name, running)),
            None => Err(NodeError::NoEngine(name)),
        }
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(NodeError::invalid("a path in the guest has 1 to 4096 bytes, none of them zero"));
    }
    Ok(())
}

fn exec_request(exec: Exec) -> Result<ExecRequest> {
    let Exec { program, arguments, input, timeout_seconds } = exec;
    check_path(&program)?;
    if arguments.iter().map(String::len).sum::<usize>() > ARGUMENTS_BYTES_MAX {
        return Err(NodeError::Invalid(format!(
            "a program's arguments have at most {ARGUMENTS_BYTES_MAX} bytes"
        )));
    }
    if input.len() > INPUT_BYTES_MAX {
        return Err(NodeError::Invalid(format!(
            "a program's input has at most {INPUT_BYTES_MAX} bytes; copy a file instead"
        )));
    }
    let seconds = timeout_seconds.unwrap_or(EXEC_SECONDS);
    if seconds == 0 || seconds > EXEC_SECONDS_MAX {
        return Err(NodeError::Invalid(format!("a program may take 1 to {EXEC_SECONDS_MAX} seconds")));
    }
    Ok(ExecRequest {
        path: program,
        args: arguments,
        env: Vec::new(),
        stdin: input,
        timeout: Duration::from_secs(seconds.into()),
    })
}

/// The addresses that a guest last told.
#[derive(Default)]
pub struct GuestCache(Mutex<Told>);

#[derive(Default)]
struct Told {
    addresses: BTreeMap<MacAddress, Vec<String>>,
    /// When to ask again; none: at once.
    ask_again: Option<Instant>,
}

impl GuestCache {
    pub fn addresses(&self, mac: MacAddress) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).addresses.get(&mac).cloned().unwrap_or_default()
    }

    /// Whether it is time to ask; whoever is told so asks.
    fn is_due(&self) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.ask_again.is_none_or(|at| at <= Instant::now());
        if due {
            told.ask_again = Some(Instant::now() + SILENT);
        }
        due
    }

    fn tell(&self, answer: std::result::Result<BTreeMap<MacAddress, Vec<String>>, AgentError>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(addresses) => {
                told.addresses = addresses;
                told.ask_again = Some(Instant::now() + FRESH);
            }
            // An absent agent costs nothing to ask: it may come up at any moment.
            Err(AgentError::Absent) => {
                told.addresses.clear();
                told.ask_again = Some(Instant::now() + FRESH / 3);
            }
            Err(_) => told.ask_again = Some(Instant::now() + SILENT),
        }
    }
}

/// Asks the guest for its addresses if it is time to. Waits only a moment; a late answer is there for the next reader.
pub async fn refresh(running: &Arc<Running>) {
    if !running.guest.is_due() {
        return;
    }
    let asked = Arc::clone(running);
    let asking = tokio::spawn(async move {
        let answer = asked.machine.agent().interfaces().await;
        asked.guest.tell(answer.map(|interfaces| {
            let told = interfaces.into_iter().filter_map(|i| {
                let addresses = i.addresses.iter().map(|(a, _)| a.to_string()).take(ADDRESSES_MAX).collect();
                Some((i.mac?.parse().ok()?, addresses))
            });
            told.take(ADDRESSES_MAX).collect()
        }));
    });
    let _ = timeout(PATIENCE, asking).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_asked_again_when_it_is_time() {
        let cache = GuestCache::default();
        let mac: MacAddress = "00155D000001".parse().unwrap();
        assert!(cache.is_due());
        assert!(!cache.is_due(), "somebody asks already");
        cache.tell(Ok(BTreeMap::from([(mac, vec!["10.0.0.1".to_owned()])])));
        assert!(!cache.is_due());
        assert_eq!(cache.addresses(mac), ["10.0.0.1"]);
        cache.tell(Err(AgentError::Absent));
        assert!(cache.addresses(mac).is_empty());
    }

    #[test]
    fn what_is_run_in_a_guest_is_bounded() {
        let good = Exec { program: "/bin/true".into(), ..Exec::default() };
        assert_eq!(exec_request(good.clone()).unwrap().timeout, Duration::from_secs(60));
        for bad in [
            Exec { program: String::new(), ..good.clone() },
            Exec { timeout_seconds: Some(0), ..good.clone() },
            Exec { timeout_seconds: Some(3601), ..good.clone() },
            Exec { input: vec![0; INPUT_BYTES_MAX + 1], ..good.clone() },
            Exec { arguments: vec!["x".repeat(ARGUMENTS_BYTES_MAX + 1)], ..good },
        ] {
            assert!(exec_request(bad).is_err());
        }
    }
}

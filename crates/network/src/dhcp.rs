//! Addresses and names for the machines of a NAT network: one dnsmasq per network.
//!
//! A server outlives the node, so that machines keep their leases while the node restarts; the next
//! node takes it over by its pid file. While a node runs it starts a server that died again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::Ipv4Net;
use nestling_model::{MacAddress, Nat, SwitchKind};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
    sync::Mutex,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{
    desired::{Desired, Problem},
    host::{HostAdapter, Lease},
    names::Tag,
    tool,
};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const RESTART_AFTER: Duration = Duration::from_millis(500);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(60);
/// A lease file has a short line per machine.
const LEASES_BYTES_MAX: u64 = 1 << 20;

/// A server that shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    nat: String,
    files: Files,
    config: String,
}

/// Named by the network's numbers: they are unique, and no text of anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    config: PathBuf,
    leases: PathBuf,
    pid: PathBuf,
}

impl Files {
    fn new(dir: &Path, prefix: Ipv4Net) -> Self {
        Self::of_stem(dir, &format!("dhcp-{}-{}", prefix.network(), prefix.prefix_len()))
    }

    fn of_stem(dir: &Path, stem: &str) -> Self {
        let file = |end: &str| dir.join(format!("{stem}.{end}"));
        Self { config: file("conf"), leases: file("leases"), pid: file("pid") }
    }
}

struct Server {
    service: Service,
    /// Held while the process is being started, so that it is never stopped half way.
    starting: Arc<Mutex<()>>,
    supervisor: JoinHandle<()>,
}

/// The servers of a node, by the path of their configuration.
#[derive(Default)]
pub(crate) struct Servers {
    running: BTreeMap<PathBuf, Server>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.release();
    }
}

impl Servers {
    /// Starts, replaces and stops servers. Gives the number of changes and what could not be had.
    /// `adapters` are the host's interfaces as they are now.
    pub async fn reconcile(
        &mut self,
        dir: &Path,
        tag: Tag,
        desired: &Desired,
        adapters: &[HostAdapter],
    ) -> (usize, Vec<Problem>) {
        let wanted = services(dir, tag, desired, adapters);
        let keep: BTreeSet<&Path> = wanted.iter().map(|s| s.files.config.as_path()).collect();
        let mut changes = 0;
        for files in left_behind(dir).into_iter().filter(|f| !keep.contains(f.config.as_path())) {
            self.stop(&files).await;
            for file in [&files.config, &files.leases, &files.pid] {
                let _ = fs::remove_file(file);
            }
            changes += 1;
        }
        let mut problems = Vec::new();
        for service in wanted {
            match self.ensure(&service).await {
                Ok(changed) => changes += usize::from(changed),
                Err(reason) => problems.push(Problem::Dhcp { nat: service.nat, reason }),
            }
        }
        (changes, problems)
    }

    /// Lets go of the servers without ending them.
    pub fn release(&mut self) {
        for (_, server) in std::mem::take(&mut self.running) {
            server.supervisor.abort();
        }
    }

    async fn ensure(&mut self, service: &Service) -> Result<bool, String> {
        let known = self.running.get(&service.files.config).is_some_and(|s| s.service == *service);
        if known && process(&service.files).is_some() {
            return Ok(false);
        }
        let same = fs::read_to_string(&service.files.config).is_ok_and(|text| text == service.config);
        let adopt = !known && same && process(&service.files).is_some();
        if !adopt {
            self.stop(&service.files).await;
            write_config(service).map_err(|e| format!("can't write its configuration: {e}"))?;
            start(service).await?;
        }
        let starting = Arc::new(Mutex::new(()));
        let supervisor = tokio::spawn(supervise(service.clone(), starting.clone()));
        if let Some(old) = self
            .running
            .insert(service.files.config.clone(), Server { service: service.clone(), starting, supervisor })
        {
            old.supervisor.abort();
        }
        Ok(!adopt)
    }

    async fn stop(&mut self, files: &Files) {
        if let Some(server) = self.running.remove(&files.config) {
            let _not_starting = server.starting.lock().await;
            server.supervisor.abort();
        }
        let Some(pidfd) = process(files) else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            if pidfd_send_signal(&pidfd, signal).is_err() || ended(&pidfd, STOP_DEADLINE).await {
                return;
            }
        }
    }
}

/// Starts the server again whenever it ends.
async fn supervise(service: Service, starting: Arc<Mutex<()>>) {
    let mut pause = RESTART_AFTER;
    loop {
        if let Some(pidfd) = process(&service.files) {
            if !ended(&pidfd, Duration::MAX).await {
                return;
            }
            pause = RESTART_AFTER;
            warn!(nat = service.nat, "the DHCP server ended and is started again");
        }
        let guard = starting.lock().await;
        if let Err(reason) = start(&service).await {
            warn!(nat = service.nat, reason, "the DHCP server can't be started");
        }
        drop(guard);
        if process(&service.files).is_none() {
            sleep(pause).await;
            pause = (pause * 2).min(RESTART_AFTER_MAX);
        }
    }
}

/// Waits for the end of a process; false when the deadline comes first or waiting is impossible.
async fn ended(pidfd: &OwnedFd, deadline: Duration) -> bool {
    let Ok(pidfd) = pidfd.try_clone() else { return false };
    // SAFETY: the descriptor is owned by the watch, which never replaces or closes it while it lives.
    let watch = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    let Ok(watch) = watch else { return false };
    timeout(deadline, watch.readable()).await.is_ok_and(|ready| ready.is_ok())
}

/// The server's process, if it runs. The command line tells it from one that got its number later.
fn process(files: &Files) -> Option<OwnedFd> {
    let pid: i32 = fs::read_to_string(&files.pid).ok()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = format!("--conf-file={}", files.config.display());
    command.split(|b| *b == 0).any(|word| word == ours.as_bytes()).then_some(pidfd)
}

/// dnsmasq goes into the background once it serves; until then it says on stderr what is wrong.
async fn start(service: &Service) -> Result<(), String> {
    let program = tool::find("dnsmasq", "dnsmasq-base").map_err(|e| e.to_string())?;
    let output = Command::new(program)
        .arg(format!("--conf-file={}", service.files.config.display()))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = timeout(START_DEADLINE, output)
        .await
        .map_err(|_| format!("dnsmasq did not start within {} seconds", START_DEADLINE.as_secs()))?
        .map_err(|e| format!("can't start dnsmasq: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(1000)]).trim().to_owned();
    Err(if said.is_empty() { format!("dnsmasq ended with {}", output.status) } else { said })
}

fn write_config(service: &Service) -> io::Result<()> {
    if let Some(dir) = service.files.config.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = service.files.config.with_extension("conf.new");
    fs::write(&temporary, &service.config)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, &service.files.config)
}

/// The files of all servers that this directory knows.
fn left_behind(dir: &Path) -> Vec<Files> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let stem = name.strip_suffix(".conf").filter(|stem| stem.starts_with("dhcp-"))?;
            Some(Files::of_stem(dir, stem))
        })
        .collect()
}

/// A network is served once a switch of the host has an address in it.
fn services(dir: &Path, tag: Tag, desired: &Desired, adapters: &[HostAdapter]) -> Vec<Service> {
    let mut services = Vec::new();
    for nat in &desired.nats {
        let Some(dhcp) = &nat.dhcp else { continue };
        let prefix = nat.internal_prefix.trunc();
        let internal = desired.switches.iter().filter(|s| s.kind == SwitchKind::Internal);
        let gateway = internal
            .flat_map(|s| s.addresses.iter().map(move |a| (s.id, a.address)))
            .find(|(_, address)| prefix.contains(address));
        let Some((switch, gateway)) = gateway else { continue };
        let files = Files::new(dir, prefix);
        let bridge = tag.bridge(switch);
        let index = adapters.iter().find(|a| a.interface == bridge).map_or(0, |a| a.index);
        let mut lines = vec![
            // dnsmasq holds on to the interface of this number, so another number needs another server.
            format!("# interface {index}"),
            format!("interface={bridge}"),
            // Interfaces may come and go, and other servers use the same port on others.
            "bind-dynamic".into(),
            "except-interface=lo".into(),
            "no-hosts".into(),
            "dhcp-authoritative".into(),
            "no-ping".into(),
            format!(
                "dhcp-range={},{},{},{}",
                dhcp.first,
                dhcp.last,
                prefix.netmask(),
                // Below two minutes dnsmasq refuses.
                dhcp.lease_seconds.max(120)
            ),
            format!("dhcp-option=option:router,{gateway}"),
            format!("dhcp-option=option:dns-server,{gateway}"),
            format!("dhcp-leasefile={}", files.leases.display()),
            format!("pid-file={}", files.pid.display()),
        ];
        if !dhcp.dns_servers.is_empty() {
            lines.push("no-resolv".into());
            lines.extend(dhcp.dns_servers.iter().map(|server| format!("server={server}")));
        }
        let config = lines.join("\n") + "\n";
        services.push(Service { nat: nat.name.to_string(), files, config });
    }
    services
}

/// The leases of a network that have not ended.
pub(crate) fn leases(dir: &Path, nat: &Nat) -> io::Result<Vec<Lease>> {
    let path = Files::new(dir, nat.internal_prefix.trunc()).leases;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    match fs::metadata(&path) {
        Ok(meta) if meta.len() <= LEASES_BYTES_MAX => Ok(parse_leases(&fs::read_to_string(path)?, now)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// One lease a line: end, MAC address, IP address, name or `*`, client id.
fn parse_leases(text: &str, now: u64) -> Vec<Lease> {
    let one = |line: &str| {
        let mut words = line.split(' ');
        let expires_unix_seconds: u64 = words.next()?.parse().ok()?;
        let mac: MacAddress = words.next()?.parse().ok()?;
        let Ok(IpAddr::V4(address)) = words.next()?.parse() else { return None };
        // What a machine calls itself is its own text.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let host_name = words.next().filter(|n| !n.is_empty() && n.len() <= 255 && n.chars().all(plain));
        (expires_unix_seconds > now).then(|| Lease {
            mac,
            address,
            host_name: host_name.map(str::to_owned),
            expires_unix_seconds,
        })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_and_what_is_none_is_skipped() {
        let text = "2000 00:15:5d:00:00:01 192.168.100.50 web01 01:00:15:5d:00:00:01\n\
                    2000 00:15:5d:00:00:02 192.168.100.51 * *\n\
                    900 00:15:5d:00:00:03 192.168.100.52 ended *\n\
                    2000 00:15:5d:00:00:04 192.168.100.53 $(reboot) *\n\
                    duid 00:01:00:01\n\
                    2000 nonsense 192.168.100.54 x *\n";
        let leases = parse_leases(text, 1000);
        let shown: Vec<_> = leases.iter().map(|l| (l.address.octets()[3], l.host_name.as_deref())).collect();
        assert_eq!(shown, [(50, Some("web01")), (51, None), (53, None)]);
    }

    #[test]
    fn a_recycled_process_number_is_not_taken_for_the_server() {
        let dir = tempfile::TempDir::new().unwrap();
        let files = Files::new(dir.path(), "192.168.100.0/24".parse().unwrap());
        assert!(process(&files).is_none());
        fs::write(&files.pid, std::process::id().to_string()).unwrap();
        assert!(process(&files).is_none());
        for bad in ["", "0", "-1", "99999999999", "x"] {
            fs::write(&files.pid, bad).unwrap();
            assert!(process(&files).is_none(), "{bad}");
        }
    }
}

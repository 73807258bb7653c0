//! The node as the only neighbour of a guest: the other end of its adapters' cables, which are sockets and lead nowhere else.
//!
//! What is said there is decided in `nestling_network::Neighbour`. Here frames are carried, one at a time; what a socket does
//! not take is lost, as on any cable.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use nestling_hypervisor::{Machine, RunDir, agent::GuestInterface};
use nestling_model::{Adapter, MacAddress, protection::Signs};
use nestling_network::{Knock, Neighbour};
use tokio::{
    net::UnixDatagram,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{NodeError, error::Result, locked::lock};

/// How often a neighbour is asked whether it has something to say.
const TICK: Duration = Duration::from_millis(100);
/// How often an agent, if there is one, is asked for the guest's addresses.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest frame that QEMU passes on is shorter.
const FRAME_BYTES_MAX: usize = 70_000;

/// One adapter's.
struct Cable {
    mac: [u8; 6],
    /// The machine's end.
    path: PathBuf,
    neighbour: Neighbour,
}

/// All cables of a machine.
pub struct Cables {
    socket: UnixDatagram,
    cables: Vec<Cable>,
    ports: Vec<u16>,
    began: Instant,
}

/// Why a port of a machine cannot be waited for.
pub fn check(signs: &Signs, adapters: &[Adapter]) -> std::result::Result<(), String> {
    if signs.ports.is_empty() || !adapters.is_empty() {
        return Ok(());
    }
    Err("it has no network adapter, so no TCP port of it can answer".to_owned())
}

impl Cables {
    /// Of a machine that was started with cables; `None` if no port is waited for.
    pub fn plug_in(machine: &Machine, adapters: &[Adapter], signs: &Signs) -> Result<Option<Self>> {
        if signs.ports.is_empty() {
            return Ok(None);
        }
        let run = RunDir::new(machine.run_dir()).map_err(|error| NodeError::Invalid(error.to_string()))?;
        let socket = bind(&run.neighbour()).map_err(NodeError::io("open", run.neighbour()))?;
        let cable = |(slot, adapter): (u8, &Adapter)| Cable {
            mac: adapter.mac.octets(),
            path: run.cable(slot),
            neighbour: Neighbour::new(slot, &signs.ports),
        };
        let cables = (0..).zip(adapters).map(cable).collect();
        Ok(Some(Self { socket, cables, ports: signs.ports.clone(), began: Instant::now() }))
    }

    /// Waits until all ports have answered, and says where. May wait for ever.
    pub async fn answered(&mut self, machine: &Machine) -> String {
        let heard = Mutex::new(Vec::new());
        let ask = async {
            loop {
                sleep(ASK_INTERVAL).await;
                let found = addresses(machine).await;
                *lock(&heard) = found;
            }
        };
        tokio::select! {
            told = self.carry(&heard) => told,
            told = ask => told,
        }
    }

    async fn carry(&mut self, heard: &Mutex<Vec<([u8; 6], Ipv4Addr)>>) -> String {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut frame = vec![0; FRAME_BYTES_MAX];
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let heard = std::mem::take(&mut *lock(heard));
                    self.speak(&heard);
                }
                got = self.socket.recv_from(&mut frame) => {
                    if let Ok((length, from)) = got {
                        self.receive(&frame[..length], from.as_pathname());
                    }
                }
            }
            if let Some(told) = self.all_answered() {
                return told;
            }
        }
    }

    fn speak(&mut self, heard: &[([u8; 6], Ipv4Addr)]) {
        let now = self.began.elapsed();
        for cable in &mut self.cables {
            for (_, address) in heard.iter().filter(|(mac, _)| *mac == cable.mac) {
                cable.neighbour.hear_of(*address, cable.mac);
            }
            for frame in cable.neighbour.speak(now) {
                send(&self.socket, &frame, &cable.path);
            }
        }
    }

    fn receive(&mut self, frame: &[u8], from: Option<&Path>) {
        let Some(cable) = self.cables.iter_mut().find(|cable| Some(cable.path.as_path()) == from) else {
            return;
        };
        if let Some(answer) = cable.neighbour.receive(frame) {
            send(&self.socket, &answer, &cable.path);
        }
    }

    /// The best that came of each port, at any adapter.
    fn knocks(&self) -> Vec<(u16, Knock)> {
        let mut best: Vec<(u16, Knock)> = self.ports.iter().map(|port| (*port, Knock::NoAddress)).collect();
        for cable in &self.cables {
            for ((_, best), knock) in best.iter_mut().zip(cable.neighbour.knocks()) {
                *best = knock.max(*best);
            }
        }
        best
    }

    fn all_answered(&self) -> Option<String> {
        let one = |(port, knock)| match knock {
            Knock::Answered(address) => Some(format!("TCP port {port} answered at {address}")),
            _ => None,
        };
        let all: Option<Vec<String>> = self.knocks().into_iter().map(one).collect();
        Some(all?.join(", "))
    }

    /// What does not answer, and why.
    pub fn silence(&self) -> String {
        let one = |(port, knock)| match knock {
            Knock::NoAddress => {
                Some(format!("the guest has no IPv4 address at which TCP port {port} could answer"))
            }
            Knock::Silent(address) => Some(format!("TCP port {port} does not answer at {address}")),
            Knock::Refused(address) => Some(format!("TCP port {port} is refused at {address}")),
            Knock::Answered(_) => None,
        };
        self.knocks().into_iter().filter_map(one).collect::<Vec<_>>().join(", ")
    }
}

fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixDatagram::bind(path)
}

/// A guest that takes no frames loses them.
fn send(socket: &UnixDatagram, frame: &[u8], to: &Path) {
    if let Err(error) = socket.try_send_to(frame, to) {
        tracing::trace!(%error, "a frame is lost");
    }
}

/// What the agent, if one answers, knows of the guest's addresses.
async fn addresses(machine: &Machine) -> Vec<([u8; 6], Ipv4Addr)> {
    let Ok(interfaces) = machine.agent().interfaces().await else { return Vec::new() };
    let of = |interface: GuestInterface| {
        let mac: Option<MacAddress> = interface.mac.as_deref().and_then(|mac| mac.parse().ok());
        let addresses = interface.addresses.into_iter().filter_map(|(address, _)| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        addresses.filter_map(move |address| Some((mac?.octets(), address))).collect::<Vec<_>>()
    };
    interfaces.into_iter().flat_map(of).collect()
}

//! Freezing guests whose agents keep to the protocol, lie, hang, and go away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::AsyncWriteExt,
    net::UnixListener,
    sync::{mpsc, watch},
    time::timeout,
};

use super::*;
use crate::qmp::Lines;

const SOON: Duration = Duration::from_secs(20);

/// An agent that keeps a state, with its ways of going wrong.
#[derive(Clone, Default)]
struct Ways {
    frozen: Arc<AtomicBool>,
    /// Freezes, and says nothing.
    silent_freeze: bool,
    /// Says how many it froze, without freezing.
    lies: Option<i64>,
    /// Thaws that are refused before one works.
    stubborn: Arc<std::sync::atomic::AtomicU32>,
    /// Closes its port at the first thaw, as one that is started anew.
    restarts: Arc<AtomicBool>,
}

struct Guest {
    agent: Agent,
    ways: Ways,
    /// The commands that came, without syncs.
    seen: mpsc::UnboundedReceiver<Value>,
    /// How many connections there were.
    connections: watch::Receiver<u32>,
    _dir: tempfile::TempDir,
}

fn guest(ways: Ways) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, seen) = mpsc::unbounded_channel();
    let (count, connections) = watch::channel(0);
    tokio::spawn({
        let ways = ways.clone();
        async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                count.send_modify(|n| *n += 1);
                let (reader, mut writer) = stream.into_split();
                let mut lines = Lines::new(reader);
                while let Ok(Some(line)) = lines.next(1 << 20).await {
                    let request: Value =
                        serde_json::from_slice(line.strip_prefix(b"\xff").unwrap_or(&line)).unwrap();
                    let Some(answer) = ways.answer(&request) else { break };
                    if request["execute"] == "guest-sync-delimited" {
                        writer.write_all(&[0xff]).await.ok();
                    } else {
                        sender.send(request).ok();
                    }
                    writer.write_all(&answer).await.ok();
                }
            }
        }
    });
    Guest { agent: Agent::at(&socket), ways, seen, connections, _dir: dir }
}

impl Ways {
    /// `None` closes the port.
    fn answer(&self, request: &Value) -> Option<Vec<u8>> {
        let said = |value: Value| Some(format!("{}\n", json!({"return": value})).into_bytes());
        let refused = || Some(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"busy\"}}\n".to_vec());
        match request["execute"].as_str().unwrap() {
            "guest-sync-delimited" => said(request["arguments"]["id"].clone()),
            "guest-fsfreeze-status" => {
                said(json!(if self.frozen.load(Ordering::SeqCst) { "frozen" } else { "thawed" }))
            }
            "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => {
                if let Some(count) = self.lies {
                    return said(json!(count));
                }
                self.frozen.store(true, Ordering::SeqCst);
                if self.silent_freeze { Some(vec![]) } else { said(json!(3)) }
            }
            "guest-fsfreeze-thaw" => {
                if self.restarts.swap(false, Ordering::SeqCst) {
                    return None;
                }
                if self
                    .stubborn
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok()
                {
                    return refused();
                }
                self.frozen.store(false, Ordering::SeqCst);
                said(json!(3))
            }
            _ => refused(),
        }
    }
}

fn request() -> FreezeRequest {
    FreezeRequest { mountpoints: None, within: Duration::from_secs(5), hold_max: SOON }
}

impl Guest {
    async fn until_thawed(&mut self) {
        let thawed = async {
            while self.ways.frozen.load(Ordering::SeqCst) {
                self.seen.recv().await.unwrap();
            }
        };
        timeout(SOON, thawed).await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_is_frozen_and_thawed() {
    let mut guest = guest(Ways::default());
    let request = FreezeRequest { mountpoints: Some(vec!["/srv".to_owned()]), ..request() };
    let frozen = guest.agent.freeze(request).await.unwrap();
    assert_eq!(frozen.file_systems(), 3);
    assert_eq!(guest.agent.freeze_status(SOON).await.unwrap(), FreezeStatus::Frozen);
    let took = frozen.took();
    let thawed = frozen.thaw(SOON).await.unwrap();
    assert!(thawed.held && thawed.tries == 1 && thawed.file_systems == 3, "{thawed:?}");
    assert!(thawed.frozen_for >= took + thawed.took);
    assert_eq!(guest.agent.freeze_status(SOON).await.unwrap(), FreezeStatus::Thawed);
    guest.seen.recv().await.unwrap();
    let freeze = guest.seen.recv().await.unwrap();
    assert_eq!(freeze["arguments"], json!({"mountpoints": ["/srv"]}));
}

#[tokio::test]
async fn what_is_dropped_or_forgotten_is_thawed() {
    let mut dropped = guest(Ways::default());
    drop(dropped.agent.freeze(request()).await.unwrap());
    dropped.until_thawed().await;

    let mut forgotten = guest(Ways::default());
    let hold_max = Duration::from_millis(50);
    let frozen = forgotten.agent.freeze(FreezeRequest { hold_max, ..request() }).await.unwrap();
    forgotten.until_thawed().await;
    let thawed = frozen.thaw(SOON).await.unwrap();
    assert!(!thawed.held, "{thawed:?}");

    // A caller that goes away in the middle.
    let mut given_up = guest(Ways { silent_freeze: true, ..Ways::default() });
    let within = Duration::from_millis(200);
    let freeze = given_up.agent.freeze(FreezeRequest { within, ..request() });
    assert!(timeout(Duration::from_millis(100), freeze).await.is_err());
    let seen = async { while given_up.seen.recv().await.unwrap()["execute"] != "guest-fsfreeze-thaw" {} };
    timeout(SOON, seen).await.unwrap();
    given_up.until_thawed().await;
}

#[tokio::test]
async fn an_agent_that_hangs_while_it_freezes_is_thawed() {
    let guest = guest(Ways { silent_freeze: true, ..Ways::default() });
    let within = Duration::from_millis(100);
    let refused = guest.agent.freeze(FreezeRequest { within, ..request() }).await.unwrap_err();
    assert!(
        matches!(refused, FreezeError::Slow { .. } | FreezeError::Agent(AgentError::Timeout { .. })),
        "{refused}"
    );
    assert!(!guest.ways.frozen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_agent_that_lies_is_not_believed() {
    for (count, expected) in
        [(0, "froze nothing"), (-1, "makes no sense"), (1 << 40, "makes no sense"), (2, "none is frozen")]
    {
        let guest = guest(Ways { lies: Some(count), ..Ways::default() });
        let refused = guest.agent.freeze(request()).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{count}: {refused}");
    }
}

#[tokio::test]
async fn a_thaw_is_tried_again_until_it_works_or_the_time_is_up() {
    let ways = Ways::default();
    ways.stubborn.store(2, Ordering::SeqCst);
    let stubborn = guest(ways);
    let thawed = stubborn.agent.freeze(request()).await.unwrap().thaw(SOON).await.unwrap();
    assert_eq!((thawed.tries, thawed.held), (3, true));

    let ways = Ways::default();
    ways.stubborn.store(u32::MAX, Ordering::SeqCst);
    let stuck = guest(ways);
    let frozen = stuck.agent.freeze(request()).await.unwrap();
    let refused = frozen.thaw(Duration::from_millis(300)).await.unwrap_err();
    assert!(
        matches!(&refused, FreezeError::StillFrozen { tries: 2.., why, .. } if why.contains("busy")),
        "{refused}"
    );
}

#[tokio::test]
async fn an_agent_that_is_started_anew_is_asked_again() {
    let ways = Ways::default();
    ways.restarts.store(true, Ordering::SeqCst);
    let guest = guest(ways);
    let thawed = guest.agent.freeze(request()).await.unwrap().thaw(SOON).await.unwrap();
    assert!(thawed.tries == 2 && thawed.file_systems == 3, "{thawed:?}");
    assert_eq!(*guest.connections.borrow(), 2);
    assert!(!guest.ways.frozen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_guest_that_lets_go_by_itself_is_found_out() {
    let guest = guest(Ways::default());
    let frozen = guest.agent.freeze(request()).await.unwrap();
    guest.ways.frozen.store(false, Ordering::SeqCst);
    let thawed = frozen.thaw(SOON).await.unwrap();
    assert!(!thawed.held, "{thawed:?}");
}

#[tokio::test]
async fn two_freezes_follow_each_other() {
    let guest = guest(Ways::default());
    let first = guest.agent.freeze(request()).await.unwrap();
    let within = Duration::from_millis(50);
    let second = guest.agent.freeze(FreezeRequest { within, ..request() }).await.unwrap_err();
    assert!(matches!(second, FreezeError::Slow { .. }), "{second}");
    assert!(guest.ways.frozen.load(Ordering::SeqCst), "the first was thawed by the second");
    assert!(first.thaw(SOON).await.unwrap().held);
    guest.agent.freeze(request()).await.unwrap().thaw(SOON).await.unwrap();
}

#[tokio::test]
async fn a_freeze_of_a_node_that_died_is_thawed_first() {
    let guest = guest(Ways::default());
    guest.ways.frozen.store(true, Ordering::SeqCst);
    let thawed = guest.agent.thaw(SOON).await.unwrap();
    assert_eq!((thawed.file_systems, thawed.tries), (3, 1));
    guest.ways.frozen.store(true, Ordering::SeqCst);
    assert!(guest.agent.freeze(request()).await.unwrap().thaw(SOON).await.unwrap().held);
}

#[tokio::test]
async fn without_an_agent_the_freeze_fails_at_once() {
    let agent = Agent::at(Path::new("/nonexistent/ga.sock"));
    let refused = timeout(Duration::from_secs(5), agent.freeze(request())).await.unwrap().unwrap_err();
    assert!(matches!(refused, FreezeError::Agent(AgentError::Absent)), "{refused}");
}

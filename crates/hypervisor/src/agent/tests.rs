//! Agents that keep to the protocol, and agents that do not.

use std::collections::VecDeque;

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

use super::*;
use crate::{base64, qmp::Lines};

struct Guest {
    dir: tempfile::TempDir,
    listener: UnixListener,
}

impl Guest {
    fn new() -> (Agent, Self) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        (Agent::at(&socket), Self { dir, listener })
    }

    async fn accept(&self) -> UnixStream {
        self.listener.accept().await.unwrap().0
    }

    /// Answers syncs by itself, and each other request with the next of `answers`, which are whole lines.
    fn serve(self, answers: Vec<Vec<u8>>) -> tokio::task::JoinHandle<Vec<Value>> {
        tokio::spawn(async move {
            let _dir = &self.dir;
            let mut answers: VecDeque<_> = answers.into();
            let mut seen = Vec::new();
            while !answers.is_empty() {
                let (reader, mut writer) = self.accept().await.into_split();
                let mut lines = Lines::new(reader);
                while let Ok(Some(line)) = lines.next(1 << 20).await {
                    let request: Value =
                        serde_json::from_slice(line.strip_prefix(b"\xff").unwrap_or(&line)).unwrap();
                    if request["execute"] == "guest-sync-delimited" {
                        let id = &request["arguments"]["id"];
                        writer.write_all(&[0, 0xff]).await.unwrap();
                        writer.write_all(format!("{{\"return\": {id}}}\n").as_bytes()).await.unwrap();
                        continue;
                    }
                    seen.push(request);
                    let Some(answer) = answers.pop_front() else { return seen };
                    writer.write_all(&answer).await.unwrap();
                    if answers.is_empty() {
                        return seen;
                    }
                }
            }
            seen
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the values are made in place")]
fn answer(value: Value) -> Vec<u8> {
    format!("{}\n", json!({"return": value})).into_bytes()
}

#[tokio::test]
async fn a_program_is_run_to_its_end() {
    let (agent, guest) = Guest::new();
    let guest = guest.serve(vec![
        answer(json!({"pid": 7})),
        answer(json!({"exited": false})),
        answer(json!({"exited": true, "exitcode": 3, "out-data": base64::encode(b"hi\n"), "out-truncated": true})),
    ]);
    let outcome = agent
        .exec(ExecRequest {
            path: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), "true".to_owned()],
            env: vec![],
            stdin: b"in".to_vec(),
            timeout: Duration::from_secs(5),
        })
        .await
        .unwrap();
    let expected = ExecOutcome {
        exit_code: Some(3),
        signal: None,
        stdout: b"hi\n".to_vec(),
        stderr: vec![],
        truncated: true,
    };
    assert_eq!(outcome, expected);
    let seen = guest.await.unwrap();
    assert_eq!(
        seen[0]["arguments"],
        json!({"path": "/bin/sh", "arg": ["-c", "true"], "capture-output": true, "input-data": "aW4="})
    );
    assert_eq!(seen[1]["arguments"], json!({"pid": 7}));
}

#[tokio::test]
async fn a_program_that_does_not_end_is_left_after_its_time() {
    let (agent, guest) = Guest::new();
    let mut answers = vec![answer(json!({"pid": 7}))];
    answers.extend((0..20).map(|_| answer(json!({"exited": false}))));
    guest.serve(answers);
    let request = ExecRequest {
        path: "sleep".to_owned(),
        args: vec![],
        env: vec![],
        stdin: vec![],
        timeout: Duration::from_millis(100),
    };
    assert!(matches!(agent.exec(request).await, Err(AgentError::StillRuns { .. })));
}

#[tokio::test]
async fn a_file_arrives_whole_in_pieces_that_the_agent_chooses() {
    let (agent, guest) = Guest::new();
    let guest = guest.serve(vec![
        answer(json!(1000)),
        answer(json!({"count": 5, "eof": false})),
        answer(json!({"count": 6, "eof": false})),
        answer(json!({})),
        answer(json!({})),
    ]);
    assert_eq!(agent.write_file("/tmp/a", &b"hello world"[..]).await.unwrap(), 11);
    let seen = guest.await.unwrap();
    assert_eq!(seen[1]["arguments"]["buf-b64"], base64::encode(b"hello world"));
    assert_eq!(seen[2]["arguments"]["buf-b64"], base64::encode(b" world"));
    assert_eq!(seen[4]["execute"], "guest-file-close");
}

#[tokio::test]
async fn a_refusal_is_told_and_the_next_request_goes_on() {
    let (agent, guest) = Guest::new();
    guest.serve(vec![
        b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"agent is \\u001b[31mfrozen\"}}\n".to_vec(),
        answer(json!({"host-name": "web01\u{7}"})),
    ]);
    let refused = agent.ping().await.unwrap_err().to_string();
    assert_eq!(refused, "the guest agent refused guest-ping: agent is ?[31mfrozen");
    assert_eq!(agent.hostname().await.unwrap(), "web01");
}

#[tokio::test]
async fn garbage_costs_one_connection_and_no_more() {
    let mut deep = "[".repeat(100_000).into_bytes();
    deep.push(b'\n');
    let mut long = vec![b'a'; ANSWER_BYTES_MAX + 8192];
    long.push(b'\n');
    for bad in [b"\xfe\xed\n".to_vec(), deep, long, answer(json!({"version": 5}))] {
        let (agent, guest) = Guest::new();
        let good = answer(
            json!({"version": "7.2", "supported_commands": [{"name": "guest-ping", "enabled": true}]}),
        );
        guest.serve(vec![bad, good]);
        assert!(matches!(agent.info().await, Err(AgentError::Nonsense { .. })));
        let info = agent.info().await.unwrap();
        assert_eq!(
            (info.version.as_str(), info.commands.as_slice()),
            ("7.2", &["guest-ping".to_owned()][..])
        );
    }
}

#[tokio::test]
async fn an_agent_that_never_answers_is_given_up_and_a_late_answer_is_not_taken_for_another() {
    let (agent, guest) = Guest::new();
    let asked = tokio::spawn({
        let agent = agent.clone();
        async move {
            let mut wire = agent.wire.lock().await;
            wire.sync(Duration::from_secs(5)).await?;
            wire.exchange("guest-slow", &json!({}), Duration::from_millis(50), 1000).await
        }
    });
    let sync = |line: &[u8]| -> u64 {
        let request: Value = serde_json::from_slice(line.strip_prefix(b"\xff").unwrap()).unwrap();
        request["arguments"]["id"].as_u64().unwrap()
    };
    let (reader, mut writer) = guest.accept().await.into_split();
    let mut lines = Lines::new(reader);
    let id = sync(&lines.next(1000).await.unwrap().unwrap());
    writer.write_all(b"\xff").await.unwrap();
    writer.write_all(&answer(json!(id))).await.unwrap();
    assert!(matches!(asked.await.unwrap(), Err(AgentError::Timeout { .. })));

    let asked = tokio::spawn(async move { agent.hostname().await });
    let (reader, mut writer) = guest.accept().await.into_split();
    let mut lines = Lines::new(reader);
    let id = sync(&lines.next(1000).await.unwrap().unwrap());
    // The answer of before, an older sync's, then the right one.
    writer.write_all(&answer(json!({"host-name": "wrong"}))).await.unwrap();
    writer.write_all(b"\xff").await.unwrap();
    writer.write_all(&answer(json!(id - 1))).await.unwrap();
    writer.write_all(b"\xff").await.unwrap();
    writer.write_all(&answer(json!(id))).await.unwrap();
    lines.next(1000).await.unwrap().unwrap();
    writer.write_all(&answer(json!({"host-name": "right"}))).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), "right");
}

#[tokio::test]
async fn without_a_socket_the_agent_is_absent() {
    let agent = Agent::at(Path::new("/nonexistent/ga.sock"));
    assert!(matches!(agent.ping().await, Err(AgentError::Absent)));
}

#[tokio::test]
async fn a_flood_without_an_answer_is_bounded() {
    let (agent, guest) = Guest::new();
    tokio::spawn(async move {
        let mut stream = guest.accept().await;
        while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        guest
    });
    assert!(matches!(agent.ping().await, Err(AgentError::Nonsense { .. })));
}

#[tokio::test]
async fn interfaces_are_read_and_bounded() {
    let (agent, guest) = Guest::new();
    let mut many: Vec<Value> = (0..500).map(|n| json!({"name": format!("e{n}")})).collect();
    many[0] = json!({"name": "eth0", "hardware-address": "00:15:5d:00:00:01", "ip-addresses": [
        {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24},
        {"ip-address": "nonsense", "prefix": 1},
        {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64}]});
    guest.serve(vec![answer(json!(many))]);
    let interfaces = agent.interfaces().await.unwrap();
    assert_eq!(interfaces.len(), 64);
    let addresses = vec![("10.0.2.15".parse().unwrap(), 24), ("fe80::1".parse().unwrap(), 64)];
    let eth0 =
        GuestInterface { name: "eth0".to_owned(), mac: Some("00:15:5d:00:00:01".to_owned()), addresses };
    assert_eq!(interfaces[0], eth0);
}

#[tokio::test]
async fn a_guest_that_obeys_says_nothing() {
    let (agent, guest) = Guest::new();
    let served = guest.serve(vec![vec![], vec![]]);
    agent.shutdown(ShutdownMode::PowerDown).await.unwrap();
    served.abort();
}

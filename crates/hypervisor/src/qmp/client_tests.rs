//! A monitor that keeps to the script, or does not.

use super::*;

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

struct Monitor {
    lines: Lines<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Monitor {
    async fn command(&mut self) -> (String, Value, Value) {
        let line = self.lines.next(1 << 16).await.unwrap().unwrap();
        let mut value: Value = serde_json::from_slice(&line).unwrap();
        (value["execute"].as_str().unwrap().to_owned(), value["arguments"].take(), value["id"].take())
    }

    async fn say(&mut self, value: Value) {
        self.writer.write_all(format!("{value}\r\n").as_bytes()).await.unwrap();
    }
}

async fn pair() -> (Qmp, Monitor) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, mut writer) = theirs.into_split();
    let greeted = tokio::spawn(Qmp::greet(ours));
    writer.write_all(GREETING).await.unwrap();
    let mut monitor = Monitor { lines: Lines::new(reader), writer };
    let (command, _, id) = monitor.command().await;
    assert_eq!(command, "qmp_capabilities");
    monitor.say(json!({"return": {}, "id": id})).await;
    (greeted.await.unwrap().unwrap(), monitor)
}

#[tokio::test]
async fn a_late_answer_harms_nobody() {
    let (qmp, mut monitor) = pair().await;
    let slow = qmp.execute_within("query-slow", json!({}), Duration::from_millis(10)).await;
    assert!(matches!(slow, Err(QmpError::Timeout { .. })));
    let (_, _, slow_id) = monitor.command().await;
    monitor.say(json!({"return": {"late": true}, "id": slow_id})).await;
    let next = tokio::spawn(async move { qmp.execute("query-status", json!({"a": 1})).await });
    let (command, arguments, id) = monitor.command().await;
    assert_eq!((command.as_str(), arguments), ("query-status", json!({"a": 1})));
    monitor.say(json!({"return": 7, "id": id})).await;
    assert_eq!(next.await.unwrap().unwrap(), json!(7));
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let (qmp, mut monitor) = pair().await;
    let asked: Vec<_> = (0..5)
        .map(|n| {
            let qmp = qmp.clone();
            tokio::spawn(async move { (n, qmp.execute("echo", json!({"n": n})).await) })
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(monitor.command().await);
    }
    monitor.say(json!({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}})).await;
    for (_, arguments, id) in seen.into_iter().rev() {
        monitor.say(json!({"return": arguments["n"], "id": id})).await;
    }
    for asked in asked {
        let (n, answer) = asked.await.unwrap();
        assert_eq!(answer.unwrap(), json!(n));
    }
}

#[tokio::test]
async fn unknown_messages_are_passed_over_and_events_are_told() {
    let (qmp, mut monitor) = pair().await;
    let mut events = qmp.events();
    monitor.say(json!({"future": {"x": 1}})).await;
    monitor.say(json!({"id": "text", "return": {}})).await;
    monitor.say(json!({"error": {"class": "GenericError", "desc": "no id"}})).await;
    let data = json!({"guest": true, "reason": "guest-shutdown"});
    monitor.say(json!({"event": "SHUTDOWN", "data": data})).await;
    assert_eq!(events.recv().await.unwrap(), Event { name: "SHUTDOWN".to_owned(), data });
    assert_eq!(qmp.shutdown(), Some(Shutdown { guest: true, reason: "guest-shutdown".to_owned() }));
}

#[tokio::test]
async fn a_refusal_carries_qemus_words() {
    let (qmp, mut monitor) = pair().await;
    let asked = tokio::spawn(async move { qmp.execute("device_add", json!({})).await });
    let (_, _, id) = monitor.command().await;
    monitor.say(json!({"id": id, "error": {"class": "GenericError", "desc": "Bus 'x' not found"}})).await;
    assert_eq!(asked.await.unwrap().unwrap_err().to_string(), "QEMU refused device_add: Bus 'x' not found");
}

#[tokio::test]
async fn several_commands_go_in_one_piece_and_each_has_its_answer() {
    let (qmp, mut monitor) = pair().await;
    let commands = vec![("stop", json!({})), ("qom-set", json!({"value": 1})), ("cont", json!({}))];
    let asked = tokio::spawn({
        let qmp = qmp.clone();
        async move { qmp.execute_all(commands, QUICK).await }
    });
    for expected in ["stop", "qom-set", "cont"] {
        let (command, _, id) = monitor.command().await;
        assert_eq!(command, expected);
        match expected {
            "qom-set" => monitor.say(json!({"id": id, "error": {"desc": "no"}})).await,
            _ => monitor.say(json!({"id": id, "return": {}})).await,
        }
    }
    let answers = asked.await.unwrap().unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(matches!(&answers[1], Err(QmpError::Refused { command, .. }) if command == "qom-set"));
    let cut = tokio::spawn(async move { (qmp.execute_all(vec![("stop", json!({}))], QUICK).await, qmp) });
    monitor.command().await;
    drop(monitor);
    let (cut, qmp) = cut.await.unwrap();
    assert!(matches!(cut, Err(QmpError::Closed { .. })));
    assert!(qmp.0.shared.pending().is_empty());
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_monitor_goes_away() {
    let (qmp, mut monitor) = pair().await;
    let waiting = tokio::spawn({
        let qmp = qmp.clone();
        async move { qmp.execute("query-status", json!({})).await }
    });
    monitor.command().await;
    drop(monitor);
    assert!(matches!(waiting.await.unwrap(), Err(QmpError::Closed { .. })));
    qmp.closed().await;
    assert!(matches!(qmp.execute("query-status", json!({})).await, Err(QmpError::Closed { .. })));
    assert!(qmp.0.shared.pending().is_empty());
}

#[tokio::test]
async fn garbage_deep_nesting_and_endless_lines_end_the_connection_and_nothing_else() {
    let deep = format!("{}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let mut long = vec![b'x'; LINE_BYTES_MAX + 5000];
    long.push(b'\n');
    for bad in [b"\xff\xfe\n".to_vec(), deep.into_bytes(), long, b"7\n".to_vec()] {
        let (qmp, mut monitor) = pair().await;
        tokio::spawn(async move {
            monitor.writer.write_all(&bad).await.ok();
            // Still open: it is the client that must give up.
            std::future::pending::<()>().await;
        });
        timeout(Duration::from_secs(5), qmp.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_greeting_that_is_none_is_refused() {
    for bad in ["HTTP/1.1 200 OK\n", "{}\n", ""] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bad.as_bytes()).await.unwrap();
        drop(theirs);
        assert!(Qmp::greet(ours).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_dropped_connection_is_closed_towards_qemu() {
    let (qmp, mut monitor) = pair().await;
    drop(qmp);
    let end = timeout(Duration::from_secs(5), monitor.lines.next(100)).await.unwrap();
    assert!(end.unwrap().is_none());
}

#[tokio::test]
async fn a_descriptor_travels_with_its_command() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_reader, mut writer) = ours.into_split();
    let (pipe_reader, pipe_writer) = rustix::pipe::pipe().unwrap();
    send_with_fd(&mut writer, b"getfd\n", &pipe_writer).await.unwrap();
    drop(pipe_writer);
    theirs.readable().await.unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 16];
    let received = rustix::net::recvmsg(
        &theirs,
        &mut [io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        rustix::net::RecvFlags::empty(),
    )
    .unwrap();
    assert_eq!(&bytes[..received.bytes], b"getfd\n");
    let fd = ancillary
        .drain()
        .find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    rustix::io::write(&fd, b"hello").unwrap();
    assert_eq!(rustix::io::read(&pipe_reader, &mut bytes).unwrap(), 5);
}

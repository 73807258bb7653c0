//! What is around the machines of a job (programs, webhooks, copies), what a job cannot be, and repositories that fail it.

use std::{fs, path::Path, process::Command as Program, time::Duration};

use nestling_model::protection::{Command, Notice, OnFailure, Recipient, Retention, Run, RunState, Script};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    job_tests::{all, named},
    tests::{backed_up, ended, good, image, new_repository, prepare, why, wish, with_disk},
    *,
};
use crate::{
    ErrorKind, NewVm, NodeError, VmChange,
    testing::{ME, TestHome, eventually, is_root},
};

fn shell(line: &str, on_failure: OnFailure) -> Option<Vec<Script>> {
    let arguments = vec!["-c".to_owned(), line.to_owned()];
    Some(vec![Script {
        command: Command { program: "/bin/sh".into(), arguments, seconds_max: 30 },
        on_failure,
    }])
}

#[test]
fn programs_run_around_the_machines_and_one_that_must_succeed_decides() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let trace = vaults.path().join("trace");
        let line =
            format!("echo $NESTLING_JOB $NESTLING_RUN $NESTLING_MACHINES_SAVED >> {}", trace.display());
        let job = JobSettings {
            scripts_before: shell("echo making ready; exit 1", OnFailure::Warn),
            scripts_after: shell(&line, OnFailure::Fail),
            ..all(None)
        };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        let run = ended(&node, begun).await;
        assert_eq!((run.state, run.warnings.messages().len()), (RunState::SucceededWithWarnings, 1));
        assert_eq!(fs::read_to_string(&trace).unwrap(), "A 1 1\n");
        // The last line is written when the run has ended.
        eventually(async || node.run_log(&ME, "1").await.unwrap().contains("has ended")).await;
        let log = node.run_log(&ME, "1").await.unwrap();
        assert!(log.contains("making ready") && log.contains("exit status: 1"), "{log}");
        assert!(log.contains("vm: recovery point") && log.contains("has ended"), "{log}");

        let must = JobSettings { scripts_before: shell("exit 1", OnFailure::Fail), ..JobSettings::default() };
        node.change_job(&ME, "A", Some(named("B")), must).await.unwrap();
        let begun = node.run_job(&ME, "b").await.unwrap();
        let run = ended(&node, begun).await;
        assert_eq!((run.state, run.machines[0].state), (RunState::Failed, RunState::Failed));
        assert!(run.reason.unwrap().as_str().contains("/bin/sh failed"));
        assert_eq!(fs::read_to_string(&trace).unwrap(), "A 1 1\nB 2 0\n", "what was made ready is put back");
    });
}

#[test]
fn a_run_that_is_cut_off_in_its_last_program_is_interrupted() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let trace = vaults.path().join("trace");
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let line = format!("echo begun >> {}; exec sleep 300", trace.display());
        let job = JobSettings { scripts_after: shell(&line, OnFailure::Fail), ..all(None) };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        eventually(async || trace.exists()).await;
        node.close().await;
        assert_eq!(ended(&node, begun).await.state, RunState::Interrupted);
    });
}

/// A job that tells this server how it went.
fn telling(server: &std::net::TcpListener) -> JobSettings {
    let url = format!("http://{}/hook", server.local_addr().unwrap());
    let to = Recipient::Webhook { url: url.parse().unwrap(), secret: None };
    let when = nestling_model::protection::NoticeWhen { success: true, ..Default::default() };
    JobSettings { webhooks: Some(vec![Notice { to, when }]), ..all(None) }
}

fn server() -> std::net::TcpListener {
    let up = Program::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    server
}

/// The next one who tells something, and what.
async fn told(server: &std::net::TcpListener) -> (TcpStream, String) {
    let server = TcpListener::from_std(server.try_clone().unwrap()).unwrap();
    let (mut peer, _) =
        tokio::time::timeout(Duration::from_secs(30), server.accept()).await.unwrap().unwrap();
    let mut text = String::new();
    while !text.contains("machine_count") || !text.ends_with('}') {
        let mut part = [0; 4096];
        let count = tokio::time::timeout(Duration::from_secs(10), peer.read(&mut part)).await;
        let count = count.unwrap().unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    (peer, text)
}

#[test]
fn a_webhook_gets_what_it_asked_for() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let server = server();
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        node.create_job(&ME, named("A"), telling(&server)).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        let (mut peer, text) = told(&server).await;
        peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(text.starts_with("POST /hook HTTP/1.1"), "{text}");
        let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!((&body["event"], &body["job"]), (&"run-ended".into(), &"A".into()), "{body}");
        assert_eq!((&body["state"], &body["machines"][0]["vm"]), (&"Succeeded".into(), &"vm".into()));
        assert!(ended(&node, begun).await.warnings.is_empty());
    });
}

#[test]
fn who_was_not_told_before_the_node_ended_is_told_by_the_next_one() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let server = server();
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        node.create_job(&ME, named("A"), telling(&server)).await.unwrap();
        node.run_job(&ME, "A").await.unwrap();
        let _gets_no_answer = told(&server).await;
        node.close().await;
    });
    home.life(async |node| {
        let (mut peer, text) = told(&server).await;
        peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(text.contains("Succeeded"), "{text}");
        eventually(async || !node.protection.runs.documents()[0].untold).await;
        assert!(node.protection.runs.documents()[0].warnings.is_empty());
    });
}

#[test]
fn what_this_host_cannot_do_is_refused() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let none = node.create_job(&ME, named("A"), all(None)).await.unwrap_err();
        assert!(none.message().contains("no repository"), "{}", none.message());
        prepare(&node, vaults.path()).await;
        let by_image = vec!["image=debian".parse().unwrap()];
        let nobody = Recipient::Mail { addresses: Vec::new() };
        let mails = Some(vec![Notice { to: nobody, when: Default::default() }]);
        let refused = [
            JobSettings { rules: Some(by_image), ..all(None) },
            JobSettings { mails, ..all(None) },
            JobSettings { include: Some(Vec::new()), ..all(None) },
            JobSettings { parallel: Some(0), ..all(None) },
            JobSettings { retention: Some(Some(Retention::default())), ..all(None) },
        ];
        for (number, settings) in refused.into_iter().enumerate() {
            let error = node.create_job(&ME, named("A"), settings).await.unwrap_err();
            assert_eq!(error.code(), ErrorKind::Invalid, "{number}: {}", error.message());
        }
        node.create_job(&ME, named("A"), all(None)).await.unwrap();
        let twice = node.create_job(&ME, named("a"), all(None)).await.unwrap_err();
        assert_eq!(twice.code(), ErrorKind::Exists, "{}", twice.message());
        let used = node.forget_repository(&ME, "R").await.unwrap_err();
        assert!(used.message().contains("job 'A'"), "{}", used.message());
        assert!(matches!(node.job(&ME, "no").await.unwrap_err(), NodeError::NotFound { .. }));
    });
}

#[test]
fn who_has_a_tag_is_covered_and_who_loses_it_is_not() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let tagged = NewVm { tags: vec!["Gold".parse().unwrap()], ..with_disk(&node, "other") };
        node.create_vm(&ME, tagged).await.unwrap();
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect());
        let job = JobSettings {
            include: texts(&["web*", "tag:gold"]),
            exclude: texts(&["tag:scratch"]),
            ..all(None)
        };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let covered = async || {
            let plan = node.plan_job(&ME, "A").await.unwrap();
            let because = |machine: PlannedMachine| (machine.path.to_string(), machine.named_by.unwrap());
            (plan.machines.into_iter().map(because).collect::<Vec<_>>(), plan.excluded)
        };
        let gold = |name: &str| (name.to_owned(), "tag:gold".to_owned());
        assert_eq!(covered().await.0, [gold("other")]);
        let set = async |vm: &str, add: &str, remove: &str| {
            let tags = |text: &str| text.split_whitespace().map(|tag| tag.parse().unwrap()).collect();
            let change = VmChange { add_tags: tags(add), remove_tags: tags(remove), ..VmChange::default() };
            node.change_vm(&ME, vm, change).await
        };
        let both = set("vm", "web GOLD", "").await.unwrap();
        assert_eq!(both.vm.tags, ["gold".parse().unwrap(), "web".parse().unwrap()]);
        assert_eq!(covered().await.0, [gold("other"), gold("vm")]);
        let begun = node.run_job(&ME, "A").await.unwrap();
        assert_eq!(ended(&node, begun).await.machines.len(), 2);
        set("other", "", "gold none").await.unwrap();
        set("vm", "Scratch", "").await.unwrap();
        let (machines, excluded) = covered().await;
        assert!(machines.is_empty(), "{machines:?}");
        assert_eq!((excluded.len(), excluded[0].1.as_str()), (1, "tag:scratch"));
        assert_eq!(set("vm", "a", "A").await.unwrap_err().code(), ErrorKind::Invalid);
    });
    home.life(async |node| {
        let tags = node.vm(&ME, "vm").await.unwrap().vm.tags;
        assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["GOLD", "Scratch", "web"]);
    });
}

/// A small file system of its own.
struct SmallStore(std::path::PathBuf);

impl SmallStore {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let status = Program::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "small"]).arg(dir).status();
        assert!(status.unwrap().success());
        Self(dir.to_owned())
    }

    fn grow(&self) {
        let status = Program::new("mount").args(["-o", "remount,size=64m"]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallStore {
    fn drop(&mut self) {
        let _ = Program::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn a_repository_that_is_full_or_away_fails_the_run_clearly_and_the_next_one_is_right() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let small = SmallStore::new(&vaults.path().join("small"));
    home.life(async |node| {
        let place = vaults.path().join("small/r");
        node.add_repository(&ME, new_repository("S", &place, "hunter2")).await.unwrap();
        node.create_vm(&ME, with_disk(&node, "vm")).await.unwrap();
        node.create_job(&ME, named("A"), all(None)).await.unwrap();
        let noise = vaults.path().join("noise");
        let line = format!("head -c 8M /dev/urandom > {}", noise.display());
        assert!(Program::new("sh").args(["-c", &line]).status().unwrap().success());
        let command = format!("write -s {} 0 8M", noise.display());
        let wrote = Program::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(image(&node)).output();
        assert!(wrote.unwrap().status.success());
        let run = async || {
            let begun = node.run_job(&ME, "A").await.unwrap();
            ended(&node, begun).await
        };
        let reason = |run: &Run| run.machines[0].reason.as_ref().unwrap().to_string();
        let full = run().await;
        assert_eq!(full.state, RunState::Failed);
        assert!(reason(&full).contains("repository 'S'"), "{}", reason(&full));
        assert!(reason(&full).to_lowercase().contains("no space"), "{}", reason(&full));
        small.grow();
        good(&run().await);

        fs::rename(&place, vaults.path().join("small/away")).unwrap();
        let gone = run().await;
        assert!(
            gone.state == RunState::Failed && reason(&gone).contains("repository 'S'"),
            "{}",
            reason(&gone)
        );
        fs::rename(vaults.path().join("small/away"), &place).unwrap();
        let right = run().await;
        assert_eq!(why(&right), None, "what was tracked is still known");
    });
}

#[test]
fn copies_get_what_came_since_and_a_place_that_is_away_is_a_warning() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let second = vaults.path().join("second");
        node.add_repository(&ME, new_repository("Second", &second, "other")).await.unwrap();
        for repository in ["R", "Second"] {
            good(&backed_up(&node, BackupWish { repository: Some(repository.into()), ..wish("vm") }).await);
        }
        let last = Retention { last: 3, ..Retention::default() };
        let copies = vec![JobCopy { repository: "second".into(), retention: Some(last) }];
        let job = JobSettings { repository: Some("R".into()), copies: Some(copies), ..all(None) };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let run = async || {
            let begun = node.run_job(&ME, "A").await.unwrap();
            ended(&node, begun).await
        };
        let there = async || {
            let of = PointsWish { repository: Some("Second".into()), count_max: 10, ..Default::default() };
            node.points(&ME, of).await.unwrap().points.len()
        };
        assert_eq!((run().await.state, there().await), (RunState::Succeeded, 3), "what was before, too");
        fs::rename(&second, vaults.path().join("away")).unwrap();
        let away = run().await;
        assert_eq!(away.state, RunState::SucceededWithWarnings);
        let warning = away.warnings.messages()[0].to_string();
        assert!(warning.contains("repository 'Second'"), "{warning}");
        fs::rename(vaults.path().join("away"), &second).unwrap();
        assert_eq!((run().await.state, there().await), (RunState::Succeeded, 3), "by its own rules");
        let used = node.forget_repository(&ME, "second").await.unwrap_err();
        assert_eq!(used.code(), ErrorKind::InUse);
    });
}

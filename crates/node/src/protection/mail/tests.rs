//! Mail to a real server (aiosmtpd), with TLS and without, with names and passwords, and by jobs.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nestling_model::protection::{Job, Notice, NoticeWhen, Recipient, Run, RunState};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        JobSettings,
        job_tests::{MINUTE, T0, all, clock_at, named},
        tests::{ended as has_ended, prepare},
    },
    send::{Account, Patience, compose, deliver},
    *,
};
use crate::{
    ErrorKind,
    testing::{ME, TestHome, eventually, is_root, settings},
};

const USER: &str = "nest";
const PASSWORD: &str = "pass wörd";
const QUICK: Patience = Patience {
    step: Duration::from_secs(20),
    attempts: 3,
    pause: Duration::from_millis(50),
    all: Duration::from_secs(60),
};

/// A server, and what it has taken.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    tls: MailTls,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(dir: &Path, line: &str) {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, and a server's certificate by it.
fn certify(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let extensions = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=CA {extensions}"));
    openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
    openssl(dir, &format!("x509 -req -in server.csr {by} -out server.pem"));
}

impl Server {
    fn start(tls: MailTls) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail_server.py");
        // The distribution's own, which has the package.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(dir.path());
        match tls {
            MailTls::Never => command.arg("plain"),
            MailTls::StartTls | MailTls::Tls => {
                certify(dir.path());
                command.arg(if tls == MailTls::Tls { "tls" } else { "starttls" });
                command.args([dir.path().join("server.pem"), dir.path().join("server.key")]);
                command.args([USER, PASSWORD])
            }
        };
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().expect("python3-aiosmtpd is installed"), child, dir, tls }
    }

    fn known(&self) -> NewMailServer {
        let is_open = self.tls == MailTls::Never;
        NewMailServer {
            host: "127.0.0.1".to_owned(),
            port: Some(self.port),
            tls: self.tls,
            from: address("nest@example.org"),
            user: (!is_open).then(|| USER.to_owned()),
            password: (!is_open).then(|| password(PASSWORD)),
            ca: (!is_open).then(|| fs::read_to_string(self.dir.path().join("ca.pem")).unwrap()),
        }
    }

    fn account(&self, change: impl FnOnce(&mut NewMailServer)) -> Account {
        let mut new = self.known();
        change(&mut new);
        let NewMailServer { host, port, tls, from, user, password, ca } = new;
        let server = MailServer { host, port: port.unwrap(), tls, from, user, secret: None, ca };
        Account::new(server, password.as_ref(), "host.example").unwrap()
    }

    /// Oldest first.
    fn mails(&self) -> Vec<Value> {
        let read = |number: u32| {
            let text = fs::read_to_string(self.dir.path().join(format!("{number}.json"))).ok()?;
            serde_json::from_str(&text).ok()
        };
        (1..).map_while(read).collect()
    }

    async fn take(&self, count: usize) -> Vec<Value> {
        eventually(async || self.mails().len() >= count).await;
        self.mails()
    }
}

fn password(text: &str) -> Secrets {
    Secrets { password: text.to_owned(), settings: Default::default() }
}

fn address(text: &str) -> MailAddress {
    text.parse().unwrap()
}

fn letter() -> Letter {
    Letter { subject: "Grüße\r\nBcc: evil@example.org".to_owned(), body: "Zeile ä\n.\nend\n".to_owned() }
}

async fn sent(account: &Account, to: &[&str]) -> Vec<String> {
    let to: Vec<MailAddress> = to.iter().map(|to| address(to)).collect();
    deliver(account, &letter(), &to, QUICK, &CancellationToken::new()).await
}

fn header<'a>(data: &'a str, name: &str) -> Vec<&'a str> {
    let head = data.split("\r\n\r\n").next().unwrap();
    head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[tokio::test]
async fn mail_goes_in_the_clear_by_starttls_and_by_tls() {
    for tls in [MailTls::Never, MailTls::StartTls, MailTls::Tls] {
        let server = Server::start(tls);
        assert_eq!(
            sent(&server.account(|_| ()), &["a@example.org", "jürgen@example.org"]).await,
            [""; 0],
            "{tls:?}"
        );
        let mails = server.mails();
        assert_eq!((mails.len(), &mails[0]["to"][0]), (2, &"a@example.org".into()));
        assert_eq!(mails[0]["from"], "nest@example.org");
        assert_eq!(mails[0]["tls"], tls != MailTls::Never);
        let user = if tls == MailTls::Never { Value::Null } else { USER.into() };
        assert_eq!(mails[0]["user"], user, "{tls:?}");
    }
}

#[tokio::test]
async fn a_mail_is_as_the_standards_want_it_and_no_text_becomes_a_header() {
    let server = Server::start(MailTls::Never);
    assert_eq!(sent(&server.account(|_| ()), &["a@example.org"]).await, [""; 0]);
    let mails = server.mails();
    let data = mails[0]["data"].as_str().unwrap();
    assert_eq!(header(data, "From"), ["\"Nestling on host.example\" <nest@example.org>"], "{data}");
    assert_eq!(header(data, "To"), ["a@example.org"]);
    assert!(header(data, "Date")[0].ends_with("+0000"), "{data}");
    assert!(header(data, "Message-ID")[0].ends_with("@example.org>"), "{data}");
    assert_eq!(header(data, "Auto-Submitted"), ["auto-generated"]);
    assert_eq!(header(data, "Content-Type"), ["text/plain; charset=utf-8"]);
    assert!(header(data, "Bcc").is_empty() && header(data, "Subject").len() == 1, "{data}");
    let python = "import email, email.policy, json, sys; m = email.message_from_string(json.load(sys.stdin)['data'], \
                  policy=email.policy.default); print(m['subject']); print(m.get_content(), end='')";
    let mut child = Command::new("/usr/bin/python3");
    child.args(["-c", python]).stdin(fs::File::open(server.dir.path().join("1.json")).unwrap());
    let read = child.env("PYTHONIOENCODING", "utf-8").output().unwrap();
    let read = String::from_utf8_lossy(&read.stdout).replace('\r', "");
    assert_eq!(read, "Grüße  Bcc: evil@example.org\nZeile ä\n.\nend\n");
}

#[tokio::test]
async fn who_is_refused_keeps_nobody_else_from_a_mail_and_later_is_tried_again() {
    let server = Server::start(MailTls::StartTls);
    let left = sent(&server.account(|_| ()), &["never@a.org", "a@a.org", "later@a.org", "b@a.org"]).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        left[0],
        "never@a.org could not be sent a mail: the server answered 550 5.1.1 nobody of that name"
    );
    let to: Vec<String> = server.mails().iter().map(|mail| mail["to"][0].to_string()).collect();
    assert_eq!(to, ["\"a@a.org\"", "\"b@a.org\"", "\"later@a.org\""]);
}

#[tokio::test]
async fn a_wrong_password_another_authority_and_a_server_in_the_clear_are_told() {
    let server = Server::start(MailTls::StartTls);
    let wrong = server.account(|new| new.password = Some(password("hunter2")));
    let left = sent(&wrong, &["a@a.org", "b@a.org"]).await;
    assert!(left.len() == 2 && left[1].contains("b@a.org") && left[1].contains("answered 535"), "{left:?}");
    assert!(!left[0].contains("hunter2"), "{left:?}");
    let stranger = server.account(|new| new.ca = None);
    let left = sent(&stranger, &["a@a.org"]).await;
    assert!(left[0].contains("certificate"), "{left:?}");
    let elsewhere = server.account(|new| new.host = "127.0.0.2".to_owned());
    assert_eq!(sent(&elsewhere, &["a@a.org"]).await.len(), 1);
    let plain = Server::start(MailTls::Never);
    let ca = fs::read_to_string(server.dir.path().join("ca.pem")).unwrap();
    let asks = plain.account(|new| {
        new.tls = MailTls::StartTls;
        new.ca = Some(ca);
    });
    let left = sent(&asks, &["a@a.org"]).await;
    assert!(left[0].contains("STARTTLS"), "{left:?}");
    assert!(server.mails().is_empty() && plain.mails().is_empty());
}

#[tokio::test]
async fn a_server_that_says_nothing_or_is_not_there_costs_bounded_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = MailServer {
        host: "127.0.0.1".to_owned(),
        port: silent.local_addr().unwrap().port(),
        tls: MailTls::Never,
        from: address("nest@example.org"),
        user: None,
        secret: None,
        ca: None,
    };
    let account = Account::new(server, None, "").unwrap();
    let patience = Patience { step: Duration::from_millis(300), all: Duration::from_secs(1), ..QUICK };
    let began = std::time::Instant::now();
    let to = [address("a@a.org"), address("b@a.org")];
    let left = deliver(&account, &letter(), &to, patience, &CancellationToken::new()).await;
    assert!(left.len() == 2 && left[0].contains("has not answered within"), "{left:?}");
    drop(silent);
    let left = deliver(&account, &letter(), &to, patience, &CancellationToken::new()).await;
    assert!(left.len() == 2 && left[1].contains("refused"), "{left:?}");
    let stopping = CancellationToken::new();
    stopping.cancel();
    let left = deliver(&account, &letter(), &to, QUICK, &stopping).await;
    assert!(left[0].contains("the node stopped"), "{left:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn names_of_hosts_and_jobs_stay_in_their_line() {
    let server = MailServer {
        host: "mail.example.org".to_owned(),
        port: 25,
        tls: MailTls::Never,
        from: address("nest@bücher.example"),
        user: None,
        secret: None,
        ca: None,
    };
    let account = Account::new(server, None, "evil\r\nBcc: x@y.z").unwrap();
    let sent = compose(&account, &letter(), &address("a@b.org")).unwrap().formatted();
    let text = String::from_utf8_lossy(&sent);
    assert!(!text.contains("\nBcc") && text.contains("@localhost>"), "{text}");
}

fn up() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

/// A job that tells two people how it went.
fn mailing(when: NoticeWhen) -> JobSettings {
    let to = Recipient::Mail { addresses: vec![address("a@example.org"), address("never@example.org")] };
    JobSettings { mails: Some(vec![Notice { to, when }]), ..all(None) }
}

#[test]
fn a_job_tells_by_mail_how_it_went_and_a_mail_that_is_refused_is_a_warning() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    up();
    let server = Server::start(MailTls::StartTls);
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let when = NoticeWhen { success: true, ..Default::default() };
        let early = node.create_job(&ME, named("A"), mailing(when)).await.unwrap_err();
        assert_eq!(early.code(), ErrorKind::Requirement);
        assert!(early.hint().unwrap().contains("nestling mail set"), "{early}");
        node.set_mail_server(&ME, server.known()).await.unwrap();
        node.test_mail(&ME, &[address("me@example.org")]).await.unwrap();
        let refused = node.test_mail(&ME, &[address("never@example.org")]).await.unwrap_err();
        assert!(refused.message().contains("550"), "{refused}");

        node.create_job(&ME, named("A"), mailing(when)).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        let run = has_ended(&node, begun).await;
        let mails = server.take(2).await;
        let data = mails[1]["data"].as_str().unwrap();
        let host = crate::facts::host_name();
        assert_eq!(header(data, "Subject"), [format!("A succeeded on {host}: vm")]);
        for words in [
            "Result:     succeeded",
            "Repository: R",
            "vm: succeeded in ",
            " read, ",
            "nestling backup log 1",
        ] {
            assert!(data.contains(words), "{words}: {data}");
        }
        assert_eq!(run.state, RunState::Succeeded, "a notice changes nothing of it");
        let warnings = || node.protection.runs.documents()[0].warnings.messages().to_vec();
        eventually(async || warnings().len() == 1).await;
        assert!(
            warnings()[0].as_str().starts_with("never@example.org could not be sent a mail: "),
            "{:?}",
            warnings()
        );

        let used = node.remove_mail_server(&ME).await.unwrap_err();
        assert_eq!(used.code(), ErrorKind::InUse, "{used}");
        let none = JobSettings { mails: Some(Vec::new()), ..JobSettings::default() };
        node.change_job(&ME, "A", None, none).await.unwrap();
        node.remove_mail_server(&ME).await.unwrap();
        assert_eq!(node.mail_server(&ME).unwrap_err().code(), ErrorKind::NotFound);
    });
    let secrets = fs::read_dir(home.path().join("secrets")).unwrap().count();
    assert_eq!(secrets, 1, "the repository's alone");
}

#[test]
fn a_missed_objective_is_told_by_mail() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    up();
    let server = Server::start(MailTls::Never);
    let (settings, hands) = clock_at(T0, settings());
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        node.set_mail_server(&ME, server.known()).await.unwrap();
        let objective = Some(Some(nestling_model::protection::Objective { seconds: 3600 }));
        let job = JobSettings { objective, ..mailing(NoticeWhen::default()) };
        node.create_job(&ME, named("A"), job).await.unwrap();
        hands.send_replace(T0 + 90 * MINUTE);
        node.shared().look().await;
        let mails = server.take(1).await;
        let data = mails[0]["data"].as_str().unwrap();
        assert!(
            header(data, "Subject")[0].starts_with("A misses its recovery point objective on "),
            "{data}"
        );
        assert!(data.contains("vm: it has no recovery point; one is due since 30 min"), "{data}");
    });
}

#[test]
fn the_password_is_kept_apart_and_changes_with_its_server() {
    let home = TestHome::new();
    let names = || {
        let found = fs::read_dir(home.path().join("secrets")).unwrap();
        let mut names: Vec<String> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let new = |word: &str| NewMailServer {
        host: "mail.example.org".to_owned(),
        port: None,
        tls: MailTls::Tls,
        from: address("nest@example.org"),
        user: Some(USER.to_owned()),
        password: Some(password(word)),
        ca: None,
    };
    home.life(async |node| {
        let first = node.set_mail_server(&ME, new("hunter2")).await.unwrap();
        assert_eq!(first.port, 465);
        let second = node.set_mail_server(&ME, new("hunter3")).await.unwrap();
        assert_eq!(names(), [second.secret.clone().unwrap().to_string()], "the older one is gone");
        assert!(!format!("{second:?}").contains("hunter"));
        for wrong in [
            NewMailServer { password: None, ..new("") },
            NewMailServer { tls: MailTls::Never, ..new("x") },
            NewMailServer { port: Some(0), ..new("x") },
            NewMailServer { host: "a b".to_owned(), ..new("x") },
            NewMailServer { ca: Some("no certificate".to_owned()), ..new("x") },
            NewMailServer {
                ca: Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned()),
                ..new("x")
            },
        ] {
            assert_eq!(node.set_mail_server(&ME, wrong).await.unwrap_err().code(), ErrorKind::Invalid);
        }
        assert_eq!(names().len(), 1);
    });
    // What a node left that died between its steps.
    fs::write(home.path().join("secrets/mail-torn"), "{}").unwrap();
    home.life(async |node| {
        let kept = node.mail_server(&ME).unwrap();
        assert_eq!(names(), [kept.secret.clone().unwrap().to_string()]);
        let opened = node.protection.mail.secrets.get(&kept.secret.unwrap()).unwrap();
        assert_eq!(opened.password, "hunter3");
    });
}

/// A run as words alone.
#[test]
fn a_letter_says_what_went_wrong_first() {
    let job: Job = serde_json::from_value(serde_json::json!({
        "id": uuid::Uuid::nil(), "name": "Nightly", "selection": {}, "policy": {"repository": uuid::Uuid::nil()}
    }))
    .unwrap();
    let machine = |path: &str, state: &str| {
        serde_json::json!({
            "path": path, "id": uuid::Uuid::nil(), "state": state, "started_at_ms": 1_000, "ended_at_ms": 193_000,
            "reason": (state == "Failed").then_some("the disk\nis gone"), "new_bytes": 1_572_864, "stored_bytes": 2048,
        })
    };
    let run = |state: &str, machines: Vec<Value>| -> Run {
        serde_json::from_value(serde_json::json!({
            "id": uuid::Uuid::nil(), "number": 7, "causes": [], "repository": uuid::Uuid::nil(), "created_at_ms": 0,
            "started_at_ms": 0, "ended_at_ms": 3_723_000, "state": state, "machines": machines,
            "warnings": {"messages": ["the copy is late"]},
        }))
        .unwrap()
    };
    let failed = run("Failed", vec![machine("web1", "Succeeded"), machine("web2", "Failed")]);
    let letter = ended("L0", &job, &failed, "Main");
    assert_eq!(letter.subject, "Nightly failed on L0: web2 (1 of 2 machines)");
    for line in [
        "Result:     failed",
        "Took:       1 h 2 min",
        "New:        3 MB, 4 KB in the repository",
        "Machines: 1 of 2 have a new recovery point",
        "web2: failed in 3 min 12 s",
        "  Reason: the disk is gone",
        "  the copy is late",
    ] {
        assert!(letter.body.lines().any(|told| told == line), "{line}\n{}", letter.body);
    }
    let mut many: Vec<Value> =
        (0..250).map(|number| machine(&format!("m{number:03}"), "Succeeded")).collect();
    let letter = ended("L0", &job, &run("Succeeded", many.clone()), "Main");
    assert_eq!(letter.subject, "Nightly succeeded on L0: m000, m001, m002 and 247 more");
    assert!(letter.body.contains("\n... and 50 more machines\n"), "{}", letter.body);
    // Of many, none that failed is left out.
    many[230] = machine("m230", "Failed");
    let letter = ended("L0", &job, &run("Failed", many), "Main");
    assert!(letter.body.contains("\nm230: failed in "), "{}", letter.body);
    // Each has much to tell, and the mail does not grow with that.
    let warnings: Vec<String> = (0..100).map(|number| format!("{number} {}", "x".repeat(490))).collect();
    let mut wordy = machine("wordy", "SucceededWithWarnings");
    wordy["warnings"] = serde_json::json!({ "messages": warnings });
    let letter = ended("L0", &job, &run("SucceededWithWarnings", vec![wordy; 20]), "Main");
    assert!(letter.body.len() < 400 << 10, "{}", letter.body.len());
    assert!(letter.body.contains("\n... and 14 more machines\n"), "{}", letter.body);
    assert_eq!(
        ended("L0", &job, &run("SucceededWithWarnings", Vec::new()), "Main").subject,
        "Nightly succeeded with warnings on L0: no machine"
    );
}

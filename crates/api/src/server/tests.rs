//! The endpoints as a whole, on a real node.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use nestling_node::{Identity, Node, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::endpoints::{self, App};
use crate::{
    client::Client,
    v1::{ErrorBody, ErrorCode, NewJob, NewRepository, NewRun, NewVm, RemovedVm, Secret, VmChange, VmState},
};

/// A user of the host who is nobody here.
const STRANGER: Identity = Identity::Local { uid: 54_321 };

async fn node() -> (Node, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let node = Node::open(home.path(), Settings::default()).await.unwrap();
    (node, home)
}

fn router(node: &Node) -> Router {
    endpoints::all().0.with_state(App { node: node.clone(), stop: CancellationToken::new() })
}

async fn ask(
    router: &Router,
    who: Identity,
    method: Method,
    path: &str,
    body: Value,
) -> (StatusCode, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path).body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(who);
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes().into())
}

/// A path of the document with something in every place.
fn filled(path: &str) -> String {
    path.replace("{adapter}", "9c0e4f6e-3f3c-4d7e-8f4e-111111111111")
        .replace("{operation}", "start")
        .replace("{controller}", "SCSI")
        .replace("{location}", "0")
        .replace("{id}", "1")
        .replace("{rest}", "vms")
        .split('/')
        .map(|part| if part.starts_with('{') { "x" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

/// A body that can be read, for each operation that has one.
fn some_body(operation: &Value) -> Value {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    match schema.as_str().and_then(|s| s.rsplit('/').next()) {
        Some("NewAddress") => json!({"adapter": "x", "address": "10.0.0.1", "prefix_len": 24}),
        Some("NewSwitch") => json!({"name": "x", "kind": "Private"}),
        Some("NewNat") => json!({"name": "x", "internal_prefix": "10.0.0.0/24"}),
        Some("NewMapping") => json!({"protocol": "TCP", "external_address": "0.0.0.0", "external_port": 1,
            "internal_address": "10.0.0.2"}),
        Some("NewDisk") => json!({"path": "/x", "kind": "Dynamic", "size_bytes": 1 << 30}),
        Some("ResizeDisk") => json!({"size_bytes": 1 << 30}),
        Some("NewDrive") => json!({"path": "/x"}),
        Some("NewVm") => json!({"name": "x"}),
        Some("NewRepository") => json!({"name": "x", "location": "/x", "password": "x"}),
        Some("ExportVm") => json!({"folder": "/x"}),
        Some("NewImport") => json!({"path": "/x"}),
        Some("NewRecovery") => json!({"point": "x@newest"}),
        Some("UnlockVolumes") => json!({"key": "00"}),
        Some("NewJob") => json!({"name": "x"}),
        Some("NewLoan") => json!({"vm": "x", "repository": "9c0e4f6e-3f3c-4d7e-8f4e-111111111111"}),
        Some("NewMailServer") => json!({"host": "x", "from": "x@example.org"}),
        Some("MailTest") => json!({"to": ["x@example.org"]}),
        Some("NewRun") => json!({"vms": ["x"]}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn every_endpoint_refuses_a_user_without_permission() {
    let (node, _home) = node().await;
    let router = router(&node);
    let document = serde_json::to_value(super::openapi()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let query = "?path=%2Fx&address=10.0.0.1&place=scsi:0&offset=0&length=1&name=x&with=x";
            let path = filled(path) + query;
            let (status, body) = ask(&router, STRANGER, method.clone(), &path, some_body(operation)).await;
            let told = String::from_utf8_lossy(&body);
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {told}");
            let refused: ErrorBody = serde_json::from_slice(&body).unwrap();
            assert_eq!(refused.code, ErrorCode::Denied);
            assert!(
                told.contains("You do not have the required permission to complete this task."),
                "{told}"
            );
            asked += 1;
        }
    }
    assert!(asked > 40, "only {asked} operations are documented");
    node.close().await;
}

#[test]
fn the_document_names_each_operation_once() {
    let document = serde_json::to_value(super::openapi()).unwrap();
    let mut names = std::collections::HashSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(operation["responses"]["default"].is_object());
            if let Some(name) = operation["operationId"].as_str() {
                assert!(names.insert(name.to_owned()), "{name} twice");
            }
        }
    }
}

/// A node that serves its home, and a client of it.
struct Served {
    client: Client,
    node: Node,
    home: TempDir,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let (node, home) = node().await;
        let stop = CancellationToken::new();
        let serving = {
            let (node, home, stop) = (node.clone(), home.path().to_owned(), stop.clone());
            tokio::spawn(async move { super::serve(node, &home, None, stop).await })
        };
        let client = loop {
            match Client::connect(home.path()).await {
                Ok(client) => break client,
                Err(error) => assert!(error.is_unreachable() && !serving.is_finished(), "{error}"),
            }
            tokio::task::yield_now().await;
        };
        Self { client, node, home, stop, serving }
    }

    /// Waits until the server has ended.
    async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.unwrap().unwrap().unwrap();
        assert!(Client::connect(self.home.path()).await.unwrap_err().is_unreachable());
        self.node.close().await;
    }
}

#[tokio::test]
async fn a_machine_is_made_changed_and_removed() {
    let served = Served::start().await;
    let client = &served.client;
    assert_eq!(client.node().await.unwrap().pid, std::process::id());
    let mut events = client.events(true).await.unwrap();

    let new = NewVm { name: "Web 01".into(), processor_count: Some(1), ..NewVm::default() };
    let made = client.create_vm(&new).await.unwrap();
    assert_eq!(made.state, VmState::Off);
    assert_eq!(client.create_vm(&new).await.unwrap_err().code, ErrorCode::Exists);
    loop {
        let event = events.next().await.unwrap().unwrap();
        if event.kind == "vm-created" {
            assert_eq!(event.object, "Web 01");
            break;
        }
    }
    let change = VmChange { notes: Some("n".into()), ..VmChange::default() };
    let changed = client.change_vm(&made.id.to_string(), &change).await.unwrap();
    assert_eq!((changed.notes.as_str(), changed.id), ("n", made.id));
    assert_eq!(client.vms().await.unwrap(), [client.vm("web 01").await.unwrap()]);

    let tree = client.tree().await.unwrap();
    assert_eq!((tree.vms.len(), tree.vms[0].name.as_str()), (1, "Web 01"));

    assert_eq!(client.remove_vm("Web 01", true).await.unwrap(), RemovedVm::default());
    assert_eq!(client.vm("Web 01").await.unwrap_err().code, ErrorCode::NotFound);
    served.stop.cancel();
    while events.next().await.is_some_and(|e| e.is_ok()) {}
    served.ended().await;
}

#[tokio::test]
async fn what_opens_a_repository_goes_in_and_never_comes_out() {
    let served = Served::start().await;
    let (client, vaults) = (&served.client, tempfile::tempdir().unwrap());
    let new = NewRepository {
        name: "R".into(),
        location: vaults.path().join("r").display().to_string(),
        password: Secret::new("hunter2"),
        settings: std::collections::BTreeMap::new(),
        upload_bytes_per_second_max: None,
        append_only: false,
    };
    let added = client.add_repository(&new).await.unwrap();
    assert_eq!(added.created, Some(true));
    let shown = client.repository("r").await.unwrap();
    assert_eq!(shown.contents.as_ref().map(|c| c.points), Some(0), "{:?}", shown.problem);
    let answers = json!([added, shown, client.repositories().await.unwrap()]).to_string();
    assert!(!answers.contains("hunter2"), "{answers}");
    assert!(client.runs(None, None).await.unwrap().is_empty());
    assert!(client.points(None, Some("R"), 0, Some(5)).await.unwrap().points.is_empty());
    let wish: NewRun = serde_json::from_value(json!({"vms": ["no/such"]})).unwrap();
    assert_eq!(client.start_run(&wish).await.unwrap_err().code, ErrorCode::NotFound);
    client.forget_repository("R").await.unwrap();
    assert_eq!(client.repository("R").await.unwrap_err().code, ErrorCode::NotFound);
    served.stop.cancel();
    served.ended().await;
}

#[tokio::test]
async fn a_job_comes_out_as_it_went_in_and_is_changed_and_removed() {
    let served = Served::start().await;
    let (client, vaults) = (&served.client, tempfile::tempdir().unwrap());
    let place = vaults.path().join("r").display().to_string();
    let new = json!({"name": "R", "location": place, "password": "hunter2"});
    client.add_repository(&serde_json::from_value(new).unwrap()).await.unwrap();
    let settings = json!({
        "vms": ["web*", "tag:prod"], "rules": ["memory>=4GB"], "any_rule": true, "schedule": "daily at 22:30",
        "retention": {"daily": 14}, "keep": {"protect_hours": 24}, "consistency": {"level": "Crash"},
        "exclude_disks": ["scsi:1"], "read_bytes_per_second_max": 1_000_000, "parallel": 3, "order": "LargestFirst",
        "scripts_before": [{"program": "/bin/true", "must_succeed": true}], "objective_seconds": 3600,
        "webhooks": [{"url": "https://hooks.example/a", "on_success": true, "on_warnings": false}],
        "mails": [{"addresses": ["a@example.org", "b@example.org"], "on_success": true}],
    });
    let server = json!({"host": "mail.example", "security": "Tls", "from": "nest@example.org", "user": "nest",
        "password": "hunter3"});
    let server = client.set_mail_server(&serde_json::from_value(server).unwrap()).await.unwrap();
    assert_eq!((server.port, server.user.as_deref()), (465, Some("nest")));
    let told = json!([server, client.mail_server().await.unwrap()]).to_string();
    assert!(!told.contains("hunter3"), "{told}");
    let new: NewJob =
        serde_json::from_value(json!({"name": "Nightly", "settings": settings.clone()})).unwrap();
    let made = client.create_job(&new).await.unwrap();
    assert!(made.next_run_ms.is_some() && made.running.is_none() && made.missed.is_empty());
    let shown = serde_json::to_value(&made.settings).unwrap();
    for (name, value) in settings.as_object().unwrap() {
        let same = match (value, &shown[name]) {
            (Value::Object(given), Value::Object(shown)) => {
                given.iter().all(|(n, v)| shown.get(n) == Some(v))
            }
            (Value::Array(given), Value::Array(shown)) => given.len() == shown.len(),
            (given, shown) => given == shown,
        };
        assert!(same, "{name}: {value} {}", shown[name]);
    }
    let change =
        json!({"name": "Night", "settings": {"schedule": "", "objective_seconds": 0, "enabled": false}});
    let changed = client.change_job("nightly", &serde_json::from_value(change).unwrap()).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.next_run_ms), ("Night", None));
    assert_eq!(changed.settings.retention, made.settings.retention, "what is not given stays");
    for bad in [
        json!({"schedule": "sometimes"}),
        json!({"rules": ["size=1"]}),
        json!({"webhooks": [{"url": "x"}]}),
        json!({"mails": [{"addresses": ["x"]}]}),
        json!({"vms": ["tag:a b"]}),
    ] {
        let bad = json!({"settings": bad});
        let refused = client.change_job("Night", &serde_json::from_value(bad).unwrap()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Invalid, "{}", refused.message);
    }
    assert!(client.plan_job("Night").await.unwrap().machines.is_empty());
    assert_eq!(client.stop_job("Night").await.unwrap_err().code, ErrorCode::InvalidState);
    assert_eq!(client.run_log("1").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(client.forget_repository("R").await.unwrap_err().code, ErrorCode::InUse);
    assert_eq!(client.remove_mail_server().await.unwrap_err().code, ErrorCode::InUse);
    client.remove_job("Night").await.unwrap();
    client.remove_mail_server().await.unwrap();
    assert_eq!(client.mail_server().await.unwrap_err().code, ErrorCode::NotFound);
    assert!(client.jobs().await.unwrap().is_empty());
    served.stop.cancel();
    served.ended().await;
}

#[tokio::test]
async fn nobody_is_inside_a_machine_that_is_off() {
    let served = Served::start().await;
    served.client.create_vm(&NewVm { name: "L1".into(), ..NewVm::default() }).await.unwrap();
    let inside = served.client.inside(&["L1".parse().unwrap(), "L2".parse().unwrap()]);
    let error = inside.vms().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::GuestAbsent);
    assert_eq!(served.client.console("L1").await.err().map(|e| e.code), Some(ErrorCode::GuestAbsent));
    served.stop.cancel();
    served.ended().await;
}

#[tokio::test]
async fn a_node_ends_when_it_is_asked_to() {
    let served = Served::start().await;
    served.client.stop_node().await.unwrap();
    served.ended().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_words() {
    let (node, _home) = node().await;
    let router = router(&node);
    let owner = Identity::Local { uid: rustix::process::getuid().as_raw() };
    let cases = [
        (Method::POST, "/v1/vms", json!([]), StatusCode::BAD_REQUEST),
        (Method::POST, "/v1/vms", json!({"name": "a/b"}), StatusCode::BAD_REQUEST),
        (Method::POST, "/v1/vms", json!({"name": "x".repeat(2 << 20)}), StatusCode::BAD_REQUEST),
        (Method::POST, "/v1/vms/x/explode", json!({}), StatusCode::BAD_REQUEST),
        (Method::GET, "/v1/vms/%FF", json!({}), StatusCode::BAD_REQUEST),
        (Method::GET, "/v1/disks", json!({}), StatusCode::BAD_REQUEST),
        (Method::GET, "/v2/vms", json!({}), StatusCode::NOT_FOUND),
        (Method::DELETE, "/v1/vms", json!({}), StatusCode::NOT_FOUND),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = ask(&router, owner, method.clone(), path, body).await;
        assert_eq!(status, expected, "{method} {path}");
        let refused: ErrorBody = serde_json::from_slice(&answer).unwrap();
        assert!(!refused.message.is_empty() && refused.message.len() < 1000, "{}", refused.message);
    }
    node.close().await;
}

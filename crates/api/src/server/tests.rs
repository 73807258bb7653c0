//! The endpoints as a whole, on a real node.

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use nestling_node::{Identity, Node, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::endpoints::{self, App};
use crate::v1::{ErrorBody, ErrorCode};

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
            let query = "?path=%2Fx&address=10.0.0.1";
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

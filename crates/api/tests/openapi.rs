//! The committed document describes the API as it is.

#[test]
fn the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let mut current = serde_json::to_string_pretty(&nestling_api::openapi()).unwrap();
    current.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/openapi.json is not what the code says; make it anew with: UPDATE=1 cargo nextest run -p nestling-api openapi"
    );
}

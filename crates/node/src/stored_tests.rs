//! Documents that earlier versions stored are read, with all that they say.
//!
//! The last of `tests/stored/*.json` is what this version stores, every variant of it. They are never changed: a version that
//! stores more adds a file beside them.

use nestling_model::{Nat, Switch, Vm, protection::MailServer};
use nestling_store::{Backend, Change, Document, Home, SqliteBackend, Store};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    engine::EngineRecord,
    journal::Note,
    protection::{description::Description, tracking::Tracking},
    vm::RanBefore,
};

const VERSIONS: &[&str] = &[include_str!("../tests/stored/1.json"), include_str!("../tests/stored/2.json")];
const KINDS: &[&str] = &[
    Vm::KIND,
    Switch::KIND,
    Nat::KIND,
    Home::KIND,
    EngineRecord::KIND,
    Note::KIND,
    RanBefore::KIND,
    MailServer::KIND,
];

#[derive(Deserialize)]
struct Row {
    kind: String,
    id: String,
    body: Value,
}

/// Whether a document that was read says all that was written, under the same names.
fn says_all(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            written.iter().all(|(name, value)| read.get(name).is_some_and(|r| says_all(value, r)))
        }
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(w, r)| says_all(w, r))
        }
        _ => written == read,
    }
}

fn check<D: Document>(store: &Store, rows: &[Row]) {
    let read = store.list::<D>().unwrap();
    let mut written: Vec<&Row> = rows.iter().filter(|row| row.kind == D::KIND).collect();
    written.sort_by(|a, b| a.id.cmp(&b.id));
    assert!(!written.is_empty() && written.len() == read.len(), "{}", D::KIND);
    for (row, document) in written.iter().zip(&read) {
        assert_eq!(document.id(), row.id);
        let now = serde_json::to_value(document).unwrap();
        assert!(says_all(&row.body, &now), "{} {}\nwas {}\nis  {now}", row.kind, row.id, row.body);
    }
}

#[test]
fn documents_of_older_versions_are_read_whole() {
    for (number, version) in VERSIONS.iter().enumerate() {
        let rows: Vec<Row> = serde_json::from_str(version).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SqliteBackend::open(dir.path()).unwrap();
        for row in &rows {
            let kind = KINDS.iter().find(|kind| **kind == row.kind).unwrap();
            let body = Some(row.body.to_string());
            backend.apply(&[Change { kind, id: row.id.clone(), body }]).unwrap();
        }
        drop(backend);
        let store = Store::open(dir.path()).unwrap();
        check::<Vm>(&store, &rows);
        check::<Switch>(&store, &rows);
        check::<Nat>(&store, &rows);
        check::<Home>(&store, &rows);
        check::<EngineRecord>(&store, &rows);
        check::<Note>(&store, &rows);
        check::<RanBefore>(&store, &rows);
        if number >= 1 {
            check::<MailServer>(&store, &rows);
        }
    }
}

/// What is not a document of its own version, or lies in a repository, has a file of its own.
#[test]
fn tracking_and_descriptions_of_older_versions_are_read_whole() {
    let mut first: Value = serde_json::from_str(include_str!("../tests/stored/tracking-1.json")).unwrap();
    // They do not say which disk an image was, and are not believed any more.
    first.as_object_mut().unwrap().remove("seals").unwrap();
    let second: Value = serde_json::from_str(include_str!("../tests/stored/tracking-2.json")).unwrap();
    for written in [first, second] {
        let read: Tracking = serde_json::from_value(written.clone()).unwrap();
        assert!(says_all(&written, &serde_json::to_value(&read).unwrap()), "{read:?}");
    }
    let text = include_str!("../tests/stored/description-1.json");
    let read = Description::read(text.as_bytes()).unwrap();
    let written: Value = serde_json::from_str(text).unwrap();
    assert!(says_all(&written, &serde_json::to_value(&read).unwrap()), "{read:?}");
    assert_eq!(read.disks_then().len(), 1);
}

//! What every backend must do, whatever it keeps documents in.

use nestling_model::{Nat, Vm};

use crate::{Backend, Batch, Change, Document, Home, MemoryBackend, SqliteBackend, Store};

fn each(check: impl Fn(&mut dyn Backend)) {
    check(&mut MemoryBackend::default());
    let dir = tempfile::tempdir().unwrap();
    check(&mut SqliteBackend::open(dir.path()).unwrap());
}

fn put(kind: &'static str, id: &str, body: &str) -> Change {
    Change { kind, id: id.to_owned(), body: Some(body.to_owned()) }
}

fn delete(kind: &'static str, id: &str) -> Change {
    Change { kind, id: id.to_owned(), body: None }
}

fn ids(backend: &dyn Backend, kind: &str) -> Vec<String> {
    backend.list(kind).unwrap().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn kinds_are_apart_and_ids_sorted() {
    each(|backend| {
        backend.apply(&[put("a", "2", "x"), put("b", "1", "y"), put("a", "1", "z")]).unwrap();
        assert_eq!(ids(backend, "a"), ["1", "2"]);
        assert_eq!(backend.list("b").unwrap(), [("1".to_owned(), "y".to_owned())]);
        assert_eq!(ids(backend, "c"), [] as [&str; 0]);
    });
}

#[test]
fn the_last_change_of_a_batch_wins() {
    each(|backend| {
        backend.apply(&[put("a", "1", "x"), delete("a", "1"), put("a", "1", "y")]).unwrap();
        assert_eq!(backend.list("a").unwrap(), [("1".to_owned(), "y".to_owned())]);
        backend.apply(&[put("a", "1", "z"), delete("a", "1")]).unwrap();
        assert_eq!(ids(backend, "a"), [] as [&str; 0]);
    });
}

#[test]
fn deleting_what_is_not_there_is_no_error() {
    each(|backend| backend.apply(&[delete("a", "1")]).unwrap());
}

#[test]
fn text_comes_back_as_it_was() {
    each(|backend| {
        let odd = "'; DROP TABLE document; -- \u{0} \u{1F426} \\ \"";
        backend.apply(&[put("a", odd, odd)]).unwrap();
        assert_eq!(backend.list("a").unwrap(), [(odd.to_owned(), odd.to_owned())]);
    });
}

#[test]
fn documents_are_typed() {
    let mut store = Store::in_memory();
    let home = Home { id: uuid::Uuid::from_u128(7), created_at_ms: 1, features: vec![], mappings_made: 0 };
    store.put(&home).unwrap();
    assert_eq!(store.list::<Home>().unwrap(), std::slice::from_ref(&home));
    assert!(store.list::<Vm>().unwrap().is_empty());
    assert!(store.list::<Nat>().unwrap().is_empty());
    let mut batch = Batch::default();
    batch.delete::<Home>(home.id());
    store.apply(&batch).unwrap();
    assert!(store.list::<Home>().unwrap().is_empty());
}

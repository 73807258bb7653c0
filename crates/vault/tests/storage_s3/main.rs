//! Repositories on S3, against a real server process. Skipped, by name, where it cannot be installed.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]

mod proxy;
mod server;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nestling_vault::storage::{
    FileKind, FileName, RetryPolicy, Retrying, Storage, StorageErrorKind, StorageOptions, TestClock,
    conformance, open,
};

use self::{
    proxy::{Cut, Proxy},
    server::server,
};

const SECRET: &str = "wJalrXUtnFEMIsecretK7MDENG";

fn options() -> StorageOptions {
    let settings = [
        ("aws_access_key_id", "AKIDEXAMPLE"),
        ("aws_secret_access_key", SECRET),
        ("aws_region", "us-east-1"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    StorageOptions {
        settings: BTreeMap::from(settings),
        timeout: Duration::from_secs(30),
        ..Default::default()
    }
}

fn pack(n: u8) -> FileName {
    FileName::new(FileKind::Pack, format!("{n:02x}").repeat(32)).unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[test]
fn s3_conforms() {
    let Some(server) = server("s3_conforms") else { return };
    let (bucket, prefixes) = (server.bucket(""), AtomicU64::new(0));
    conformance::run(&|| {
        let prefix = prefixes.fetch_add(1, Ordering::Relaxed);
        open(&format!("s3:http://{}/{bucket}/deep/{prefix}", server.address), &options()).unwrap()
    });
}

#[test]
fn files_lie_in_s3_where_restic_looks_for_them() {
    let Some(server) = server("files_lie_in_s3_where_restic_looks_for_them") else { return };
    let bucket = server.bucket("");
    let storage = open(&format!("s3:http://{}/{bucket}/p/", server.address), &options()).unwrap();
    storage.put(&FileName::config(), b"config").unwrap();
    storage.put(&pack(0xab), b"pack").unwrap();
    let (status, answer) = server.request("GET", &format!("/{bucket}/p/config"), "", "");
    assert!(status == 200 && answer.ends_with("config"), "{answer}");
    let path = format!("/{bucket}/p/data/ab/{}", "ab".repeat(32));
    assert_eq!(server.request("GET", &path, "", "").0, 200);
    // What is foreign is left out.
    for name in ["data/ab/README", "data/README", &format!("data/cd/{}", "ab".repeat(32)), "keys/x"] {
        assert_eq!(server.request("PUT", &format!("/{bucket}/p/{name}"), "", "x").0, 200);
    }
    assert_eq!(storage.list(FileKind::Pack).unwrap().len(), 1);
    assert!(storage.list(FileKind::Key).unwrap().is_empty());
}

/// A server gives 1000 names at a time.
#[test]
fn listings_of_s3_have_every_page() {
    let Some(server) = server("listings_of_s3_have_every_page") else { return };
    let bucket = server.bucket("");
    let storage = open(&format!("s3:http://{}/{bucket}", server.address), &options()).unwrap();
    for n in 0..1001 {
        server.request("PUT", &format!("/{bucket}/index/{n:064x}"), "", "x");
    }
    let mut names: Vec<_> =
        storage.list(FileKind::Index).unwrap().into_iter().map(|file| file.name).collect();
    names.sort();
    assert_eq!(names, (0..1001).map(|n| format!("{n:064x}")).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_cut_in_the_middle_loses_nothing() {
    let Some(server) = server("a_line_that_is_cut_in_the_middle_loses_nothing") else { return };
    let (bucket, proxy) = (server.bucket(""), Proxy::to(server.address));
    let location = format!("s3:http://{}/{bucket}", proxy.address);
    let plain = open(&location, &options()).unwrap();
    let retrying =
        Retrying::with_clock(Arc::clone(&plain), RetryPolicy::default(), Arc::new(TestClock::default()));
    let content = bytes(1 << 20);

    // Without retries the caller is told, and nothing is there in part.
    proxy.cut_next(Cut::Up(300_000));
    let error = plain.put(&pack(1), &content).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
    assert!(plain.list(FileKind::Pack).unwrap().is_empty());

    for (cut, n) in [(Cut::Up(300_000), 2), (Cut::Up(0), 3), (Cut::Down(0), 4)] {
        proxy.cut_next(cut);
        retrying.put(&pack(n), &content).unwrap();
        assert_eq!(plain.get(&pack(n), 1 << 20).unwrap(), content);
    }
    for after in [0, 100, 500_000] {
        proxy.cut_next(Cut::Down(after));
        assert_eq!(retrying.get(&pack(2), 1 << 20).unwrap(), content);
        proxy.cut_next(Cut::Down(after));
        let mut part = vec![0; 600_000];
        retrying.get_range(&pack(2), 1000, &mut part).unwrap();
        assert_eq!(part, content[1000..601_000]);
    }
    proxy.cut_next(Cut::Down(0));
    assert_eq!(retrying.list(FileKind::Pack).unwrap().len(), 3);

    // The answer is lost, not the config: it is known again as ours, and a stranger's is not.
    proxy.cut_next(Cut::Down(0));
    retrying.put(&FileName::config(), b"ours").unwrap();
    proxy.cut_next(Cut::Down(0));
    let error = retrying.put(&FileName::config(), b"other").unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists, "{error}");
    assert_eq!(proxy.cuts(), 13);
}

#[test]
fn what_object_lock_protects_is_not_destroyed() {
    let Some(server) = server("what_object_lock_protects_is_not_destroyed") else { return };
    let bucket = server.bucket("x-amz-bucket-object-lock-enabled: true\r\n");
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                <Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let (status, answer) = server.request("PUT", &format!("/{bucket}?object-lock"), "", rule);
    assert_eq!(status, 200, "{answer}");
    let storage = open(&format!("s3:http://{}/{bucket}", server.address), &options()).unwrap();
    storage.put(&pack(1), b"pack").unwrap();
    assert_eq!(storage.get(&pack(1), 4).unwrap(), b"pack");

    // Removing hides the file behind a marker; its bytes cannot be destroyed, and come back with the marker gone.
    storage.remove(&pack(1)).unwrap();
    assert_eq!(storage.get(&pack(1), 4).unwrap_err().kind, StorageErrorKind::NotFound);
    let (_, versions) = server.request("GET", &format!("/{bucket}?versions"), "", "");
    let version = |element: &str| {
        let (_, rest) = versions.split_once(&format!("<{element}>")).expect("such a version");
        let (_, rest) = rest.split_once("<VersionId>").expect("its number");
        rest.split('<').next().unwrap_or_default().to_owned()
    };
    let path = format!("/{bucket}/data/01/{}", pack(1).name);
    let (status, answer) =
        server.request("DELETE", &format!("{path}?versionId={}", version("Version")), "", "");
    assert_eq!(status, 403, "{answer}");
    server.request("DELETE", &format!("{path}?versionId={}", version("DeleteMarker")), "", "");
    assert_eq!(storage.get(&pack(1), 4).unwrap(), b"pack");
}

#[test]
fn failures_of_s3_are_told_without_secrets() {
    let Some(server) = server("failures_of_s3_are_told_without_secrets") else { return };
    let missing = open(&format!("s3:http://{}/no-such-bucket", server.address), &options()).unwrap();
    let error = missing.put(&pack(1), b"x").unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::InvalidLocation, "{error}");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    assert!(missing.list(FileKind::Pack).is_err());

    // Nobody listens on a port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = open(&format!("s3:http://127.0.0.1:{port}/bucket"), &options()).unwrap();
    for error in [
        gone.put(&pack(1), b"x").unwrap_err(),
        gone.get(&pack(1), 1).unwrap_err(),
        gone.list(FileKind::Pack).unwrap_err(),
        gone.list(FileKind::Config).unwrap_err(),
        gone.remove(&pack(1)).unwrap_err(),
    ] {
        assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("Connection refused"), "{error}");
        assert!(!format!("{error} {error:?}").contains(SECRET));
    }
}

/// A server that takes a connection and says nothing.
#[test]
fn a_silent_server_is_not_waited_for_without_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("s3:http://{}/bucket", silent.local_addr().unwrap());
    let impatient = StorageOptions { timeout: Duration::from_millis(200), ..options() };
    let error = open(&location, &impatient).unwrap().get(&pack(1), 1).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Timeout, "{error}");
}

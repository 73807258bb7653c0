//! The hidden command that reads file systems: the real program, confined, reads a volume.

use std::{fs::File, os::unix::net::UnixStream, process::Command, sync::Arc, time::Duration};

use nestling_block::{
    RawDisk,
    nbd::{Export, NbdAddress, NbdServer, ServerLimits},
};
use nestling_explore::{
    Cursor, Kind,
    client::{Disk, Worker, WorkerProgram},
};

#[test]
fn the_program_reads_a_volume_for_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    File::create(&path).and_then(|file| file.set_len(4 << 20)).expect("an image");
    std::fs::write(dir.path().join("file"), "bytes").expect("a file");
    for command in [&["mkfs.vfat", "image"][..], &["mcopy", "-i", "image", "file", "::"]] {
        let done =
            Command::new(command[0]).args(&command[1..]).current_dir(dir.path()).output().expect("installed");
        assert!(done.status.success(), "{command:?}");
    }
    let address = NbdAddress::Unix(dir.path().join("socket"));
    let export = Export::read_only("volume", Arc::new(RawDisk::open(&path).expect("an image")));
    let _server = NbdServer::start(&address, vec![export], ServerLimits::default()).expect("listening");
    let socket = UnixStream::connect(dir.path().join("socket")).expect("connected");
    let program = WorkerProgram {
        program: env!("CARGO_BIN_EXE_nestling").into(),
        arguments: vec!["explore-worker".into()],
    };
    let disk = Disk { socket, export: "volume".into(), name: "the disk".into() };
    let worker = Arc::new(Worker::start(&program, disk, Duration::from_secs(120)).expect("started"));
    let fs = worker.open().expect("opened");
    assert_eq!(fs.summary().kind, Kind::Fat12);
    let page = fs.list(fs.root(), Cursor::default(), 10).expect("a page");
    let names: Vec<String> = page.entries.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["file"]);
    let mut bytes = [0; 10];
    assert_eq!(fs.read(page.entries[0].node, b"", 0, &mut bytes).expect("readable"), 5);
    assert_eq!(&bytes[..5], b"bytes");
}

#[test]
fn without_its_sockets_it_does_nothing() {
    let done = Command::new(env!("CARGO_BIN_EXE_nestling")).arg("explore-worker").output().expect("it runs");
    assert!(!done.status.success() && done.stdout.is_empty());
    assert!(String::from_utf8_lossy(&done.stderr).contains("not the sockets"));
}

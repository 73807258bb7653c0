//! What a stock restic writes, this crate reads, and writes again byte for byte.

use std::{
    collections::HashMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BlobId, PackId,
    crypto::MasterKey,
    format::{
        compress::Decompressor,
        config::Config,
        index::{self, IndexFile},
        key::{KeyError, KeyFile},
        lock, object,
        pack::{self, BlobKind, PackBlob},
        snapshot,
        tree::{self, NodeKind},
    },
};

const PASSWORD: &str = "correct horse";
const LIMIT: usize = 64 << 20;

struct Repository {
    directory: tempfile::TempDir,
    key: MasterKey,
}

/// A repository that restic made of a directory of awkward files; `None`, saying so, where there is no restic.
fn repository() -> Option<Repository> {
    if Command::new("restic").arg("version").output().is_err() {
        eprintln!("skipped: no restic");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    make_files(&directory.path().join("files"));
    restic(directory.path(), &["init"]);
    restic(directory.path(), &["backup", "--tag", "first,second", "--host", "node-1", "files"]);
    restic(directory.path(), &["tag", "--add", "third"]);
    let [file] = &files(directory.path(), "keys")[..] else { panic!("one key file") };
    let key = KeyFile::decode(file).unwrap();
    assert!(matches!(key.open(b"wrong"), Err(KeyError::WrongPassword)));
    Some(Repository { key: key.open(PASSWORD.as_bytes()).unwrap(), directory })
}

fn make_files(files: &Path) {
    fs::create_dir_all(files.join("empty directory")).unwrap();
    let noise: Vec<u8> =
        (0..9_000_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(files.join("large"), &noise).unwrap();
    fs::write(files.join("nothing"), "").unwrap();
    fs::write(files.join("zeros"), vec![0; 3_000_000]).unwrap();
    std::os::unix::fs::symlink("a <b> & c", files.join("link")).unwrap();
    fs::hard_link(files.join("nothing"), files.join("again")).unwrap();
    for name in [
        "q\"uote",
        "back\\slash",
        "tab\tnew\nline\x07\x1b\x7f",
        "<é&ü> \u{2028}",
        "\u{ad}\u{301}\u{e000}\u{1f600}\u{f0000}",
    ] {
        fs::write(files.join(name), name).unwrap();
    }
}

fn restic(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("restic")
        .args(["--repo", "repository", "--no-cache"])
        .args(arguments)
        .current_dir(directory)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn paths(directory: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.join("repository").join(kind)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found
}

fn files(directory: &Path, kind: &str) -> Vec<Vec<u8>> {
    paths(directory, kind).iter().map(|path| fs::read(path).unwrap()).collect()
}

impl Repository {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn objects(&self, kind: &str) -> Vec<Vec<u8>> {
        let open = |sealed| object::open_object(&self.key, sealed, LIMIT).unwrap();
        files(self.path(), kind).into_iter().map(open).collect()
    }

    fn index(&self) -> IndexFile {
        let mut all = IndexFile::default();
        for json in self.objects("index") {
            let index = index::decode(&json).unwrap();
            assert_eq!(
                String::from_utf8(index::encode(&index)),
                String::from_utf8(json),
                "an index is written again"
            );
            all.packs.extend(index.packs);
        }
        all
    }

    fn packs(&self) -> HashMap<PackId, Vec<u8>> {
        files(self.path(), "data").into_iter().map(|pack| (PackId::of(&pack), pack)).collect()
    }

    fn blob(&self, pack: &[u8], blob: &PackBlob) -> Vec<u8> {
        let mut sealed = pack[blob.offset as usize..][..blob.length as usize].to_vec();
        let plain = self.key.open_in_place(&mut sealed).unwrap();
        let content = match blob.uncompressed_length {
            Some(length) => Decompressor::default().decompress(plain, length as usize).unwrap(),
            None => plain.to_vec(),
        };
        assert_eq!(BlobId::of(&content), blob.id);
        assert_eq!(content.len(), blob.plain_length() as usize);
        content
    }

    fn blobs(&self, kind: BlobKind) -> HashMap<BlobId, Vec<u8>> {
        let packs = self.packs();
        let index = self.index();
        let all = index.packs.iter().flat_map(|pack| pack.blobs.iter().map(|blob| (&packs[&pack.id], blob)));
        all.filter(|(_, blob)| blob.kind == kind)
            .map(|(pack, blob)| (blob.id, self.blob(pack, blob)))
            .collect()
    }
}

#[test]
fn the_config_and_the_snapshot_of_restic_are_read() {
    let Some(repository) = repository() else { return };
    let sealed = fs::read(repository.path().join("repository/config")).unwrap();
    let config = Config::open(&repository.key, sealed).unwrap();
    assert_eq!(config.version, 2);
    let shown: serde_json::Value =
        serde_json::from_str(&restic(repository.path(), &["cat", "config"])).unwrap();
    assert_eq!(shown, serde_json::from_slice::<serde_json::Value>(&config.encode().unwrap()).unwrap());

    let [json] = &repository.objects("snapshots")[..] else { panic!("one snapshot") };
    let snapshot = snapshot::decode(json).unwrap();
    assert_eq!(snapshot.tags, ["first", "second", "third"]);
    assert_eq!(snapshot.hostname, "node-1");
    assert!(snapshot.original.is_some() && snapshot.paths[0].ends_with("/files"));
    assert_eq!(
        String::from_utf8(snapshot::encode(&snapshot).unwrap()).unwrap(),
        String::from_utf8_lossy(json).trim()
    );
}

#[test]
fn the_packs_of_restic_say_what_the_index_says() {
    let Some(repository) = repository() else { return };
    let (index, packs) = (repository.index(), repository.packs());
    assert_eq!(index.packs.len(), packs.len());
    assert!(packs.len() >= 2, "data and trees");
    for entry in &index.packs {
        let pack = &packs[&entry.id];
        let place = pack::header_position(*pack.last_chunk().unwrap(), pack.len() as u64).unwrap();
        let mut sealed = pack[place.start as usize..place.end as usize].to_vec();
        let plain = repository.key.open_in_place(&mut sealed).unwrap();
        let blobs = pack::parse_header(plain, place.start).unwrap();
        assert_eq!(pack::header(&blobs), plain);
        let mut listed = entry.blobs.clone();
        listed.sort_by_key(|blob| blob.offset);
        assert_eq!(blobs, listed);
        for blob in &blobs {
            repository.blob(pack, blob);
        }
    }
}

#[test]
fn the_trees_of_restic_are_read_and_written_again_byte_for_byte() {
    let Some(repository) = repository() else { return };
    let (trees, data) = (repository.blobs(BlobKind::Tree), repository.blobs(BlobKind::Data));
    let mut names = Vec::new();
    for (id, json) in &trees {
        let tree = tree::decode(json).unwrap();
        assert_eq!(String::from_utf8(tree::encode(&tree)).unwrap(), String::from_utf8_lossy(json));
        assert_eq!(BlobId::of(&tree::encode(&tree)), *id);
        let mut walked = Vec::new();
        tree::for_each_blob(json, |kind, id| walked.push((kind, id))).unwrap();
        let mut listed = Vec::new();
        for node in &tree.nodes {
            match &node.kind {
                NodeKind::Dir { subtree } => listed.push((BlobKind::Tree, *subtree)),
                NodeKind::File { size, content } => {
                    assert_eq!(
                        *size,
                        content.iter().map(|id| data[id].len() as u64).sum::<u64>(),
                        "{}",
                        node.name
                    );
                    listed.extend(content.iter().map(|id| (BlobKind::Data, *id)));
                }
                NodeKind::Other(kind) => assert_eq!(kind, "symlink"),
            }
        }
        assert_eq!(walked, listed);
        names.extend(tree.nodes.into_iter().map(|node| node.name));
    }
    let mut expected: Vec<String> = fs::read_dir(repository.path().join("files"))
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().file_name().as_bytes().to_vec()).unwrap())
        .collect();
    expected.push("files".into());
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn restic_takes_a_key_file_a_lock_and_a_config_of_ours() {
    let Some(repository) = repository() else { return };
    let directory = repository.path().join("repository");
    let now = crate::format::Timestamp::from(std::time::SystemTime::now());
    let cost = crate::format::key::KdfCost::Standard;
    let file =
        KeyFile::create(b"ours", &repository.key, "node-1", "root", &now, cost).unwrap().encode().unwrap();
    fs::write(directory.join("keys").join(crate::KeyId::of(&file).to_string()), &file).unwrap();
    for path in paths(repository.path(), "keys").iter().filter(|path| fs::read(path).unwrap() != file) {
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(directory.join("config")).unwrap();
    fs::write(directory.join("config"), Config::generate().unwrap().seal(&repository.key).unwrap()).unwrap();
    let lock = lock::Lock {
        time: now,
        exclusive: false,
        hostname: "elsewhere".into(),
        username: "root".into(),
        pid: 42,
        uid: 0,
        gid: 0,
        session: Some("a session".into()),
        boot: None,
        started: None,
        keeps: Vec::new(),
        other: serde_json::Map::new(),
    };
    let sealed = object::seal_object(&repository.key, &lock::encode(&lock).unwrap()).unwrap();
    let name = crate::LockId::of(&sealed).to_string();
    fs::write(directory.join("locks").join(&name), sealed).unwrap();

    let check = |arguments: &[&str]| {
        Command::new("restic")
            .args(["--repo", "repository", "--no-cache"])
            .args(arguments)
            .current_dir(repository.path())
            .env("RESTIC_PASSWORD", "ours")
            .output()
            .unwrap()
    };
    let output = check(&["check", "--read-data"]);
    assert!(!output.status.success(), "check wants the repository for itself");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("locked") && said.contains("PID 42 on elsewhere"), "{said}");
    assert!(check(&["unlock", "--remove-all"]).status.success());
    let output = check(&["check", "--read-data"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

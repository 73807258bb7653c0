//! A directory of this host is the guest, and its programs are those of the guest: GNU's, and busybox's where it is there.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nestling_api::{
    FileContent,
    v1::{RecoveryFile, RecoveryFileAttribute, RecoveryFileKind},
};

use super::{
    guest::{
        Clashes, Inside, Moved, Probed, Said, Tar, Turn, begin, check, finish, place, probe, send, stop,
    },
    outgoing::{Meter, Outgoing, new_folder},
    target::Folder,
};
use crate::{
    commands::take::{
        Sink,
        tests::{about, link},
    },
    failure::{Failure, Result},
    printer::Printer,
};

struct Local {
    /// Where its programs are; none: those of this host.
    programs: Option<PathBuf>,
    /// Where those are that come before all others.
    ahead: Option<PathBuf>,
}

impl Inside for Local {
    async fn run(&self, script: &str, arguments: Vec<String>, input: String, _turn: Turn) -> Result<Said> {
        let sh = self.programs.as_ref().map_or_else(|| "sh".into(), |programs| programs.join("sh"));
        let mut command = Command::new(sh);
        command.args(["-c", script, "nestling-put"]).args(arguments);
        if let Some(programs) = &self.programs {
            command.env("PATH", programs);
        }
        if let Some(ahead) = &self.ahead {
            let others = std::env::var("PATH").expect("a path");
            command.env("PATH", format!("{}:{others}", ahead.display()));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        // It may have ended without reading.
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes());
        let said = child.wait_with_output().expect("it ended");
        Ok(Said {
            status: said.status.code().unwrap_or(128).into(),
            stdout: String::from_utf8_lossy(&said.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&said.stderr).into_owned(),
        })
    }

    async fn write(&self, path: &str, content: Vec<u8>) -> Result {
        fs::write(path, content).map_err(|error| Failure::file("write", Path::new(path), &error))
    }
}

struct World {
    dir: tempfile::TempDir,
    guest: Local,
    base: Folder,
    probed: Probed,
    works: Vec<String>,
}

/// A guest for each userland that there is, with a folder `base`.
async fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for is_busybox in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let programs = dir.path().join("programs");
        fs::create_dir(&programs).expect("a directory");
        if is_busybox {
            let mut install = Command::new("busybox");
            let installed = install.args(["--install", "-s"]).arg(&programs).stderr(Stdio::null()).status();
            if !installed.is_ok_and(|status| status.success()) {
                continue;
            }
        }
        let guest = Local { programs: is_busybox.then_some(programs), ahead: None };
        let base = Folder::parse(dir.path().join("base").to_str().expect("text")).expect("a folder");
        fs::create_dir(base.path()).expect("a directory");
        let probed = probe(&guest, &base, "conf").await.expect("probed");
        let base = probed.base.clone().expect("it is there");
        let works = vec![base.child(".nestling-put-0123")];
        worlds.push(World { dir, guest, base, probed, works });
    }
    worlds
}

impl World {
    fn meter() -> Meter {
        Meter::new(Printer::new(true))
    }

    async fn begin(&self) {
        begin(&self.guest, &self.base, &self.works[0], &self.probed).await.expect("begun");
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.base.path()).join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect(name)
    }

    /// Of what was begun nothing is left, no process either.
    fn is_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.base.path())
            .expect("a list")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(".nestling"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let end = Instant::now() + Duration::from_secs(10);
        while runs(&self.works[0]) {
            assert!(Instant::now() < end, "something still runs for {}", self.works[0]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn runs(what: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line);
        line.contains(what) && line.contains("idle")
    })
}

fn bytes(content: &[u8]) -> FileContent {
    FileContent::Bytes(content.to_vec().into())
}

async fn file<G: Inside>(outgoing: &mut Outgoing<'_, G>, file: &RecoveryFile, content: &[u8]) {
    let file = RecoveryFile { size_bytes: content.len() as u64, ..file.clone() };
    outgoing.begin(&file, true).await.expect("begun");
    for piece in content.chunks(4 << 20) {
        outgoing.write(&bytes(piece)).await.expect("written");
    }
    outgoing.end(&file).await.expect("ended");
}

fn named(name: &str) -> RecoveryFile {
    about(name, RecoveryFileKind::File, 0)
}

/// Does not repeat itself, so that it is no smaller when it is packed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// `conf` with files, a link, a folder that is new and one that is there.
async fn fill(outgoing: &mut Outgoing<'_, Local>, large: &[u8]) {
    let conf = RecoveryFile { mode: Some(0o750), ..about("conf", RecoveryFileKind::Directory, 0) };
    outgoing.enter(&conf).await.expect("entered");
    let user = RecoveryFileAttribute { name: "user.note".into(), value: "686900ff".into() };
    // Read and written by user 1234, too: as `getxattr` gives it.
    let acl = "0200000001000600ffffffff02000600d204000004000400ffffffff10000600ffffffff20000000ffffffff";
    let acl = RecoveryFileAttribute { name: "system.posix_acl_access".into(), value: acl.into() };
    file(outgoing, &RecoveryFile { attributes: vec![user, acl], ..named("a") }, b"as it was\n").await;
    let owned = RecoveryFile { uid: Some(1234), gid: Some(4321), mode: Some(0o4755), ..named("large") };
    file(outgoing, &owned, large).await;
    file(outgoing, &named("-rf *\\x0a \\xff"), b"odd").await;
    file(outgoing, &named(".hidden"), b"").await;
    file(outgoing, &named("..more"), b"").await;
    outgoing.special(&link("link", "../elsewhere")).await.expect("a link");
    let broken = about("broken", RecoveryFileKind::File, 100_000);
    outgoing.begin(&broken, false).await.expect("begun");
    outgoing.write(&bytes(b"half")).await.expect("written");
    outgoing.give_up().await.expect("given up");
    let hole = about("hole", RecoveryFileKind::File, 5 << 20);
    outgoing.begin(&hole, false).await.expect("begun");
    outgoing.write(&FileContent::Zeroes(5 << 20)).await.expect("written");
    outgoing.end(&hole).await.expect("ended");
    let new = about("new", RecoveryFileKind::Directory, 0);
    outgoing.enter(&new).await.expect("entered");
    file(outgoing, &named("in"), b"deep\n").await;
    outgoing.leave(&new).await.expect("left");
    outgoing.leave(&conf).await.expect("left");
}

#[tokio::test]
async fn files_come_in_pieces_and_get_their_names_at_last() {
    let large = noise(11 << 20);
    for world in worlds().await {
        let World { guest, base, probed, works, .. } = &world;
        assert_eq!(probed.tar, Some(if guest.programs.is_some() { Tar::Plain } else { Tar::Gnu }));
        assert!(probed.is_writable && !probed.is_there && probed.missing == 0, "{probed:?}");
        world.begin().await;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, probed, &[]).await.expect("begun");
        fill(&mut outgoing, &large).await;
        assert!(!world.path("conf").exists());
        let said = outgoing.close(&[]).await.expect("finished");
        assert_eq!(said, "");
        assert!(matches!(place(guest, &works[0], base, false).await, Ok(Moved::Done)));
        world.is_clean();
        assert_eq!(world.read("conf/a"), b"as it was\n");
        assert!(world.read("conf/large") == large, "all pieces came, in their order");
        let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"-rf *\n \xff");
        assert_eq!(fs::read(world.path("conf").join(odd)).expect("read"), b"odd");
        assert!(world.path("conf/.hidden").exists() && world.path("conf/..more").exists());
        assert!(!world.path("conf/broken").exists(), "what is not whole does not come");
        assert_eq!(world.read("conf/hole"), vec![0; 5 << 20]);
        assert_eq!(fs::read_link(world.path("conf/link")).expect("a link"), Path::new("../elsewhere"));
        let of = |name: &str| fs::metadata(world.path(name)).expect(name);
        for name in ["conf", "conf/a", "conf/new", "conf/new/in"] {
            assert_eq!(of(name).mtime(), 1_000_000_000, "{name}");
        }
        assert_eq!(of("conf").mode() & 0o7777, 0o750);
        if rustix::process::geteuid().is_root() {
            let large = of("conf/large");
            assert_eq!((large.uid(), large.gid(), large.mode() & 0o7777), (1234, 4321, 0o4755));
        }
        let mut value = [0; 64];
        let mut attribute = |name: &str| {
            rustix::fs::getxattr(world.path("conf/a"), name, &mut value)
                .map(|length| value[..length].to_vec())
        };
        // Where the file system of this host has attributes at all.
        if guest.programs.is_none()
            && rustix::fs::setxattr(world.path("conf/a"), "user.b", b"", rustix::fs::XattrFlags::empty())
                .is_ok()
        {
            assert_eq!(attribute("user.note"), Ok(b"hi\0\xff".to_vec()));
            assert_eq!(attribute("system.posix_acl_access").map(|acl| acl.len()), Ok(44));
        }
    }
}

#[tokio::test]
async fn what_is_there_stays_unless_it_is_said() {
    for world in worlds().await {
        let World { guest, base, probed, works, dir, .. } = &world;
        fs::create_dir(world.path("conf")).expect("made");
        for name in ["a", "own"] {
            fs::write(world.path("conf").join(name), "mine").expect("written");
        }
        // A link to a folder is replaced, and nothing comes to where it leads.
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("made");
        std::os::unix::fs::symlink(&elsewhere, world.path("conf/large")).expect("linked");
        fs::set_permissions(world.path("conf"), PermissionsExt::from_mode(0o777)).expect("a mode");
        let lines = "dconf\nfconf/a\nfconf/large\nfconf/other\n";
        let found = check(guest, base, false, lines.to_owned()).await.expect("looked");
        assert_eq!((found.count, &found.some[..]), (2, &["econf/a".into(), "econf/large".into()][..]));
        assert_eq!(check(guest, base, true, lines.to_owned()).await.expect("looked"), Clashes::default());
        let kinds = check(guest, base, true, "fconf\ndconf/a\n".to_owned()).await.expect("looked");
        assert_eq!(kinds.some, ["fconf", "dconf/a"]);

        world.begin().await;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, probed, &[]).await.expect("begun");
        fill(&mut outgoing, b"not large").await;
        outgoing.close(&[]).await.expect("finished");
        // It came while the files did.
        let Ok(Moved::Clashes(found)) = place(guest, &works[0], base, false).await else {
            panic!("something is in the way")
        };
        assert_eq!((found.count, &found.some[..]), (2, &["econf/a".into(), "econf/large".into()][..]));
        assert_eq!(world.read("conf/a"), b"mine");
        assert!(!world.path("conf/new").exists(), "none of it, or all of it");
        assert!(matches!(place(guest, &works[0], base, true).await, Ok(Moved::Done)));
        world.is_clean();
        assert_eq!(
            (world.read("conf/a"), world.read("conf/own")),
            (b"as it was\n".to_vec(), b"mine".to_vec())
        );
        assert_eq!(world.read("conf/large"), b"not large");
        assert_eq!(fs::read_dir(&elsewhere).expect("a list").count(), 0);
        let conf = fs::metadata(world.path("conf")).expect("there");
        assert_eq!((conf.mode() & 0o7777, conf.mtime()), (0o750, 1_000_000_000));
    }
}

#[tokio::test]
async fn folders_on_the_way_are_made() {
    for world in worlds().await {
        let World { guest, base, probed, works, .. } = &world;
        let deep = Folder::parse(&base.child("srv/app")).expect("a folder");
        let missing = probe(guest, &deep, "conf").await.expect("probed");
        assert_eq!((missing.missing, missing.is_blocked, missing.is_writable), (2, false, true));
        fs::write(world.path("file"), "").expect("written");
        for blocked in ["file", "file/below"] {
            let blocked = Folder::parse(&base.child(blocked)).expect("a folder");
            assert!(probe(guest, &blocked, "a").await.expect("probed").is_blocked, "{blocked:?}");
        }
        assert!(probe(guest, base, "file").await.expect("probed").is_there);
        let folders = [about("srv", RecoveryFileKind::Directory, 0), new_folder("app")];
        world.begin().await;
        let mut meter = World::meter();
        let begun = Outgoing::open(guest, &mut meter, works, probed, &folders).await;
        let mut outgoing = begun.expect("begun");
        file(&mut outgoing, &named("a"), b"text").await;
        outgoing.close(&folders).await.expect("finished");
        assert!(matches!(place(guest, &works[0], base, false).await, Ok(Moved::Done)));
        world.is_clean();
        assert_eq!(world.read("srv/app/a"), b"text");
        let srv = fs::metadata(world.path("srv")).expect("there");
        assert_eq!((srv.mode() & 0o7777, srv.mtime()), (0o640, 1_000_000_000));
    }
}

#[tokio::test]
async fn what_is_cancelled_or_fails_leaves_nothing() {
    for world in worlds().await {
        let World { guest, base, probed, works, .. } = &world;
        // In the middle of a file.
        world.begin().await;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, probed, &[]).await.expect("begun");
        let large = about("large", RecoveryFileKind::File, 90 << 20);
        outgoing.begin(&large, false).await.expect("begun");
        for _ in 0..3 {
            outgoing.write(&bytes(&noise(4 << 20))).await.expect("written");
        }
        drop(outgoing);
        assert!(world.path(".nestling-put-0123").exists() && runs(&works[0]));
        stop(guest, works.clone()).await.expect("stopped");
        world.is_clean();
        // What arrives is no archive, and it is told in the guest's words.
        world.begin().await;
        let mut sent = Ok(());
        for number in 0..3 {
            sent = sent.and(send(guest, number, &works[0], works, noise(100_000)).await);
        }
        let ended = match sent {
            Ok(()) => finish(guest, &works[0], 2, "", Vec::new()).await.map(drop),
            failed => failed,
        };
        let Err(Failure::Error(error)) = ended else { panic!("it is no archive") };
        assert!(error.message.starts_with("can't unpack in the guest: "), "{}", error.message);
        stop(guest, works.clone()).await.expect("stopped");
        world.is_clean();
        // An end that came too early is no end.
        let plain = Probed { has_gzip: false, ..probed.clone() };
        world.begin().await;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, &plain, &[]).await.expect("begun");
        file(&mut outgoing, &named("a"), b"text").await;
        drop(outgoing);
        send(guest, 0, &works[0], works, Vec::new()).await.expect("sent");
        assert!(finish(guest, &works[0], 0, "", Vec::new()).await.is_err());
        stop(guest, works.clone()).await.expect("stopped");
        // What a guest left that went down: its number is nobody's.
        let old = world.path(".nestling-put-old");
        fs::create_dir(&old).expect("made");
        fs::write(old.join("pid"), "4194399\n").expect("written");
        begin(guest, base, &works[0], probed).await.expect("begun");
        assert!(!old.exists());
        stop(guest, works.clone()).await.expect("stopped");
        world.is_clean();
    }
}

#[tokio::test]
async fn what_others_own_leads_nowhere_else() {
    // Busybox's shell has a `mv` of its own.
    for mut world in worlds().await.into_iter().filter(|world| world.guest.programs.is_none()) {
        // Where somebody else may change names, nothing is unpacked.
        assert_eq!(world.probed.safe.as_ref(), Some(&world.base));
        fs::set_permissions(world.base.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
        let open = probe(&world.guest, &world.base, "conf").await.expect("probed");
        let above = Folder(world.base.0[..world.base.0.len() - 1].to_vec());
        assert_eq!(open.safe, Some(above));
        // A link of somebody else on the way is not followed; one's own is.
        let link = world.dir.path().join("link");
        std::os::unix::fs::symlink(world.base.path(), &link).expect("linked");
        let through = Folder::parse(link.join("new").to_str().expect("text")).expect("a folder");
        let found = probe(&world.guest, &through, "conf").await.expect("probed");
        assert_eq!((found.led, found.base.as_ref(), found.missing), (None, Some(&world.base), 1));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(&link, Some(1234), None).expect("owned");
            let found = probe(&world.guest, &through, "conf").await.expect("probed");
            assert_eq!(found.led.as_deref(), link.to_str());
        }
        // Whoever owns the folder waits until the first file comes, and then makes its name lead elsewhere.
        let (conf, ahead) = (world.path("conf"), world.dir.path().join("ahead"));
        let elsewhere = world.dir.path().join("elsewhere");
        for folder in [&conf, &ahead, &elsewhere] {
            fs::create_dir(folder).expect("made");
        }
        let swap = "#!/bin/sh\nPATH=${PATH#*:}\n\
                    case $* in *conf/a*)\n\
                    (cd \"${0%/*}/..\" && mv base/conf base/aside && ln -s ../elsewhere base/conf) ;; esac\n\
                    exec mv \"$@\"\n";
        fs::write(ahead.join("mv"), swap).expect("written");
        fs::set_permissions(ahead.join("mv"), PermissionsExt::from_mode(0o755)).expect("a mode");
        world.guest.ahead = Some(ahead);
        world.begin().await;
        let World { guest, base, probed, works, .. } = &world;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, probed, &[]).await.expect("begun");
        outgoing.enter(&new_folder("conf")).await.expect("entered");
        file(&mut outgoing, &named("a"), b"1").await;
        file(&mut outgoing, &named("b"), b"2").await;
        outgoing.leave(&new_folder("conf")).await.expect("left");
        outgoing.close(&[]).await.expect("finished");
        assert!(matches!(place(guest, &works[0], base, false).await, Ok(Moved::Done)));
        world.is_clean();
        assert!(fs::symlink_metadata(&conf).expect("it leads elsewhere").is_symlink());
        assert_eq!(fs::read_dir(&elsewhere).expect("a list").count(), 0);
        assert_eq!((world.read("aside/a"), world.read("aside/b")), (b"1".to_vec(), b"2".to_vec()));
        // Nor is anything moved when the folder itself is another one by then.
        world.begin().await;
        let mut meter = World::meter();
        let mut outgoing = Outgoing::open(guest, &mut meter, works, probed, &[]).await.expect("begun");
        file(&mut outgoing, &named("c"), b"3").await;
        outgoing.close(&[]).await.expect("finished");
        let moved = world.dir.path().join("moved");
        fs::rename(base.path(), &moved).expect("moved");
        std::os::unix::fs::symlink(&moved, base.path()).expect("linked");
        assert!(place(guest, &works[0], base, false).await.is_err());
        assert!(!moved.join("c").exists());
        stop(guest, works.clone()).await.expect("stopped");
    }
}

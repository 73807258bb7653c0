//! Bitmaps in images that no machine runs on, and the server that shows what they say.

use std::{env, fs, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};
use uuid::Uuid;

use super::{
    tests::{new, workshop},
    *,
};

const SOON: Duration = Duration::from_secs(60);
/// Where a process that is to die finds its image.
const IMAGE_VARIABLE: &str = "NESTLING_TEST_SERVED_IMAGE";

fn name(n: u128) -> BitmapName {
    BitmapName(Uuid::from_u128(n))
}

/// An image with two bitmaps, of which only the first records a write to 2 MiB.
async fn image(qemu: &Qemu, dir: &Path) -> PathBuf {
    let path = dir.join("a.qcow2");
    create(qemu, &path, &new(DiskFormat::Qcow2, DiskKind::Dynamic)).await.unwrap();
    add_bitmap(qemu, &path, name(1)).await.unwrap();
    write(qemu, &path, "write -P 1 2M 64k").await;
    add_bitmap(qemu, &path, name(2)).await.unwrap();
    path
}

async fn write(qemu: &Qemu, path: &Path, what: &str) {
    let io = qemu.img().with_file_name("qemu-io");
    let ran = Command::new(io).args(["-f", "qcow2", "-c", what]).arg(path).output().await.unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

/// How much a served bitmap calls changed.
async fn changed(qemu: &Qemu, served: &ServedDisk) -> u64 {
    let (socket, export) = (served.socket().display(), served.export());
    let context = served.context().unwrap();
    let options = format!(
        "driver=nbd,server.type=unix,server.path={socket},export={export},x-dirty-bitmap=qemu:dirty-bitmap:{context}"
    );
    let mut map = Command::new(qemu.img());
    let ran = map.args(["map", "--output=json", "--image-opts", &options]).output().await.unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let stretches: Vec<serde_json::Value> = serde_json::from_slice(&ran.stdout).unwrap();
    stretches.iter().filter(|s| s["data"] == false).filter_map(|s| s["length"].as_u64()).sum()
}

#[tokio::test]
async fn bitmaps_are_listed_merged_and_removed() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = image(&qemu, dir.path()).await;
    let found = bitmaps(&qemu, &path).await.unwrap();
    assert_eq!(found.iter().map(|b| b.name).collect::<Vec<_>>(), [name(1), name(2)]);
    assert!(found.iter().all(|b| b.recording && !b.inconsistent && b.granularity == 64 << 10), "{found:?}");
    let twice = add_bitmap(&qemu, &path, name(1)).await.unwrap_err();
    assert!(matches!(twice, DiskError::BitmapExists { .. }), "{twice}");
    let absent = merge_bitmap(&qemu, &path, name(9), name(2)).await.unwrap_err();
    assert!(matches!(absent, DiskError::NoBitmap { .. }), "{absent}");

    let socket = dir.path().join("s");
    let served = serve(&qemu, &path, DiskFormat::Qcow2, Some(name(2)), &socket).await.unwrap();
    assert_eq!(changed(&qemu, &served).await, 0);
    served.stop().await.unwrap();
    merge_bitmap(&qemu, &path, name(1), name(2)).await.unwrap();
    let served = serve(&qemu, &path, DiskFormat::Qcow2, Some(name(2)), &socket).await.unwrap();
    assert_eq!(changed(&qemu, &served).await, 64 << 10);
    served.stop().await.unwrap();

    remove_bitmap(&qemu, &path, name(1)).await.unwrap();
    remove_bitmap(&qemu, &path, name(1)).await.unwrap();
    assert_eq!(bitmaps(&qemu, &path).await.unwrap().len(), 1);
    let raw = dir.path().join("b.raw");
    create(&qemu, &raw, &new(DiskFormat::Raw, DiskKind::Dynamic)).await.unwrap();
    assert!(matches!(bitmaps(&qemu, &raw).await, Err(DiskError::Corrupt { .. })));
}

#[tokio::test]
async fn what_cannot_be_served_is_told() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = image(&qemu, dir.path()).await;
    let socket = dir.path().join("s");
    let absent = serve(&qemu, &path, DiskFormat::Qcow2, Some(name(9)), &socket).await.unwrap_err();
    assert!(matches!(absent, DiskError::NoBitmap { .. }), "{absent}");
    let missing = serve(&qemu, &dir.path().join("x"), DiskFormat::Qcow2, None, &socket).await.unwrap_err();
    assert!(matches!(missing, DiskError::Missing(_)), "{missing}");
    let relative = serve(&qemu, Path::new("a"), DiskFormat::Qcow2, None, &socket).await.unwrap_err();
    assert!(matches!(relative, DiskError::Path(_)), "{relative}");
    fs::write(&socket, "another's").unwrap();
    let taken = serve(&qemu, &path, DiskFormat::Qcow2, None, &socket).await.unwrap_err();
    assert!(matches!(taken, DiskError::Exists(_)), "{taken}");
    assert_eq!(fs::read(&socket).unwrap(), b"another's");
}

#[tokio::test]
async fn a_server_that_is_dropped_or_dies_leaves_nothing() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = image(&qemu, dir.path()).await;
    let socket = dir.path().join("s");
    let before = fs::read_dir(dir.path()).unwrap().count();
    let served = serve(&qemu, &path, DiskFormat::Qcow2, None, &socket).await.unwrap();
    assert!(served.complaint().is_none() && served.context().is_none());
    write_refused(&qemu, &path).await;
    let pid = fs::read_to_string(socket.with_file_name("s.pid")).unwrap();
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let mut ended = served.ended_for_tests();
    timeout(SOON, ended.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert!(served.complaint().is_some());
    drop(served);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);

    let served = serve(&qemu, &path, DiskFormat::Qcow2, None, &socket).await.unwrap();
    let mut ended = served.ended_for_tests();
    drop(served);
    timeout(SOON, ended.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

/// While it is served, nobody writes to it.
async fn write_refused(qemu: &Qemu, path: &Path) {
    let refused = add_bitmap(qemu, path, name(7)).await.unwrap_err();
    assert!(matches!(refused, DiskError::InUse(_)), "{refused}");
}

/// Not a test of its own: the process that [`a_server_dies_with_its_process`] kills.
#[tokio::test]
async fn a_process_that_serves_until_it_is_killed() {
    let Some(path) = env::var_os(IMAGE_VARIABLE).map(PathBuf::from) else { return };
    let Some((qemu, _dir)) = workshop().await else { return };
    let socket = path.with_file_name("s");
    let _served = serve(&qemu, &path, DiskFormat::Qcow2, None, &socket).await.unwrap();
    println!("serves");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_server_dies_with_its_process() {
    let Some((qemu, dir)) = workshop().await else { return };
    let path = image(&qemu, dir.path()).await;
    let test = "disk::bitmap_tests::a_process_that_serves_until_it_is_killed";
    let mut process = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(IMAGE_VARIABLE, &path)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let serves = async { while !lines.next_line().await.unwrap().unwrap().contains("serves") {} };
    timeout(SOON, serves).await.unwrap();
    let pid = fs::read_to_string(dir.path().join("s.pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    test_kill_process(pid).unwrap();
    process.kill().await.unwrap();
    let dies = async {
        // Gone, or dead and not yet collected by whoever collects orphans here.
        let alive = || fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok();
        while alive().is_some_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, dies).await.unwrap();
}

//! Captures whose node, machine or engine ends before they do.

use std::future::Future;

use super::*;

/// What a node does until it is killed: its tasks and connections go at once, and nothing is undone.
fn node<T: Send + 'static>(life: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(life)
}

#[test]
fn what_a_dead_node_left_is_cleared_when_the_machine_is_found_again() {
    let Some(bench) = node(with_disks()) else { return };
    let bench = node(async {
        let nest = Nest::launch(bench).await;
        done(nest.capture(Some(1), None).await, &[]).await;
        nest.guest(0, "write -P 1 0 64k").await;
        let capture = nest.capture(Some(2), Some(1)).await;
        nest.guest(0, "write -P 2 1M 64k").await;
        std::mem::forget(capture);
        nest.leave()
    });
    // And one that dies in the instant itself.
    let bench = node(async {
        let nest = Nest::attach(bench).await;
        nest.nothing_is_left().await;
        let (all, new) = (2 * KIB64, KIB64);
        assert_eq!(nest.ours().await, [(0, 1, all), (0, 2, new), (3, 1, 0), (3, 2, 0)]);
        std::mem::forget(nest.capture(None, None).await);
        let stopped = json!({"driver": "null-co", "node-name": names::STOPPED, "size": 0});
        nest.machine.execute("blockdev-add", stopped).await.unwrap();
        nest.machine.pause().await.unwrap();
        nest.leave()
    });
    // And one that dies while it makes things ready.
    let bench = node(async {
        let nest = Nest::attach(bench).await;
        nest.nothing_is_left().await;
        assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
        let (nodes, devices) =
            (answers::nodes(&nest.machine).await.unwrap(), answers::devices(&nest.machine).await.unwrap());
        let plans = plan::plan(&nest.request(None, None), &nodes, &devices).unwrap();
        fleecing::make(&nest.machine, &plans[0], &nest.fleecing()).await.unwrap();
        nest.leave()
    });
    node(async {
        let nest = Nest::attach(bench).await;
        nest.nothing_is_left().await;
        assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
        assert_eq!(nest.machine.clear_captures().await.unwrap(), Cleared::default());
        nest.machine.remove_bitmaps(&[(scsi(0), name(2)), (scsi(3), name(2))]).await.unwrap();
        let capture = nest.capture(Some(3), Some(1)).await;
        assert_eq!(changed_of(&nest, &capture, 0).await, [(0, KIB64), (MIB, KIB64)]);
        done(capture, &[1]).await;
        assert_eq!(nest.ours().await, [(0, 3, 0), (3, 3, 0)]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_saved_under_a_capture_and_its_bitmaps_wake_up_with_it() {
    let Some(nest) = nest().await else { return };
    done(nest.capture(Some(1), None).await, &[]).await;
    nest.guest(0, "write -P 1 0 64k").await;
    let mut capture = nest.capture(Some(2), Some(1)).await;
    let outcome = durable(&capture, &[1]).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    let state = nest.bench.dir.path().join("state");
    nest.machine.save_to(&state).await.unwrap();
    let ended = capture.whole().await.unwrap_err();
    assert!(matches!(&ended, CaptureError::Ended { why } if why.contains("saved")), "{ended}");
    assert!(holds(&nest, &capture, 0, 1, "0 64k").await.is_err());
    nest.machine.quit().await.unwrap();
    let gone = capture.finish(&outcome).await.unwrap_err();
    assert!(matches!(gone, CaptureError::Gone(_)), "{gone}");

    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.iter().all(|b| b.recording && !b.inconsistent), "{stored:?}");
    let mut spec = nest.bench.spec();
    spec.restore_from = Some(state);
    let machine = Guarded(Machine::launch(&nest.bench.qemu, spec).await.unwrap());
    let nest = Nest { machine, ..nest };
    assert_eq!(nest.ours().await, [(0, 1, 2 * KIB64), (0, 2, KIB64), (3, 1, 0), (3, 2, 0)]);
    nest.guest(3, "write -P 1 0 64k").await;
    assert_eq!(nest.ours().await[2..], [(3, 1, KIB64), (3, 2, KIB64)]);
    assert!(nest.machine.bitmaps().await.unwrap()[1].bitmaps.iter().all(|b| b.doubt().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_ends_under_a_capture_and_its_bitmaps_stay() {
    let Some(nest) = nest().await else { return };
    let capture = nest.capture(Some(1), None).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    assert_eq!(nest.machine.quit().await.unwrap().kind, ExitKind::Asked);
    assert!(matches!(capture.whole().await, Err(CaptureError::Gone(_))));
    assert_eq!(std::fs::read_dir(nest.fleecing().dir).unwrap().count(), 0);
    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.len() == 1 && stored[0].recording && !stored[0].inconsistent, "{stored:?}");
    let check = disk::check(&nest.bench.qemu, nest.image(0), DiskFormat::Qcow2).await.unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0));
    let nest = Nest::launch(nest.bench).await;
    assert_eq!(nest.ours().await, [(0, 1, KIB64), (3, 1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_leaves_no_file_and_bitmaps_that_nobody_believes() {
    let Some(nest) = nest().await else { return };
    done(nest.capture(Some(1), None).await, &[]).await;
    nest.machine.quit().await.unwrap();
    let nest = Nest::launch(nest.bench).await;
    let mut capture = nest.capture(Some(2), Some(1)).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    nest.machine.kill().await.unwrap();
    assert!(matches!(capture.whole().await, Err(CaptureError::Gone(_))));
    assert!(matches!(capture.finish(&Outcome::Failed).await, Err(CaptureError::Gone(_))));
    assert_eq!(std::fs::read_dir(nest.fleecing().dir).unwrap().count(), 0);
    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.len() == 1 && stored[0].name == name(1) && stored[0].inconsistent, "{stored:?}");

    let nest = Nest::launch(nest.bench).await;
    let report = nest.machine.bitmaps().await.unwrap();
    let bitmap = &report[0].bitmaps[0];
    assert!(bitmap.name == name(1) && bitmap.inconsistent && bitmap.doubt().is_some(), "{bitmap:?}");
    let refused = nest.machine.capture(nest.request(Some(3), Some(1))).await.unwrap_err();
    assert!(matches!(refused, CaptureError::BadBitmap { .. }), "{refused}");
    nest.nothing_is_left().await;
    let both = [(scsi(0), name(1)), (scsi(3), name(1)), (scsi(3), name(99))];
    nest.machine.remove_bitmaps(&both).await.unwrap();
    done(nest.capture(Some(3), None).await, &[]).await;
    assert_eq!(nest.ours().await, [(0, 3, 0), (3, 3, 0)]);
}

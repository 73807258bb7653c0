//! The program on a real S3 server, killed in the middle.

use std::process::{Command, Stdio};

use crate::{
    place::{Place, Said, restic, wait_until},
    server::{Server, server},
};

const SECRET: &str = "wJalrXUtnFEMIsecretK7MDENG";

fn with_keys(mut command: Command) -> Command {
    command
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1");
    command
}

#[track_caller]
fn run(place: &Place, words: &str) -> Said {
    let said: Said = with_keys(place.command(words)).output().expect("nestling runs").into();
    assert!(!said.talk.contains(SECRET) && !said.data.contains(SECRET));
    said
}

fn objects(server: &Server, bucket: &str, prefix: &str) -> usize {
    let path = format!("/{bucket}?list-type=2&prefix={prefix}");
    server.request("GET", &path, "", "").1.matches("<Key>").count()
}

#[test]
fn a_save_to_s3_that_is_killed_is_made_again() {
    let test = "a_save_to_s3_that_is_killed_is_made_again";
    let Some(server) = server(test) else { return };
    let bucket = server.bucket("");
    let repo = format!("s3:http://{}/{bucket}/vault", server.address);
    let place = Place::empty();
    run(&place, &format!("init {repo}")).ok();
    place.image("one", 40, 1);
    run(&place, &format!("save {repo} Web01 one")).ok();

    place.image("two", 64, 2);
    let before = objects(&server, &bucket, "vault/data/");
    let mut save = with_keys(place.command(&format!("save {repo} Web01 two --bwlimit 10MB")));
    let mut child = save.stderr(Stdio::null()).spawn().expect("nestling runs");
    wait_until("some of it is stored", || objects(&server, &bucket, "vault/data/") > before);
    assert!(child.try_wait().expect("its state").is_none(), "it is at work");
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    assert_eq!(objects(&server, &bucket, "vault/locks/"), 1, "its lock is left");
    assert_eq!(run(&place, &format!("points {repo}")).ok().lines().count(), 2);
    run(&place, &format!("verify {repo} --all-data")).ok();

    run(&place, &format!("save {repo} Web01 two")).ok();
    for (point, image) in [("Web01", "two"), ("Web01@latest", "two")] {
        run(&place, &format!("restore {repo} {point} back.img --force")).ok();
        place.assert_same("back.img", image);
    }
    let plan = run(&place, &format!("--json prune {repo} --dry-run")).json();
    assert!(plan["plan"]["unindexed_packs"].as_u64() > Some(0), "{plan}");
    run(&place, &format!("forget {repo} Web01 --keep-last 1")).ok();
    run(&place, &format!("unlock {repo}")).ok();
    let pruned = run(&place, &format!("--json prune {repo}")).json();
    assert!(pruned["done"]["removed_packs"].as_u64() > Some(0), "{pruned}");
    assert_eq!(objects(&server, &bucket, "vault/locks/"), 0);
    run(&place, &format!("restore {repo} Web01 back.img --force")).ok();
    place.assert_same("back.img", "two");
    run(&place, &format!("verify {repo} --all-data")).ok();
    if let Some(program) = restic(&format!("{test}: the check by restic")) {
        let mut check = with_keys(place.other(program, "check --read-data -r"));
        Said::from(check.arg(&repo).output().expect("restic runs")).ok();
    }
}

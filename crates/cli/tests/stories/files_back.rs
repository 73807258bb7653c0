//! Files of a recovery point go back into the guest that lost them, and come out as archives.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::nest::Nest;

/// On the host, in `dir`.
fn tool(dir: &Path, line: &str) {
    let said = Command::new("sh").current_dir(dir).args(["-ec", line]).output().expect("a shell");
    assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
}

fn guest(nest: &Nest, line: &str) -> String {
    nest.run(&["vm", "exec", "P", "--", "sh", "-c", line]).ok()
}

/// A pebble `P` that runs, with a disk that was a system's, and a point of it.
fn begin(nest: &Nest) {
    let path = |name: &str| nest.home.join(name).display().to_string();
    nest.image("pebble");
    fs::write(path("password"), "correct horse\n").expect("a file");
    fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
    tool(
        &nest.home,
        "mkdir -p root/etc/app/sub root/srv/site
         echo ID=old > root/etc/os-release
         echo one > root/etc/app/one; echo two > root/etc/app/sub/two; ln -s sub/two root/etc/app/link
         head -c 5000000 /dev/urandom > root/etc/app/large; truncate -s 2M root/etc/app/hole
         echo index > root/srv/site/index; chmod 750 root/srv/site
         chown 1234:4321 root/etc/app/one; chmod 4711 root/etc/app/one
         touch -d @1000000000 root/etc/app/one root/etc/app/sub root/srv/site root/srv
         truncate -s 66M old.raw; truncate -s 64M old.part; mke2fs -q -F -t ext4 -d root old.part
         sgdisk -n 1:2048:+64M old.raw; dd if=old.part of=old.raw bs=1M seek=1 conv=notrunc",
    );
    let run = |args: &[&str]| nest.run(args);
    run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]).ok();
    run(&["vm", "create", "P", "--image", "pebble"]).ok();
    run(&["vm", "drive", "add", "P", &path("old.raw")]).ok();
    run(&["vm", "start", "P"]).ok();
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "test", "-b", "/dev/vda"]);
    run(&["backup", "run", "P", "--crash-consistent"]).ok();
}

#[test]
fn files_come_back_into_the_guest() {
    let nest = Nest::new("files-back");
    begin(&nest);
    let put = |args: &[&str]| nest.run(&[&["recover", "put", "P@newest"], args].concat());
    let sum = |path: &str| guest(&nest, &format!("md5sum < {path}"));

    // To where they were, as they were, with the folders on the way.
    let (app, site) = ("scsi:0/1:/etc/app", "scsi:0/1:/srv/site");
    let said = nest.run(&["--json", "recover", "put", "P@newest", app, site, "--vm", "P"]).ok();
    let told: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!((&told[0]["target"], &told[0]["files"]), (&"/etc/app".into(), &5.into()), "{said}");
    assert_eq!(&told[1]["target"], "/srv/site");
    let one = guest(&nest, "stat -c '%a %u %g %Y' /etc/app/one");
    assert_eq!(one.trim(), "4711 1234 4321 1000000000");
    let folders = guest(&nest, "stat -c '%a %Y' /etc/app/sub /srv/site /srv; readlink /etc/app/link");
    let folders: Vec<&str> = folders.lines().collect();
    assert_eq!(folders, ["755 1000000000", "750 1000000000", "755 1000000000", "sub/two"]);
    let here = Command::new("md5sum").arg(nest.home.join("root/etc/app/large")).output().expect("it runs");
    let here = String::from_utf8_lossy(&here.stdout).into_owned();
    assert_eq!(sum("/etc/app/large").get(..32), here.get(..32));
    assert_eq!(guest(&nest, "stat -c %s /etc/app/hole").trim(), "2097152");

    // What is there stays, and is named; with the word for it only that is replaced.
    guest(&nest, "echo mine > /etc/app/sub/two; echo own > /etc/app/own; rm /etc/app/link");
    let refused = put(&[app, "--vm", "P"]).fails();
    assert!(refused.contains("/etc/app/sub/two") && refused.contains("--overwrite"), "{refused}");
    assert_eq!(guest(&nest, "cat /etc/app/sub/two; ls /etc/app/link 2>&1 | grep -c 'No such'"), "mine\n1\n");
    put(&[app, "--vm", "P", "--overwrite"]).ok();
    assert_eq!(
        guest(&nest, "cat /etc/app/sub/two /etc/app/own; readlink /etc/app/link"),
        "two\nown\nsub/two\n"
    );

    // Elsewhere.
    let two = "scsi:0/1:/etc/app/sub/two";
    put(&[two, "--vm", "P", "--to", "/tmp/new/place"]).ok();
    assert_eq!(guest(&nest, "cat /tmp/new/place/two"), "two\n");
    for (args, why) in [
        (&[two, "--vm", "P", "--to", "/tmp/new/place/two"][..], "no folder"),
        (&["scsi:0/1:/none", "--vm", "P"], "none"),
        (&["scsi:0/1:/", "--vm", "P"], "--to"),
        (&[two, "--vm", "P", "--to", "tmp"], "begins with /"),
    ] {
        let said = put(args).fails();
        assert!(said.contains(why), "{args:?}: {said}");
    }

    is_cancelled(&nest);
    assert_eq!(guest(&nest, "find / -xdev -name '.nestling-put-*' 2> /dev/null"), "");
    let unpacks = ["vm", "exec", "P", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | grep -c 'unpac[k]='"];
    nest.wait("end", Duration::from_secs(30), &unpacks, |said| said.stdout == "0\n");

    // Without an agent it is said what to do.
    nest.run(&["vm", "turn-off", "P"]).ok();
    let said = put(&[two, "--vm", "P"]).fails();
    assert!(said.contains("hint:") && said.contains("start it"), "{said}");
}

/// Ctrl-C in the middle leaves nothing.
fn is_cancelled(nest: &Nest) {
    let args = ["recover", "put", "P@newest", "scsi:0/1:/etc/app/large", "--vm", "P", "--to", "/tmp/cut"];
    let child = nest.command(args).spawn().expect("it runs");
    let begun = ["vm", "exec", "P", "--", "sh", "-c", "find / -xdev -name '.nestling-put-*' | grep ."];
    let ended = Cell::new(None);
    let child = RefCell::new(child);
    nest.wait("transfer", Duration::from_secs(60), &begun, |said| {
        ended.set(child.borrow_mut().try_wait().expect("it is ours"));
        said.status == 0 || ended.get().is_some()
    });
    let mut child = child.into_inner();
    if ended.get().is_none() {
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    }
    let ended = child.wait().expect("it ended");
    // It may have been done already.
    if !ended.success() {
        assert_eq!(guest(nest, "ls /tmp/cut 2>&1 | grep -c 'No such'"), "1\n");
    }
}

//! Files come out of a recovery point, also those of a disk inside a disk, and nothing of a guest's gets where it may not.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::nest::Nest;

/// On the host, in `dir`.
fn tool(dir: &Path, line: &str) {
    let said = Command::new("sh").current_dir(dir).args(["-ec", line]).output().expect("a shell");
    assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn the_innermost_file_comes_out_of_a_backup() {
    let nest = Nest::new("files");
    let home = nest.home.clone();
    let path = |name: &str| home.join(name).display().to_string();
    fs::write(path("password"), "correct horse\n").expect("a file");
    fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
    // ext4 on a GPT disk in a qcow2, in ext4 on a GPT disk.
    tool(
        &home,
        "mkdir -p inner/etc outer/vms
         head -c 1000000 /dev/urandom > inner/etc/secret; chmod 640 inner/etc/secret; touch -d @1000000000 inner/etc/secret
         ln -s /etc/passwd inner/etc/link; mkfifo inner/etc/fifo; truncate -s 20M inner/etc/hole
         truncate -s 16M l2.raw; truncate -s 14M l2.part; mke2fs -q -F -t ext4 -d inner l2.part
         sgdisk -n 1:2048:+14M l2.raw; dd if=l2.part of=l2.raw bs=1M seek=1 conv=notrunc
         qemu-img convert -O qcow2 l2.raw outer/vms/l2.qcow2
         truncate -s 66M l1.raw; truncate -s 64M l1.part; mke2fs -q -F -t ext4 -L first -d outer l1.part
         sgdisk -n 1:2048:+64M l1.raw; dd if=l1.part of=l1.raw bs=1M seek=1 conv=notrunc
         mkdir target",
    );
    let run = |args: &[&str]| nest.run(args);
    run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]).ok();
    run(&["vm", "create", "P"]).ok();
    run(&["vm", "drive", "add", "P", &path("l1.raw")]).ok();
    run(&["backup", "run", "P"]).ok();

    // What is listed can be asked for, from the disks inwards.
    let list = |place: &str| -> Vec<Value> {
        let mut args = vec!["--json", "recover", "ls", "P@newest"];
        args.extend((!place.is_empty()).then_some(place));
        let said = run(&args).ok();
        said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    };
    let volume = &list("")[0];
    assert_eq!((&volume["content"], &volume["label"]), (&"ext4".into(), &"first".into()), "{volume}");
    let root = volume["place"].as_str().expect("a place").to_owned();
    let vms = list(&root).into_iter().find(|file| file["name"] == "vms").expect("a directory");
    let image = list(vms["place"].as_str().expect("a place")).remove(0);
    let inside = list(&format!("{}//", image["place"].as_str().expect("a place"))).remove(0);
    let root = inside["place"].as_str().expect("a place").to_owned();
    assert!(root.ends_with("/vms/l2.qcow2//1:/"), "{root}");

    // The rest comes though something cannot be made here.
    let etc = format!("{root}etc");
    let said = run(&["recover", "get", "P@newest", &etc, &path("target")]);
    assert_eq!(said.status, 3, "{}", said.stderr);
    assert!(said.stderr.contains("/etc/fifo"), "{}", said.stderr);
    tool(
        &home,
        "cmp inner/etc/secret target/etc/secret; cmp inner/etc/hole target/etc/hole; test ! -e target/etc/fifo",
    );
    let made = fs::metadata(path("target/etc/secret")).expect("there");
    assert_eq!((made.mode() & 0o7777, made.mtime()), (0o640, 1_000_000_000));
    assert_eq!(fs::metadata(path("target/etc/hole")).expect("there").blocks(), 0);
    assert_eq!(fs::read_link(path("target/etc/link")).expect("a link"), Path::new("/etc/passwd"));

    // What is there stays, unless it is said.
    fs::write(path("target/etc/secret"), "mine").expect("written");
    let secret = format!("{etc}/secret");
    let into = path("target/etc");
    assert_eq!(run(&["recover", "get", "P@newest", &secret, &into]).status, 1);
    assert_eq!(fs::read(path("target/etc/secret")).expect("read"), b"mine");
    run(&["recover", "get", "P@newest", &secret, &into, "--force"]).ok();
    tool(
        &home,
        "cmp inner/etc/secret target/etc/secret; test -z \"$(find target -name '.nestling-part-*')\"",
    );

    comes_as_an_archive(&nest, &etc);
    is_found_and_compared(&nest);
    for (place, why) in
        [("scsi:0/9:/", "volume 9"), ("scsi:7/1:/", "no disk scsi:7"), ("scsi:0/1:/../x", "no place")]
    {
        let said = run(&["recover", "ls", "P@newest", place]);
        assert!(said.status == 1 && said.stderr.contains(why), "{place}: {}", said.stderr);
    }
}

/// The same as one file, which other programs unpack.
fn comes_as_an_archive(nest: &Nest, etc: &str) {
    let path = |name: &str| nest.home.join(name).display().to_string();
    let get = |args: &[&str]| nest.run(&[&["recover", "get", "P@newest"], args].concat());
    for (name, unpack) in [
        ("etc.tar", "tar -xpf ../etc.tar"),
        ("etc.tar.gz", "tar -xzpf ../etc.tar.gz"),
        ("etc.zip", "python3 -c \"import zipfile; zipfile.ZipFile('../etc.zip').extract('etc/secret')\""),
    ] {
        let said = get(&[etc, "--archive", &path(name)]);
        // A tar has the fifo, too.
        assert_eq!(said.status, if name == "etc.zip" { 3 } else { 0 }, "{}", said.stderr);
        tool(
            &nest.home,
            &format!(
                "mkdir out-{name}; cd out-{name}; {unpack}; cmp etc/secret ../inner/etc/secret
                 test {name} = etc.zip || {{
                     test -p etc/fifo; test \"$(readlink etc/link)\" = /etc/passwd
                     test \"$(stat -c '%a %Y' etc/secret)\" = '640 1000000000'; cmp etc/hole ../inner/etc/hole
                 }}"
            ),
        );
        let refused = get(&[etc, "--archive", &path(name)]).fails();
        assert!(refused.contains("is there already"), "{refused}");
    }
    let mut out = nest.command(["recover", "get", "P@newest", etc, "--archive", "-"]);
    let said = out.output().expect("nestling runs");
    assert!(said.status.success() && said.stdout == fs::read(path("etc.tar")).expect("read"));
    assert!(get(&[etc, "--archive", &path("etc.rar")]).fails().contains("form of an archive"));
    assert!(get(&[etc]).fails().contains("--archive"));
}

/// A file comes, and is found in the newer point alone.
fn is_found_and_compared(nest: &Nest) {
    let run = |args: &[&str]| nest.run(args);
    tool(
        &nest.home,
        "debugfs -w -R 'write password added' l1.part
         dd if=l1.part of=l1.raw bs=1M seek=1 conv=notrunc",
    );
    run(&["backup", "run", "P"]).ok();
    let lines = |said: String| -> Vec<Value> {
        said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    };
    let found = |name: &str| lines(run(&["--json", "recover", "find", "P", "--name", name]).ok());
    let (added, images) = (found("ADD*"), found("*.qcow2"));
    assert_eq!((added.len(), images.len()), (1, 2), "{added:?} {images:?}");
    assert_eq!((&added[0]["place"], &added[0]["size_bytes"]), (&"scsi:0/1:/added".into(), &14.into()));
    assert_eq!(added[0]["point"], images[0]["point"], "the newest first");
    let old = images[1]["point"].as_str().expect("a point");
    let changes = lines(run(&["--json", "recover", "compare", old, "P@newest", "scsi:0/1:/"]).ok());
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((&changes[0]["change"], &changes[0]["path"]), (&"Added".into(), &"/added".into()));
    let none = run(&["recover", "find", "P", "--name", "*", "--before", "2001-01-01"]).fails();
    assert!(none.contains("no recovery point"), "{none}");
}

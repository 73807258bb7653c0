//! Change tracking that was damaged while no engine had the image: it is not believed, and what is saved is what the image
//! has. What a real guest wrote before is the torture's (`crates/cli/tests/stories/torture`).

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use nestling_model::{Disk, protection::NotTracked};
use serde_json::Value;

use super::tests::{
    MIB, backed_up, bitmaps, good, image, prepare, saved_byte, saved_byte_of, why, wish, write,
};
use crate::{
    testing::{ME, TestHome},
    values::NewDrive,
};

fn tool(words: &[&str]) -> Vec<u8> {
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The only bitmap of an image.
fn bitmap(image: &Path) -> String {
    let info = tool(&["qemu-img", "info", "--output=json", text(image)]);
    let info: Value = serde_json::from_slice(&info).unwrap();
    info["format-specific"]["data"]["bitmaps"][0]["name"].as_str().unwrap().to_owned()
}

fn of_bitmap(image: &Path, options: &[&[&str]]) {
    let name = bitmap(image);
    for option in options {
        tool(&[&["qemu-img", "bitmap"], *option, &["-f", "qcow2", text(image), &name]].concat());
    }
}

fn copy(image: &Path) -> PathBuf {
    let copy = image.with_extension("copy");
    tool(&["cp", "-a", text(image), text(&copy)]);
    copy
}

/// Writes one byte where the file has the disk's second megabyte, past the format, and sets the file's time back.
fn write_past_the_format(image: &Path, byte: u8) {
    let map: Value =
        serde_json::from_slice(&tool(&["qemu-img", "map", "--output=json", text(image)])).unwrap();
    let stretch = map.as_array().unwrap().iter().find(|x| x["start"] == MIB && x["offset"].is_u64());
    let at = stretch.unwrap()["offset"].as_u64().unwrap();
    let before = fs::metadata(image).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(image).unwrap();
    file.write_all_at(&[byte], at).unwrap();
    file.set_modified(before).unwrap();
}

type Damage = fn(&Path);

/// Each leaves 9 at the second megabyte, where the last point has 7; the last one has 7 again.
const DAMAGES: &[(&str, Damage, u8)] = &[
    (
        "removed",
        |i| {
            of_bitmap(i, &[&["--remove"]]);
            write_past_the_format(i, 9);
        },
        9,
    ),
    (
        "cleared",
        |i| {
            write(i, MIB, 9);
            of_bitmap(i, &[&["--clear"]]);
        },
        9,
    ),
    (
        "not recording",
        |i| {
            of_bitmap(i, &[&["--disable"]]);
            write(i, MIB, 9);
        },
        9,
    ),
    (
        "begun anew",
        |i| {
            write(i, MIB, 9);
            of_bitmap(i, &[&["--remove"], &["--add"]]);
        },
        9,
    ),
    (
        "of other granularity",
        |i| {
            write(i, MIB, 9);
            of_bitmap(i, &[&["--remove"], &["--add", "-g", "4096"]]);
        },
        9,
    ),
    ("written by a tool", |i| write(i, MIB, 9), 9),
    ("written past the format", |i| write_past_the_format(i, 9), 9),
    (
        "replaced",
        |i| {
            let other = copy(i);
            write_past_the_format(&other, 9);
            fs::rename(other, i).unwrap();
        },
        9,
    ),
    (
        "converted",
        |i| {
            let other = i.with_extension("new");
            write(i, MIB, 9);
            tool(&["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", text(i), text(&other)]);
            fs::rename(other, i).unwrap();
        },
        9,
    ),
    (
        "an older copy",
        |i| {
            let older = copy(i);
            write(i, MIB, 9);
            fs::rename(older, i).unwrap();
        },
        7,
    ),
];

#[test]
fn tracking_that_was_damaged_is_not_believed() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let image = image(&node);
        for (what, damage, byte) in DAMAGES {
            write(&image, MIB, 7);
            backed_up(&node, wish("vm")).await;
            assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "{what}: it is tracked before");
            damage(&image);
            let run = backed_up(&node, wish("vm")).await;
            assert_eq!(why(&run), Some(NotTracked::BitmapMissing), "{what}");
            assert_eq!(saved_byte(&node, MIB).await, *byte, "{what}");
            assert_eq!((why(&backed_up(&node, wish("vm")).await), bitmaps(&image)), (None, 1), "{what}");
        }
    });
}

/// Both have a bitmap of the same number, which the point before has for both places.
#[test]
fn disks_that_change_places_are_compared() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let first = image(&node);
        let second = first.with_file_name("second.qcow2");
        tool(&["qemu-img", "create", "-q", "-f", "qcow2", text(&second), "16M"]);
        write(&first, MIB, 7);
        write(&second, MIB, 8);
        let attach = async |path: &Path, place: Option<&Disk>| {
            let (controller, location) = place.map(|at| (at.controller, at.location)).unzip();
            let (path, format) = (path.to_owned(), None);
            node.add_drive(&ME, "vm", NewDrive { path, controller, location, format, read_only: false })
                .await
                .unwrap()
        };
        attach(&second, None).await;
        backed_up(&node, wish("vm")).await;
        let tracked = backed_up(&node, wish("vm")).await;
        assert!(good(&tracked).disks.iter().all(|disk| disk.reading.unwrap().why_not().is_none()));

        let disks = node.vms.find("vm").unwrap().now().vm.disks.clone();
        for disk in &disks {
            node.remove_drive(&ME, "vm", disk.controller, disk.location).await.unwrap();
        }
        attach(&disks[1].path, Some(&disks[0])).await;
        attach(&disks[0].path, Some(&disks[1])).await;
        let run = backed_up(&node, wish("vm")).await;
        for (disk, byte) in good(&run).disks.iter().zip([8, 7]) {
            assert_eq!(disk.reading.unwrap().why_not(), Some(NotTracked::BitmapMissing));
            assert_eq!(saved_byte_of(&node, Some(disk.name.to_string()), MIB).await, byte, "{}", disk.name);
        }
        let tracked = backed_up(&node, wish("vm")).await;
        assert!(good(&tracked).disks.iter().all(|disk| disk.reading.unwrap().why_not().is_none()));
    });
}

//! Change tracking, damaged in every way that we could think of while no engine has the images.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::plan::{DISKS, Damage, Dice, LOG_BYTES};

/// Ends with what a tool complains about.
pub fn tool(words: &[&str]) -> String {
    let said = Command::new(words[0]).args(&words[1..]).output().expect("it runs");
    assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The bitmaps of an image.
fn bitmaps(image: &str) -> Vec<String> {
    let info: Value =
        serde_json::from_str(&tool(&["qemu-img", "info", "--output=json", image])).expect("JSON");
    let all = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    all.iter().map(|bitmap| bitmap["name"].as_str().expect("a name").to_owned()).collect()
}

/// Damages. `OlderCopy` is made by the caller, who has to start the machine in between.
pub fn damage(kind: Damage, qcow2: &Path, raw: &Path, dice: &mut Dice) {
    let image = qcow2.to_str().expect("text");
    let of_each = |options: &[&[&str]]| {
        for name in bitmaps(image) {
            for option in options {
                let words = [&["qemu-img", "bitmap"], *option, &["-f", "qcow2", image, &name]].concat();
                tool(&words);
            }
        }
    };
    match kind {
        Damage::BitmapsRemoved => of_each(&[&["--remove"]]),
        Damage::BitmapsCleared => of_each(&[&["--clear"]]),
        Damage::BitmapsNotRecording => of_each(&[&["--disable"]]),
        Damage::BitmapsBegunAnew => of_each(&[&["--remove"], &["--add"]]),
        Damage::BitmapsOfOtherGranularity => of_each(&[&["--remove"], &["--add", "-g", "4096"]]),
        Damage::WrittenByTool => write_by_tool(image, dice),
        Damage::WrittenPastTheFormat => write_past_the_format(qcow2, dice),
        Damage::Replaced => {
            let copy = copied(qcow2);
            write_by_tool(copy.to_str().expect("text"), dice);
            fs::rename(copy, qcow2).expect("replaced");
        }
        Damage::Converted => {
            let copy = qcow2.with_extension("new");
            let words = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", image];
            tool(&[&words[..], &[copy.to_str().expect("text")]].concat());
            fs::rename(copy, qcow2).expect("replaced");
        }
        Damage::RawWritten => {
            let file = fs::File::options().write(true).open(raw).expect("the raw image");
            file.write_all_at(&random(dice), somewhere(1, dice)).expect("written");
        }
        Damage::OlderCopy => unreachable!("the caller makes it"),
    }
}

/// The image as it lies, with its times, beside it.
pub fn copied(image: &Path) -> PathBuf {
    let copy = image.with_extension("old");
    let (from, to) = (image.to_str().expect("text"), copy.to_str().expect("text"));
    tool(&["cp", "-a", "--sparse=always", from, to]);
    copy
}

/// As some other program that knows the format would. QEMU's tools record it in a bitmap, and are noticed all the same.
fn write_by_tool(image: &str, dice: &mut Dice) {
    let write = format!("write -P {} {} 65536", 1 + dice.below(255), somewhere(0, dice));
    tool(&["qemu-io", "-f", "qcow2", "-c", &write, image]);
}

fn write_past_the_format(image: &Path, dice: &mut Dice) {
    let map: Value = serde_json::from_str(&tool(&[
        "qemu-img",
        "map",
        "-f",
        "qcow2",
        "--output=json",
        image.to_str().expect("text"),
    ]))
    .expect("JSON");
    let data: Vec<u64> =
        map.as_array().expect("a list").iter().filter_map(|x| x["offset"].as_u64()).collect();
    // Before anything was ever written there is no cluster to write into.
    let Some(at) = data.get(usize::try_from(dice.below(data.len().max(1) as u64)).expect("small")) else {
        return;
    };
    let before = fs::metadata(image).and_then(|about| about.modified()).expect("a time");
    let file = fs::File::options().write(true).open(image).expect("the image");
    file.write_all_at(&random(dice), *at).expect("written");
    file.set_modified(before).expect("set back");
}

fn random(dice: &mut Dice) -> Vec<u8> {
    (0..4096).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect()
}

/// At a bound of clusters, before the log.
fn somewhere(disk: usize, dice: &mut Dice) -> u64 {
    dice.below((DISKS[disk].1 - LOG_BYTES) / 65536) * 65536
}

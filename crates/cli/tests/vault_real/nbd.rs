//! A point that is served, as QEMU's and libnbd's own tools see it.

use std::process::{Child, Stdio};

use crate::place::{MIB, Place, first_line, runs, skip};

/// A server of a disk of a point, which ends with it.
pub struct Served {
    child: Child,
    pub uri: String,
}

impl Served {
    pub fn new(place: &Place, point: &str, options: &str) -> Self {
        let socket = place.path("socket");
        let words = format!("--json nbd repo {point} --socket {} {options}", socket.display());
        let mut command = place.command(&words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("nestling runs");
        let line = first_line(&mut child);
        let served: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self { child, uri: served["uri"].as_str().expect("a URI").to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It is ours, and not yet waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_point_is_the_image() {
    let test = "a_served_point_is_the_image";
    let place = Place::new();
    place.image("one", 48, 1);
    place.run("save repo Web01 one").ok();
    place.image("two", 48, 2);
    place.run("save repo Web01 two").ok();
    let served = Served::new(&place, "Web01", "");
    if runs("qemu-img".as_ref(), "--version") {
        place.run_other("qemu-img", &format!("compare -f raw -F raw two {}", served.uri)).ok();
        let differs = place.run_other("qemu-img", &format!("compare -f raw -F raw one {}", served.uri));
        assert_eq!(differs.status, Some(1), "{}", differs.talk);
    } else {
        skip(test, "qemu-img is not installed");
    }
    if runs("nbdinfo".as_ref(), "--version") {
        let map = place.run_other("nbdinfo", &format!("--json --map {}", served.uri)).json();
        the_map_has_the_holes(&place, &map);
    } else {
        skip(test, "nbdinfo is not installed");
    }
}

/// The map is without gaps, and what it calls zero is so; most of what is zero is called so.
fn the_map_has_the_holes(place: &Place, map: &serde_json::Value) {
    let image = std::fs::read(place.path("two")).expect("the image");
    let (mut at, mut holes) = (0, 0);
    for extent in map.as_array().expect("a list") {
        let number = |name: &str| extent[name].as_u64().expect("a number");
        let (offset, length, kind) = (number("offset"), number("length"), number("type"));
        assert_eq!(offset, at, "{map}");
        at += length;
        if kind & 2 != 0 {
            let bytes = &image[offset as usize..at as usize];
            assert!(bytes.iter().all(|byte| *byte == 0), "{extent}");
            holes += length;
        }
    }
    assert_eq!(at, image.len() as u64, "{map}");
    let zero = image.chunks(MIB as usize).filter(|chunk| chunk.iter().all(|b| *b == 0)).count() as u64;
    assert!(zero > 4 && holes >= (zero - 1) * MIB, "{holes} of {zero} MiB in {map}");
}

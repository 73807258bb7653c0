//! A disk of 1 TiB with little in it: what it costs follows what is in it.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use crate::place::{MIB, Place, Random, Said, note, restic, setting};

const DISK_BYTES: u64 = 1 << 40;

/// Where the pieces of 1 MiB lie, all over the disk.
fn place_of(piece: u64, pieces: u64) -> u64 {
    piece * (DISK_BYTES / MIB / pieces) * MIB + 4096 * (piece % 256)
}

/// Noise and text in turns, without zeroes.
fn piece(number: u64, edition: u64) -> Vec<u8> {
    let mut bytes = Random(number << 8 | edition).bytes(MIB);
    if number.is_multiple_of(2) {
        bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 16);
    }
    bytes
}

/// Runs it, and says what it took.
#[track_caller]
fn measured(place: &Place, title: &str, words: &str) -> Said {
    let time = "/usr/bin/time";
    if !Path::new(time).exists() {
        return place.run(words);
    }
    let format = ["-o", "took", "-f", "wall %e s, CPU %U + %S s, peak %M KiB"];
    let mut command = place.other(time, "");
    command.args(format).arg(env!("CARGO_BIN_EXE_nestling")).arg("vault").args(words.split_whitespace());
    let said = command.output().expect("it runs").into();
    let took = fs::read_to_string(place.path("took")).unwrap_or_default();
    note(&format!("{title}: {}", took.trim()));
    let peak = took.split("peak ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(peak.is_some_and(|kib| kib < 256 << 10), "{title}: {took}");
    said
}

#[track_caller]
fn assert_disk(place: &Place, name: &str, pieces: u64, edition: impl Fn(u64) -> u64) {
    let file = File::open(place.path(name)).expect("the disk");
    let about = file.metadata().expect("its size");
    assert_eq!(about.len(), DISK_BYTES);
    for number in 0..pieces {
        let mut bytes = vec![0; MIB as usize];
        file.read_exact_at(&mut bytes, place_of(number, pieces)).expect("read");
        assert!(bytes == piece(number, edition(number)), "piece {number}");
    }
    // No block of a piece is all zero, so what is beyond them would take more room.
    let most = (pieces * MIB) + (pieces * 64 * 4096);
    assert!(about.blocks() * 512 <= most, "{} bytes for {pieces} MiB", about.blocks() * 512);
}

#[test]
fn a_tebibyte_costs_what_is_in_it() {
    let pieces = setting("NESTLING_VAULT_LARGE_MIB", 64);
    let place = Place::new();
    let disk = File::create(place.path("disk")).expect("a file");
    disk.set_len(DISK_BYTES).expect("a file system with large files");
    for number in 0..pieces {
        disk.write_all_at(&piece(number, 0), place_of(number, pieces)).expect("written");
    }
    let saved = measured(&place, "full save", "--json save repo Large disk").json();
    note(&format!("full save: {saved}"));
    assert_eq!(saved["size_bytes"], DISK_BYTES);
    let read = saved["read_bytes"].as_u64().expect("a number");
    assert!(read <= 2 * pieces * MIB, "{read} bytes were read");

    let changed = |number: u64| u64::from(number % 64 == 5);
    let mut ranges = Vec::new();
    for number in (0..pieces).filter(|number| changed(*number) == 1) {
        let offset = place_of(number, pieces);
        disk.write_all_at(&piece(number, 1), offset).expect("written");
        ranges.push(serde_json::json!({ "offset": offset, "length": MIB }));
    }
    fs::write(place.path("changed.json"), serde_json::Value::from(ranges.clone()).to_string())
        .expect("written");
    let words = "--json save repo Large disk --changed changed.json";
    let saved = measured(&place, "incremental save", words).json();
    note(&format!("incremental save: {saved}"));
    let read = saved["read_bytes"].as_u64().expect("a number");
    assert!(read <= 2 * ranges.len() as u64 * MIB, "{read} bytes were read");

    measured(&place, "restore", "restore repo Large back").ok();
    assert_disk(&place, "back", pieces, changed);
    fs::remove_file(place.path("back")).expect("it is there");
    let (first, _) = place.points("repo").remove(0);
    measured(&place, "restore of the first", &format!("restore repo Large@{first} back")).ok();
    assert_disk(&place, "back", pieces, |_| 0);
    measured(&place, "verify", "verify repo --all-data").ok();
    if let Some(restic) = restic("a_tebibyte_costs_what_is_in_it: the check by restic") {
        let begun = std::time::Instant::now();
        place.run_other(&restic, "-r repo check --read-data").ok();
        note(&format!("restic check --read-data: {:.1} s", begun.elapsed().as_secs_f64()));
    }
}

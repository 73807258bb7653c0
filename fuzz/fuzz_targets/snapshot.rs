#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{snapshot, snapshot_seeds};

fuzz_target!(init: nestling_fuzz::plant(snapshot_seeds()), |bytes: &[u8]| {
    snapshot(bytes);
});

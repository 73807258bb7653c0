#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{qcow2, qcow2_seeds};

fuzz_target!(init: nestling_fuzz::plant(qcow2_seeds()), |bytes: &[u8]| {
    qcow2(bytes);
});

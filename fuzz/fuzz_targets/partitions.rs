#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{partitions, partitions_seeds};

fuzz_target!(init: nestling_fuzz::plant(partitions_seeds()), |bytes: &[u8]| {
    partitions(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{segment, segment_seeds};

fuzz_target!(init: nestling_fuzz::plant(segment_seeds()), |bytes: &[u8]| {
    segment(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{small_file, small_file_seeds};

fuzz_target!(init: nestling_fuzz::plant(small_file_seeds()), |bytes: &[u8]| {
    small_file(bytes);
});

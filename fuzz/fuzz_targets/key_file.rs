#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{key_file, key_file_seeds};

fuzz_target!(init: nestling_fuzz::plant(key_file_seeds()), |bytes: &[u8]| {
    key_file(bytes);
});

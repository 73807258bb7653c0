#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{index, index_seeds};

fuzz_target!(init: nestling_fuzz::plant(index_seeds()), |bytes: &[u8]| {
    index(bytes);
});

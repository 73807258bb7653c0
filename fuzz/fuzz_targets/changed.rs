#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{changed, changed_seeds};

fuzz_target!(init: nestling_fuzz::plant(changed_seeds()), |bytes: &[u8]| {
    changed(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{object, object_seeds};

fuzz_target!(init: nestling_fuzz::plant(object_seeds()), |bytes: &[u8]| {
    object(bytes);
});

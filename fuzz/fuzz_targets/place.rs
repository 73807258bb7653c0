#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_explore::fuzzing::{place, place_seeds};

fuzz_target!(init: nestling_fuzz::plant(place_seeds()), |bytes: &[u8]| {
    place(bytes);
});

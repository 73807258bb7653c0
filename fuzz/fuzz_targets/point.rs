#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{point, point_seeds};

fuzz_target!(init: nestling_fuzz::plant(point_seeds()), |bytes: &[u8]| {
    point(bytes);
});

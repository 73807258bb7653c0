#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{vhd, vhd_seeds};

fuzz_target!(init: nestling_fuzz::plant(vhd_seeds()), |bytes: &[u8]| {
    vhd(bytes);
});

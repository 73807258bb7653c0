#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{vhdx, vhdx_seeds};

fuzz_target!(init: nestling_fuzz::plant(vhdx_seeds()), |bytes: &[u8]| {
    vhdx(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_exchange::fuzzing::{ovf, ovf_seeds};

fuzz_target!(init: nestling_fuzz::plant(ovf_seeds()), |bytes: &[u8]| {
    ovf(bytes);
});

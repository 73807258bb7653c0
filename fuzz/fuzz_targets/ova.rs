#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_exchange::fuzzing::{ova, ova_seeds};

fuzz_target!(init: nestling_fuzz::plant(ova_seeds()), |bytes: &[u8]| {
    ova(bytes);
});

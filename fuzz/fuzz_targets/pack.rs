#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{pack, pack_seeds};

fuzz_target!(init: nestling_fuzz::plant(pack_seeds()), |bytes: &[u8]| {
    pack(bytes);
});

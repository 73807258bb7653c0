#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{pack_header, pack_header_seeds};

fuzz_target!(init: nestling_fuzz::plant(pack_header_seeds()), |bytes: &[u8]| {
    pack_header(bytes);
});

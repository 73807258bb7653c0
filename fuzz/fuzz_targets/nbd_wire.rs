#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{nbd_wire, nbd_wire_seeds};

fuzz_target!(init: nestling_fuzz::plant(nbd_wire_seeds()), |bytes: &[u8]| {
    nbd_wire(bytes);
});

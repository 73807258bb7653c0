#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{vmdk, vmdk_seeds};

fuzz_target!(init: nestling_fuzz::plant(vmdk_seeds()), |bytes: &[u8]| {
    vmdk(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_exchange::fuzzing::{vmcx, vmcx_seeds};

fuzz_target!(init: nestling_fuzz::plant(vmcx_seeds()), |bytes: &[u8]| {
    vmcx(bytes);
});

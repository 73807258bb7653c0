#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_exchange::fuzzing::{libvirt, libvirt_seeds};

fuzz_target!(init: nestling_fuzz::plant(libvirt_seeds()), |bytes: &[u8]| {
    libvirt(bytes);
});

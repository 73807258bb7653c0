#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_explore::fuzzing::{ntfs, volume_seeds};

fuzz_target!(init: nestling_fuzz::plant(volume_seeds()), |bytes: &[u8]| {
    ntfs(bytes);
});

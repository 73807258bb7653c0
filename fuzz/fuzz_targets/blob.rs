#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{blob, blob_seeds};

fuzz_target!(init: nestling_fuzz::plant(blob_seeds()), |bytes: &[u8]| {
    blob(bytes);
});

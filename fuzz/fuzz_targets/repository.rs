#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{repository, repository_seeds};

fuzz_target!(init: nestling_fuzz::plant(repository_seeds()), |bytes: &[u8]| {
    repository(bytes);
});

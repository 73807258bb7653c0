#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_network::fuzzing::{neighbour, neighbour_seeds};

fuzz_target!(init: nestling_fuzz::plant(neighbour_seeds()), |bytes: &[u8]| {
    neighbour(bytes);
});

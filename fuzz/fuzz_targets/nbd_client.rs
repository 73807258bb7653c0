#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{nbd_client, nbd_client_seeds};

fuzz_target!(init: nestling_fuzz::plant(nbd_client_seeds()), |bytes: &[u8]| {
    nbd_client(bytes);
});

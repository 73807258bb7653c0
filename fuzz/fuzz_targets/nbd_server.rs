#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_block::fuzzing::{nbd_server, nbd_server_seeds};

fuzz_target!(init: nestling_fuzz::plant(nbd_server_seeds()), |bytes: &[u8]| {
    nbd_server(bytes);
});

#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_explore::fuzzing::{worker_request_seeds, worker_requests};

fuzz_target!(init: nestling_fuzz::plant(worker_request_seeds()), |bytes: &[u8]| {
    worker_requests(bytes);
});

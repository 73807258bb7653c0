#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_explore::fuzzing::{worker_answer_seeds, worker_answers};

fuzz_target!(init: nestling_fuzz::plant(worker_answer_seeds()), |bytes: &[u8]| {
    worker_answers(bytes);
});

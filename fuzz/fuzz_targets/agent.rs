#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nestling_hypervisor::fuzzing::agent(bytes));

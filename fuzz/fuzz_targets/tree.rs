#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_vault::fuzzing::{tree, tree_seeds};

fuzz_target!(init: nestling_fuzz::plant(tree_seeds()), |bytes: &[u8]| {
    tree(bytes);
});

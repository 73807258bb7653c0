#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_shell::lang::{Source, parse};

fuzz_target!(|text: &str| {
    // What is refused is refused; nothing may panic, and no place in an error may lie outside the text.
    if let Err(error) = parse(&Source::new(text, None)) {
        let _ = error.to_string();
    }
});

//! Scripts and what they print.

use crate::frame::Registry;
use crate::testing::{run, run_with};
use proptest::prelude::*;
use std::sync::Arc;

/// Runs a script that must print this and no error.
fn check(script: &str, expected: &str) {
    let result = run(script);
    assert_eq!(result.talk, "", "{script}");
    assert_eq!(result.data.trim_end_matches('\n'), expected, "{script}");
    assert!(!result.outcome.had_errors);
}

#[test]
fn arithmetic() {
    check("1 + 2 * 3", "7");
    check("(1 + 2) * 3", "9");
    check("7 / 2; 8 / 2; 7 % 3; -7 % 3", "3.5\n4\n1\n-1");
    check("2GB; 512MB; 0x1F; 1.5KB; 1e3; 3KB/1KB", "2147483648\n536870912\n31\n1536\n1000\n3");
    check("9223372036854775807 + 1", "9.22337203685478E+18");
    check("'a' + 1; 'ab' * 3; '5' + 5; 5 + '5'", "a1\nababab\n55\n10");
    check("1,2 + 3; (1,2)*2", "1\n2\n3\n1\n2\n1\n2");
    check("-(3)", "-3");
    check("10 – 3; 10 — 3; 10 ― 3; –5", "7\n7\n7\n-5");
}

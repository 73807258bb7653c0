//! Scripts nobody would write.

use crate::testing::run;
use proptest::prelude::*;

const LEAVES: &[&str] = &[
    "1",
    "-5",
    "0",
    "2.5",
    "1e308",
    "9223372036854775807",
    "'a'",
    "''",
    "'12'",
    "“é😀”",
    "$true",
    "$null",
    "$x",
    "$_",
    "2GB",
    "@()",
    "@{}",
    "(Get-Date)",
    "{ $_ }",
    "'[a-'",
    "'(a)|b'",
    "'{0:N2}{1,5}'",
    "'$1$$'",
    "(Get-Command ft)",
    "'00:01:02'",
];
const OPERATORS: &[&str] = &[
    "+",
    "-",
    "*",
    "/",
    "%",
    ",",
    "..",
    "-f",
    "-eq",
    "-cne",
    "-gt",
    "-le",
    "-like",
    "-match",
    "-contains",
    "-in",
    "-and",
    "-xor",
    "-join",
    "-split",
    "-replace",
];
const STAGES: &[&str] = &[
    "% { $_ }",
    "? { $_ }",
    "sort",
    "sort -Unique -Descending",
    "select -First 1",
    "select *",
    "select a, Count",
    "measure",
    "measure -Sum -Average",
    "group",
    "ft",
    "fl *",
    "ft a, b -Wrap",
    "Out-String",
    "ConvertTo-Json",
    "ConvertFrom-Json",
    "gm",
    "Out-String -Width 3",
    "% Length",
    "where Count -gt 1",
    "select -Index 0,5",
    "ft @{e={ $_ };f='N1'}",
    "Write-Output",
];

/// Scripts that parse, of values and operators in any mixture.
fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(LEAVES).prop_map(str::to_owned);
    leaf.prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(OPERATORS), inner.clone())
                .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), prop::sample::select(STAGES)).prop_map(|(a, stage)| format!("({a} | {stage})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("@{{a={a}; b={b}}}.a")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[pscustomobject]@{{a={a}; b={b}}}")),
            (inner.clone(), prop::sample::select(&["int", "string", "bool", "double", "array"][..]))
                .prop_map(|(a, cast)| format!("[{cast}]({a})")),
            inner.clone().prop_map(|a| format!("\"x$({a})\"")),
            inner.clone().prop_map(|a| format!("@({a}; $x)")),
            inner.clone().prop_map(|a| format!("($x = {a})")),
            inner.prop_map(|a| format!("(!{a}).Count")),
        ]
    })
}

proptest! {
    /// Whatever a script computes, it ends with a value or an error.
    #[test]
    fn running_never_panics(expression in any_expression()) {
        let parsed = crate::lang::parse(&crate::lang::Source::new(expression.as_str(), None));
        prop_assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
        run(&expression);
    }
}

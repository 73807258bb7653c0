use super::*;
use proptest::prelude::*;

fn error(text: &str) -> ParseError {
    match parse(&Source::new(text, None)) {
        Ok(_) => panic!("{text} parses"),
        Err(error) => error,
    }
}

/// The commands of a line in plain ASCII: name, parameters and literal values.
fn plain(text: &str) -> String {
    use crate::lang::ast::{Argument, Element, ExprKind, Statement};
    let source = Source::new(text, None);
    let script = parse(&source).unwrap();
    let value = |kind: &ExprKind, span| match kind {
        ExprKind::Text(text) => format!("'{text}'"),
        _ => source.slice(span).to_owned(),
    };
    let mut commands = Vec::new();
    for statement in &script.body.statements {
        let Statement::Pipeline(pipeline) = statement else { panic!("{statement:?}") };
        for element in &pipeline.elements {
            let Element::Command(command) = element else { panic!("{element:?}") };
            let mut words = vec![source.slice(command.name.span).to_owned()];
            for argument in &command.arguments {
                words.push(match argument {
                    Argument::Value(v) => value(&v.kind, v.span),
                    Argument::Parameter { name, value: None, .. } => format!("-{name}"),
                    other => panic!("{other:?}"),
                });
            }
            commands.push(words.join(" "));
        }
    }
    commands.join(" | ")
}

#[test]
fn commands_pasted_from_a_page() {
    let cases = [
        ("Get-VMProcessor -VMName Server2016 | fl *", "Get-VMProcessor -VMName 'Server2016' | fl '*'"),
        (
            "Set-VMProcessor -VMName Server2016 -ExposeVirtualizationExtensions $true",
            "Set-VMProcessor -VMName 'Server2016' -ExposeVirtualizationExtensions $true",
        ),
        (
            "Get-VMNetworkAdapter -VMname Server2016 | Set-VMNetworkAdapter -MacAddressSpoofing On",
            "Get-VMNetworkAdapter -VMname 'Server2016' | Set-VMNetworkAdapter -MacAddressSpoofing 'On'",
        ),
        (
            "New-VMSwitch -Name “NAT-Switch” -SwitchType Internal",
            "New-VMSwitch -Name 'NAT-Switch' -SwitchType 'Internal'",
        ),
        (
            "New-NetNat -Name “NAT-net” –InternalIPInterfaceAddressPrefix ‘192.168.100.0/24’",
            "New-NetNat -Name 'NAT-net' -InternalIPInterfaceAddressPrefix '192.168.100.0/24'",
        ),
        ("Get-NetAdapter | ft -Autosize", "Get-NetAdapter | ft -Autosize"),
        (
            "Get-NetAdapter “vEthernet (NAT-Switch)” | New-NetIPAddress -IPAddress 192.168.100.1 -AddressFamily IPv4 -PrefixLength 24",
            "Get-NetAdapter 'vEthernet (NAT-Switch)' | New-NetIPAddress -IPAddress '192.168.100.1' -AddressFamily 'IPv4' -PrefixLength 24",
        ),
        (
            "Get-VM\u{a0}C:\\VMs\\a_b.vhdx https://x/y?z=1#t a,b",
            "Get-VM 'C:\\VMs\\a_b.vhdx' 'https://x/y?z=1#t' a,b",
        ),
        ("%{1};?{2}", "% {1} | ? {2}"),
    ];
    for (pasted, expected) in cases {
        assert_eq!(plain(pasted), expected);
    }
}

#[test]
fn errors_mark_the_place() {
    assert_eq!(
        error("Get-VM (1 + ]").to_string(),
        "At line:1 char:13\n+ Get-VM (1 + ]\n+             ~\nYou must provide a value expression following the '+' \
         operator.\n    + CategoryInfo          : ParserError: (:) [], ParentContainsErrorRecordException\n    \
         + FullyQualifiedErrorId : ExpectedValueExpression"
    );
    let cases = [
        ("1 1", "UnexpectedToken"),
        ("a && b", "InvalidEndOfLine"),
        ("a > b", "NotSupported"),
        ("a | 5", "ExpressionsMustBeFirstInPipeline"),
        ("a | | b", "EmptyPipeElement"),
        ("a ,", "MissingArgument"),
        ("if ($x) 5", "MissingStatementBlock"),
        ("if $x {}", "MissingOpenParenthesisAfterKeyword"),
        ("switch ($x) {}", "NotSupported"),
        ("function f {}", "NotSupported"),
        ("try { } catch { }", "NotSupported"),
        ("$x.Foo()", "NotSupported"),
        ("[math]::Pi", "NotSupported"),
        ("[guid]'x'", "NotSupported"),
        ("$x.y = 1", "NotSupported"),
        ("$env:HOME", "NotSupported"),
        ("\"$x: y\"", "InvalidVariableReferenceWithDrive"),
        ("1 = 2", "InvalidLeftHandSide"),
        ("@{a}", "MissingEqualsInHashLiteral"),
        ("1 -foo 2", "UnexpectedToken"),
        ("$x[]", "MissingArrayIndexExpression"),
        (")", "UnexpectedToken"),
        ("}", "UnexpectedToken"),
        ("a -x:", "ParameterRequiresArgument"),
        (". x", "NotSupported"),
        ("a -- b", "NotSupported"),
        ("foreach (1 in 2) {}", "MissingVariableNameAfterForeach"),
    ];
    for (text, id) in cases {
        let error = error(text);
        assert_eq!(error.id, id, "{text}: {error}");
        assert!(!error.incomplete, "{text}");
    }
}

#[test]
fn an_unfinished_text_asks_for_more() {
    for text in [
        "if ($x) {",
        "foreach ($i in 1..3) {\n$i",
        "'abc",
        "\"abc $(1",
        "@\"\nx",
        "@{ a = 1",
        "@(1,",
        "1 +",
        "a |",
        "a `",
        "(1",
        "$x[1",
        "<# x",
        "if ($x)",
        "$x =",
        "{",
        "$(",
        "@{a =",
        "“x",
        "-not",
        "[int]",
    ] {
        assert!(error(text).incomplete, "{text}: {}", error(text));
    }
}

#[test]
fn nesting_is_limited() {
    for open in ["(", "@(", "$(", "{", "!", "- ", "[int]", "\"$(", "@{a=", "if (1) {", ",", "$x["] {
        for count in [200, 100_000] {
            let error = error(&open.repeat(count));
            assert_eq!(error.id, "ScriptTooComplicated", "{open}");
        }
    }
    let closed = format!("{}1{}", "(".repeat(20), ")".repeat(20));
    assert!(parse(&Source::new(closed, None)).is_ok());
    // Long chains are wide, not deep.
    let chain = format!("1{}", " + 1".repeat(50_000));
    assert!(parse(&Source::new(chain, None)).is_ok());
    assert_eq!(error(&" ".repeat(MAX_SOURCE_BYTES + 1)).id, "ScriptTooLarge");
}

proptest! {
    #[test]
    fn any_text_is_harmless(text in "\\PC{0,60}") {
        if let Err(error) = parse(&Source::new(text, None)) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn any_mix_of_tokens_is_harmless(parts in prop::collection::vec(prop::sample::select(TOKENS), 0..30)) {
        if let Err(error) = parse(&Source::new(parts.concat(), None)) {
            let _ = error.to_string();
        }
    }
}

const TOKENS: &[&str] = &[
    "$", "$x", "@", "(", ")", "{", "}", "[", "]", "'", "\"", "`", "\n", "\r\n", " ", "|", ";", ",", ".",
    "..", "-", "–", "-eq", "if", "foreach", "in", "while", "for", "1", "0x", "1GB", "<#", "#>", "#", "@'",
    "'@", "@\"", "\"@", "=", "+=", "++", "&", "a", "-Name:", "“", "’", "é", "😀", "param", "else", "::",
    "$(", "${", "!", "%", "?",
];

//! Scripts and what they print.

use crate::testing::run;

/// Runs a script that must print this and no error.
fn check(script: &str, expected: &str) {
    let result = run(script);
    assert_eq!(result.talk, "", "{script}");
    assert_eq!(result.data.trim_end_matches('\n'), expected, "{script}");
    assert!(!result.outcome.had_errors);
}

/// Runs a script that must print this error, and this data.
fn check_error(script: &str, data: &str, talk: &str) {
    let result = run(script);
    assert_eq!(result.talk.trim_end_matches('\n'), talk, "{script}");
    assert_eq!(result.data.trim_end_matches('\n'), data, "{script}");
    assert!(result.outcome.had_errors);
    assert_eq!(result.outcome.status(), 1);
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

#[test]
fn comparison() {
    check("1 -eq 1; 1 -ne 1; 2 -gt 1; 2 -ge 2; 1 -lt 1; 1 -le 1", "True\nFalse\nTrue\nTrue\nFalse\nTrue");
    check("'a' -eq 'A'; 'a' -ceq 'A'; 'a' -ieq 'A'; 'a' -cne 'A'", "True\nFalse\nTrue\nTrue");
    check("'5' -eq 5; 5 -eq '5'; 10 -gt '9'; '10' -gt 9", "True\nTrue\nTrue\nFalse");
    check("'Server2016' -like 'server*'; 'x' -notlike 'y*'; 'abc' -like 'a[b-d]?'", "True\nTrue\nTrue");
    check(
        "'Abc' -clike 'a*'; 'abc' -match '^A'; 'abc' -cmatch '^A'; 'abc' -notmatch 'z'",
        "False\nTrue\nFalse\nTrue",
    );
    check("1,2,3 -contains 2; 1,2 -notcontains 3; 2 -in 1,2; 3 -notin 1,2", "True\nTrue\nTrue\nTrue");
    check("1,2,3,2 -eq 2; 'a','b' -like 'a*'; 1..5 -gt 3", "2\n2\na\n4\n5");
    check("$true -eq 'x'; $null -eq $null; $null -eq 0; 0 -eq $null", "True\nTrue\nFalse\nFalse");
    check(
        "$true –and $false; $true -or $false; $true -xor $true; -not $true; !$false",
        "False\nTrue\nFalse\nFalse\nTrue",
    );
    check("$false -and (1/0); $true -or (1/0)", "False\nTrue");
    check("1 –eq 1; 2 —gt 1", "True\nTrue");
    check("'vm12' -match '(\\d+)' | Out-Null; $Matches[1]; $Matches[0]", "12\n12");
}

#[test]
fn text_operators() {
    check("'{0} has {1:N2} of {2,5}|{3,-4}|' -f 'x', 1234.5, 7, 'y'", "x has 1,234.50 of     7|y   |");
    check("'{0:D3} {1:X} {2:F1} {3:P0} {{}}' -f 7, 255, 2.25, 0.5", "007 FF 2.3 50 % {}");
    check("'{0:0.00} {1:#,##0} {2:000}' -f 1.5, 1234567, 7", "1.50 1,234,567 007");
    check("1,2,3 -join '-'; -join ('a','b')", "1-2-3\nab");
    check("'a,b;c' -split '[,;]'; -split ' x  y '; 'a-b-c' -split '-', 2", "a\nb\nc\nx\ny\na\nb-c");
    check("'a1b2' -split '(\\d)'", "a\n1\nb\n2");
    check(
        "'Hello' -replace 'l+', 'L'; 'hello' -creplace 'H', 'j'; 'ab' -replace '(a)(b)', '$2$1$$'",
        "HeLo\nhello\nba$",
    );
    check("'a1' -replace '(?<n>\\d)', '<${n}>'; ('x' -replace 'x').Length", "a<1>\n0");
}

#[test]
fn strings() {
    check("$x = 5; \"$x $($x + 1) `$x ${x}y `\"q`\"\"; '$x ''y'''", "5 6 $x 5y \"q\"\n$x 'y'");
    check("$o = [pscustomobject]@{A=1}; \"$o.A $($o.A)\"", "@{A=1}.A 1");
    check("\"a`tb\"; \"1\"\"2\"; \"100%\"; \"cost: $ 5\"", "a\tb\n1\"2\n100%\ncost: $ 5");
    check(
        "“NAT-Switch”; ‘192.168.100.0/24’; „x“; 'it’’s'; \"a““b\"",
        "NAT-Switch\n192.168.100.0/24\nx\nit’s\na“b",
    );
    check("@\"\nline 1 $(1+1)\nline \"2\"\n\"@; @'\n$x\n'@", "line 1 2\nline \"2\"\n$x");
    check("$a = 1,2,3; \"$a\"; \"$($a[0])\"; \"$true $null|\"", "1 2 3\n1\nTrue |");
    check("Write-Output a\"b c\"d`e 'x'\"y\".Length", "ab cde\nx\n1");
}

#[test]
fn values_and_variables() {
    check("$a = 1; $A += 2; $a; $a -= 1; $a *= 5; $a; $a++; $a; $a--; $a", "3\n10\n11\n10");
    check("$a = 1,2,3; $a[0]; $a[-1]; $a[1,2]; $a.Count; $a[9]; @().Count", "1\n3\n2\n3\n3\n0");
    check(
        "$h = @{a = 1; 'b c' = 2\nd = @(3)}; $h.a; $h['b c']; $h.Count; $h.Keys -join ','",
        "1\n2\n3\na,b c,d",
    );
    check("$a, $b = 1, 2, 3; $a; $b -join '+'", "1\n2+3");
    check("@(1).Count; @(1,2 | % { $_ }).Count; (1..5).Length; 'abc'.Length; (5).Count", "1\n2\n5\n3\n1");
    check("5..1; 'x'[0]; (1..3 | % { $_ * 2 })[1]", "5\n4\n3\n2\n1\nx\n4");
    check("[int]'5' + 1; [string]5 + 1; [bool]0; [int]2.5; [array]1 | % { $_ }", "6\n51\nFalse\n2\n1");
    check("$x = $null; $null = 5; $x; $PSItem; 1 | % { $PSItem }", "1");
    check("($x = 3) + 1; $x", "4\n3");
    check("$b = { param($p, $q = 7) \"$p $q $args\" }; & $b 1; & $b 1 2 3", "1 7 \n1 2 3");
    check("$o = @{n='x'}, @{n='y'}; $o.n", "x\ny");
    check("\"$((Get-Date).GetType)\"", "");
    check(".5 + .25", "0.75");
}

#[test]
fn statements() {
    check("if (1 -gt 2) { 'a' } elseif ($true) { 'b' } else { 'c' }", "b");
    check("if ($false) { 1 }\nelse\n{ 2 }", "2");
    check("foreach ($i in 1..3) { if ($i -eq 2) { continue }; $i }", "1\n3");
    check("$i = 0; while ($true) { $i++; if ($i -gt 3) { break } }; $i", "4");
    check("for ($i = 0; $i -lt 3; $i++) { $i }", "0\n1\n2");
    check("1..3 |\n  % { $_ } | # comment\n  Sort-Object `\n  -Descending <# block #>", "3\n2\n1");
    check("if (1) { 1 } foreach ($i in 2) { $i } 3", "1\n2\n3");
    check("Write-Output a`\n b; Write-Output c`\r\n", "a\nb\nc");
    check("1; exit 3; 2", "1");
    assert_eq!(run("exit 3").outcome.status(), 3);
    check("& { return 5; 6 }; 7", "5\n7");
    check("# only a comment", "");
    check("\r\n1\r\n2\r\n", "1\n2");
    check("foreach ($x in $null) { 1 }; $null | % { 2 }; @() | % { 3 }", "2");
    check("$p = @{ InputObject = 3,1,2; Descending = $true }; Sort-Object @p", "3\n2\n1");
}

#[test]
fn cmdlets_of_the_language() {
    check("1..5 | ? { $_ % 2 } | select -First 2", "1\n3");
    check(
        "1..9 | select -Last 2; 1..9 | select -Skip 7; 1..9 | select -Skip 1 -First 2; 5..9 | select -Index 0,2",
        "8\n9\n8\n9\n2\n3\n5\n7",
    );
    check("'b','a','B' | sort -Unique; 3,10,2 | sort -Descending", "a\nb\n10\n3\n2");
    check("@{a=1;b=2},@{a=3;b=1} | % { [pscustomobject]$_ } | sort b | % a", "3\n1");
    check("@{a=1;b=2},@{a=3;b=1} | % { [pscustomobject]$_ } | where a -gt 1 | % b", "1");
    check("(1..4 | measure -Sum -Average -Maximum).Average; (1..4 | measure -sum).Sum", "2.5\n10");
    check("1,2 | Out-Null; Write-Host 'x' 1; 'y' | Write-Output", "x 1\ny");
    check("'a' | select @{n='L';e={$_.Length}} | ConvertTo-Json -Compress", "{\"L\":1}");
    check(
        "'[1,{\"a\":[true,null,1.5]}]' | ConvertFrom-Json | ConvertTo-Json -Compress",
        "[1,{\"a\":[true,null,1.5]}]",
    );
    check(
        "@{a=@{b=@{c=@{d=1}}}} | ConvertTo-Json -Compress -Depth 1",
        "{\"a\":{\"b\":\"System.Collections.Hashtable\"}}",
    );
    check("1..6 | group { $_ % 2 } | % { \"$($_.Name)=$($_.Count)\" }", "1=3\n0=3");
    check("Get-Command *-Json | % Name", "ConvertFrom-Json\nConvertTo-Json");
    check("1,1,2 | Select-Object -Unique", "1\n2");
    check("Sort-Object -InputObject 2,1 -Desc:$false", "1\n2");
}

#[test]
fn errors_of_commands() {
    check_error(
        "Get-Foo -Bar; 'next'",
        "next",
        "Get-Foo : The term 'Get-Foo' is not recognized as the name of a cmdlet, function, script file, or operable \
         program. Check the spelling of the name, or if a path was included, verify that the path is correct and try \
         again.\nAt line:1 char:1\n+ Get-Foo -Bar; 'next'\n+ ~~~~~~~\n    + CategoryInfo          : ObjectNotFound: \
         (Get-Foo:String) [], CommandNotFoundException\n    + FullyQualifiedErrorId : CommandNotFoundException",
    );
    check_error(
        "1 | Sort-Object –Foo 1",
        "",
        "Sort-Object : A parameter cannot be found that matches parameter name 'Foo'.\nAt line:1 char:17\n\
         + 1 | Sort-Object –Foo 1\n+                 ~~~~\n    + CategoryInfo          : InvalidArgument: (:) \
         [Sort-Object], ParameterBindingException\n    + FullyQualifiedErrorId : \
         NamedParameterNotFound,Microsoft.PowerShell.Commands.SortObjectCommand",
    );
    let id = |script: &str| {
        let talk = run(script).talk;
        let id = talk
            .lines()
            .find_map(|line| line.split_once("FullyQualifiedErrorId : "))
            .map(|(_, id)| id.to_owned());
        id.unwrap_or_else(|| panic!("{script}: {talk}")).split(',').next().unwrap().to_owned()
    };
    assert_eq!(id("1 | select -S 1 -E x"), "AmbiguousParameter");
    assert_eq!(id("Start-Sleep x"), "CannotConvertArgumentNoMessage");
    assert_eq!(id("Start-Sleep -Seconds"), "MissingArgument");
    assert_eq!(id("Start-Sleep -1"), "ParameterArgumentValidationError");
    assert_eq!(id("Start-Sleep"), "MissingMandatoryParameter");
    assert_eq!(id("Start-Sleep 1 2"), "PositionalParameterNotFound");
    assert_eq!(id("Start-Sleep -Seconds 1 -Seconds 2"), "ParameterAlreadyBound");
    assert_eq!(id("Start-Sleep -Seconds 1 -Milliseconds 2"), "AmbiguousParameterSet");
    assert_eq!(id("1 | sort -Descending:x"), "ParameterArgumentTransformationError");
    assert_eq!(id("Write-Error ''"), "ParameterArgumentValidationErrorEmptyStringNotAllowed");
    assert_eq!(id("Write-Error $null"), "ParameterArgumentValidationErrorNullNotAllowed");
    assert_eq!(id("Write-Error x -ErrorAction y"), "CannotConvertArgumentNoMessage");
    assert_eq!(id("1/0"), "RuntimeException");
    assert_eq!(id("$n[0]"), "NullArray");
    assert_eq!(id("'a' -match '('"), "InvalidRegularExpression");
    assert_eq!(id("'{1}' -f 1"), "FormatError");
    assert_eq!(id("1 - 'x'"), "InvalidCastFromStringToInteger");
    assert_eq!(id("@{} * 2"), "MethodNotFound");
    assert_eq!(id("$b = { & $b }; & $b"), "CallDepthOverflow");
    assert_eq!(id("1..99999999"), "ArrayTooLarge");
    assert_eq!(id("'x' * 999999999"), "StringTooLarge");
    assert_eq!(id("$a = 1; foreach ($i in 1..100) { $a = ,$a }"), "ValueTooDeep");
    assert_eq!(id("$true = 1"), "VariableNotWritable");
}

#[test]
fn error_action() {
    check_error(
        "Write-Error a; 'next'",
        "next",
        &run("Write-Error a").talk.trim_end().replace("+ Write-Error a", "+ Write-Error a; 'next'"),
    );
    assert_eq!(run("Write-Error a -ErrorAction Stop; 'next'").data, "");
    assert_eq!(run("$ErrorActionPreference = 'Stop'; Write-Error a; 'next'").data, "");
    check("Write-Error a -ea SilentlyContinue; $?; 'next'", "False\nnext");
    check("1..2 | % { Write-Error $_ -ea ignore; $_ }", "1\n2");
    assert_eq!(run("1..2 | % { 1/0; $_ }").data, "1\n2\n");
}

#[test]
fn the_deepest_scripts_fit_the_stack() {
    let nested =
        |open: &str, count: usize, close: &str| format!("{}1{}", open.repeat(count), close.repeat(count));
    for (open, close) in [
        ("(", ")"),
        ("@(", ")"),
        ("$(", ")"),
        ("\"$(", ")\""),
        ("1 | % { ", " }"),
        ("& { ", " }"),
        ("if (1) { ", " }"),
        ("1 | ? { ", " }"),
        ("(1 | % { ", " })"),
        ("foreach ($i in 1) { ", " }"),
        ("@{a=", "}"),
        ("-not (", ")"),
    ] {
        for count in 1..64 {
            run(&nested(open, count, close));
        }
    }
    for inner in [
        "& $b",
        "(& $b)",
        "((((& $b))))",
        "\"$(& $b)\"",
        "1 | % { & $b }",
        "@{a=@(if ((& $b)) { 1 })}",
        "1 | ? { (& $b) }",
    ] {
        let ran = run(&format!("$b = {{ {inner} }}; & $b"));
        assert!(ran.talk.contains("CallDepthOverflow"), "{inner}");
    }
}

#[test]
fn cancelled_scripts_leave_nothing_behind() {
    use crate::frame::Registry;
    use std::{sync::Arc, time::Duration};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut engine = crate::Engine::new(Arc::new(Registry::<()>::with_core()), (), crate::testing::memory());
    runtime.block_on(async {
        for script in ["$x = 7; while ($true) {}", "$y = 1..3 | % { & { while (1) { } } }"] {
            let run = tokio::time::timeout(Duration::from_millis(50), engine.run(script, None));
            assert!(run.await.is_err());
        }
        assert!(!engine.run("$x", None).await.had_errors);
    });
    assert_eq!(engine.variable("x").to_text(), "7");
}

#[test]
fn blocks_elsewhere_see_their_own_variables() {
    use crate::frame::{Cmdlet, Impact, Input, Kind, Parameter, Registry};
    use crate::value::Value;
    use std::sync::Arc;
    let mut registry = Registry::<String>::with_core();
    registry.add([
        Cmdlet {
            name: "Get-Place",
            aliases: &[],
            class: "Test",
            summary: "",
            parameters: &[],
            input: Input::EachRecord,
            impact: Impact::None,
            views: &[],
            examples: &[],
            run: |call: &mut crate::frame::Call<'_, String>| {
                Box::pin(async move {
                    let place = call.context().clone();
                    call.emit(place);
                    Ok(())
                })
            },
        },
        Cmdlet {
            name: "Invoke-There",
            aliases: &[],
            class: "Test",
            summary: "",
            parameters: const {
                &[
                    Parameter::new("Block", Kind::ScriptBlock, "").at(0).mandatory(),
                    Parameter::new("ArgumentList", Kind::List, ""),
                ]
            },
            input: Input::All,
            impact: Impact::None,
            views: &[],
            examples: &[],
            run: |call: &mut crate::frame::Call<'_, String>| {
                Box::pin(async move {
                    let block = call.block("Block").unwrap();
                    let place = format!("{}/L1", call.context());
                    let arguments = call.list("ArgumentList").to_vec();
                    let written = call.invoke_in(place, &block, arguments).await?;
                    call.emit_items(Value::Array(written));
                    Ok(())
                })
            },
        },
    ]);
    let ran = crate::testing::run_in(
        Arc::new(registry),
        "L0".to_owned(),
        "$x = 5; Invoke-There { Get-Place; \"[$x]$using:x $args\"; $y = 6; Invoke-There { Get-Place; $using:y } } -Arg 1, 2; Get-Place",
        None,
    );
    assert_eq!(ran.talk, "");
    assert_eq!(ran.data, "L0/L1\n[]5 1 2\nL0/L1/L1\n6\nL0\n");
    assert!(run("$x = 1; $using:x").talk.contains("UsingVariableIsUndefined"));
}

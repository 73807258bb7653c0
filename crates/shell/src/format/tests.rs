use crate::testing::run;

fn check(script: &str, expected: &str) {
    let result = run(script);
    assert_eq!(result.talk, "", "{script}");
    assert_eq!(result.data, expected, "{script}");
}

const TWO: &str = "$o = [pscustomobject]@{Name='a'; Count=1}, [pscustomobject]@{Name='long name'; Count=22};";

#[test]
fn tables() {
    check(
        &format!("{TWO} $o | ft -AutoSize"),
        "\nName      Count\n----      -----\na             1\nlong name    22\n\n",
    );
    // Without widths, columns share the line.
    let wide = format!(
        "\nName{}Count\n----{}-----\na{}1\nlong name{}22\n\n",
        " ".repeat(111),
        " ".repeat(111),
        " ".repeat(118),
        " ".repeat(109)
    );
    check(&format!("{TWO} $o"), &wide);
    check(&format!("{TWO} $o | Format-Table"), &wide);
    check(&format!("{TWO} $o | ft Name -AutoSize -HideTableHeaders"), "\na\nlong name\n\n");
    check(
        "1,2 | ft @{n='N'; e={ $_ }; width=4}, @{Label='Squared'; Expression={ $_ * $_ }; Alignment='left'; width=4}",
        "\n   N S...\n   - ----\n   1 1\n   2 4\n\n",
    );
    check(
        "[pscustomobject]@{A='one two three four'; B=$true} | ft @{e='A';width=9}, B -Wrap",
        "\nA         B\n-         -\none two   True\nthree\nfour\n\n",
    );
    check(
        "[pscustomobject]@{A=1,2,3,4,5; B=@()} | ft -a",
        "\nA               B\n-               -\n{1, 2, 3, 4...} {}\n\n",
    );
    check(
        "@{k='v'}",
        "\nName                           Value\n----                           -----\nk                              v\n\n",
    );
}

#[test]
fn rows_of_later_statements_continue_a_table() {
    check(
        "Get-Command Out-Null; Get-Command Out-Host",
        "\nCommandType     Name                                Summary\n-----------     ----                                -------\n\
         Cmdlet          Out-Null                            Throws objects away.\n\
         Cmdlet          Out-Host                            Prints objects at once instead of passing them on.\n\n",
    );
    check(
        "@{a=1}; Write-Host 'x'; @{b=2}; 5",
        "\nName                           Value\n----                           -----\na                              1\n\nx\n\
         \nName                           Value\n----                           -----\nb                              2\n\n5\n",
    );
}

#[test]
fn lists() {
    check(
        "[pscustomobject]@{Name='x'; Long=$true; Items='a','b'}, [pscustomobject]@{Name='y'; Long=$false; Items=@()} | fl",
        "\nName  : x\nLong  : True\nItems : {a, b}\n\nName  : y\nLong  : False\nItems : {}\n\n",
    );
    check("[pscustomobject]@{A=1;B=2;C=3;D=4;E=$null}", "\nA : 1\nB : 2\nC : 3\nD : 4\nE :\n\n");
    check("[pscustomobject]@{Aa=1;Ab=2;C=3} | fl a*", "\nAa : 1\nAb : 2\n\n");
    check("[pscustomobject]@{Aa=1;Ab=2;C=3} | fl C, nope", "\nC    : 3\nnope :\n\n");
    check("1,'a' | fl *", "1\na\n");
    check(
        "[pscustomobject]@{T='aaaa bbbb cccc dddd'} | fl | Out-String -Width 14",
        "\nT : aaaa bbbb\n    cccc dddd\n\n\n",
    );
}

#[test]
fn columns_that_do_not_fit_are_left_out() {
    check(
        "[pscustomobject]@{First='aaaaaaaaaa'; Second='bbbbbbbbbb'; Third='cc'} | ft -a | Out-String -Width 15 -Stream | ? { $_ }",
        "First      S...\n-----      ----\naaaaaaaaaa b...\n",
    );
}

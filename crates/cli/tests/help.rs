//! The help of every command, as a contract: what changes here changes for users.
//!
//! Accept a change on purpose with `INSTA_UPDATE=always cargo test -p nestling --test help`.

use std::process::Command;

fn help(path: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nestling"))
        .args(path)
        .arg("-h")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .env_remove("NESTLING_HOME")
        .output()
        .expect("nestling runs");
    assert!(output.status.success(), "{path:?}");
    let text = String::from_utf8(output.stdout).expect("help is UTF-8");
    // Where an option has no words, clap leaves the blanks before them.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|c| *c != "help")
        .map(str::to_owned)
        .collect()
}

fn collect(path: &[String], out: &mut Vec<(String, String)>) {
    let text = help(path);
    let below = commands(&text);
    out.push((path.join(" "), text));
    for command in below {
        collect(&[path, &[command]].concat(), out);
    }
}

#[test]
fn every_command_explains_itself_and_its_exit_status() {
    let mut all = Vec::new();
    collect(&[], &mut all);
    assert!(all.len() > 50, "{} commands", all.len());
    let mut book = String::new();
    for (path, text) in &all {
        assert!(
            text.contains("\nEXIT STATUS:\n  0  ") || text.contains("EXIT STATUS:\n  that of the program"),
            "{path}"
        );
        let title = format!("nestling {path}");
        book.push_str(&format!("== {}\n\n{}\n", title.trim_end(), without_global_options(text)));
    }
    insta::assert_snapshot!(book);
}

/// What all commands have in common is shown once, with the program's own help.
fn without_global_options(text: &str) -> String {
    match text.split_once("\nGlobal options:\n") {
        Some((before, after)) if !text.contains("\n  shell ") => {
            let rest = after.split_once("\n\n").map_or("", |(_, rest)| rest);
            format!("{before}\n{rest}")
        }
        _ => text.to_owned(),
    }
}

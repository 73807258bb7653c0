//! The user guide's commands, in the guide's order.

use std::path::Path;

use crate::nest::{Nest, Said};

/// Lines of the blocks marked `sh`.
fn commands(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => found.push(command),
            _ => {}
        }
    }
    found
}

#[test]
fn every_command_of_the_guide_works() {
    let nest = Nest::new("guide");
    // The guide builds it where there is a network; here there is none.
    nest.image("pebble");
    let guide = include_str!("../../../../docs/guide.md");
    let program = Path::new(env!("CARGO_BIN_EXE_nestling")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let commands = commands(guide);
    assert!(commands.len() > 30, "the guide was not found");
    for command in commands {
        let mut shell = nest.command_as("sh -c", [command]);
        shell.current_dir(&nest.home).env("PATH", &path).env("NESTLING_VAULT_PASSWORD", "a password");
        let said: Said = shell.output().expect("sh runs").into();
        assert_eq!(said.status, 0, "{command}\n{}\n{}\n{}", said.stdout, said.stderr, nest.tail());
    }
}

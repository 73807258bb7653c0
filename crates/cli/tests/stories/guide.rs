//! The user guide's commands, in the guide's order.

use std::path::Path;

use crate::nest::{Nest, Said};

/// The blocks marked `sh`.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("\n```"))
        .map(|(block, _)| block)
        .collect()
}

#[test]
fn every_command_of_the_guide_works() {
    let nest = Nest::new("guide");
    // The guide builds it where there is a network; here there is none.
    nest.image("pebble");
    let guide = include_str!("../../../../docs/guide.md");
    let protection = include_str!("../../../../docs/protection.md");
    let (before, tidying_up) = guide.split_once("\n## Tidying up\n").expect("the guide's end");
    let program = Path::new(env!("CARGO_BIN_EXE_nestling")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let blocks: Vec<&str> = [before, protection, tidying_up].into_iter().flat_map(blocks).collect();
    let commands = blocks.iter().flat_map(|block| block.lines()).count();
    assert!(blocks.len() > 8 && commands > 50, "the guide was not found");
    for block in blocks {
        // One shell for each: what is mounted, or runs beside, is there for the next line. It tells each line first.
        let mut shell = nest.command_as("sh -exc", [block]);
        shell.current_dir(&nest.home).env("PATH", &path).env("NESTLING_VAULT_PASSWORD", "a password");
        let said: Said = shell.output().expect("sh runs").into();
        assert_eq!(said.status, 0, "{block}\n{}\n{}\n{}", said.stdout, said.stderr, nest.tail());
    }
}

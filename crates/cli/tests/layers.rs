//! Which crate may import which, as data, and ARCHITECTURE.md in step with it.

use std::{fs, path::PathBuf};

use cargo_metadata::MetadataCommand;

/// A crate, what it may import of ours, and why nothing else. In ARCHITECTURE.md's order: none imports one
/// that stands below it.
const LAYERS: &[(&str, &[&str], &str)] = &[
    ("model", &[], "rules that need nothing but values can be tested without a machine"),
    ("block", &["model"], "it moves bytes of disks, whoever they belong to"),
    (
        "explore",
        &["model", "block"],
        "it reads file systems on any disk, whoever asks and wherever the disk lies",
    ),
    (
        "exchange",
        &["block"],
        "it reads descriptions of machines, whoever wrote them and whatever becomes of them",
    ),
    ("vault", &["model", "block"], "it keeps disks, whoever they belong to and whatever runs them"),
    ("mount", &["block", "vault"], "it shows what a vault holds, to whoever mounts it"),
    ("hypervisor", &["model"], "it is the only crate that knows QEMU, and knows nothing else"),
    ("network", &["model"], "it plans and applies Linux networks, whatever is plugged into them"),
    ("image", &["model"], "it builds disks, whoever boots them"),
    ("store", &["model"], "it keeps records, whatever they mean"),
    ("identity", &["model"], "it decides who may do what, and never acts"),
    (
        "node",
        &[
            "model",
            "block",
            "explore",
            "exchange",
            "vault",
            "hypervisor",
            "network",
            "image",
            "store",
            "identity",
        ],
        "use cases join the crates above, and know nothing of how they are asked for",
    ),
    (
        "api",
        &["model", "hypervisor", "identity", "node"],
        "it speaks HTTP for the node, the guest channel included",
    ),
    ("shell", &["model", "api"], "it can do nothing that the API cannot"),
    (
        "cli",
        &["model", "block", "explore", "vault", "mount", "node", "api", "shell"],
        "it wires the program and holds no logic; the vault's commands work without a node",
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The crate's name in ARCHITECTURE.md: its directory.
fn short(package: &str) -> Option<&str> {
    if package == "nestling" { Some("cli") } else { package.strip_prefix("nestling-") }
}

#[test]
fn crates_import_only_what_they_may() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = short(&package.name).expect("a crate of ours is called nestling-...");
        let Some((_, allowed, why)) = LAYERS.iter().find(|(layer, ..)| *layer == name) else {
            wrong.push(format!("{name} has no place in LAYERS and ARCHITECTURE.md"));
            continue;
        };
        for dependency in package.dependencies.iter().filter_map(|d| short(&d.name)) {
            if !allowed.contains(&dependency) {
                wrong.push(format!("{name} must not import {dependency}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(metadata.packages.len(), LAYERS.len(), "LAYERS has a crate that does not exist");
}

#[test]
fn no_crate_may_import_one_below_it() {
    for (i, (name, allowed, _)) in LAYERS.iter().enumerate() {
        for import in *allowed {
            assert!(LAYERS[..i].iter().any(|(above, ..)| above == import), "{name} imports {import}");
        }
    }
}

#[test]
fn every_crate_has_a_paragraph_with_an_invariant() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let sections: Vec<&str> = text.split("\n### ").skip(1).collect();
    let described: Vec<&str> =
        sections.iter().filter_map(|s| s.strip_prefix('`')?.split_once('`')).map(|s| s.0).collect();
    let expected: Vec<&str> = LAYERS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(described, expected, "the crates of ARCHITECTURE.md, in order");
    for section in sections.iter().filter(|s| s.starts_with('`')) {
        let own = section.split("\n## ").next().unwrap_or_default();
        assert!(own.lines().any(|line| line.starts_with("**Invariant:**")), "no invariant: {own}");
    }
}

/// The paths that ARCHITECTURE.md names exist, so that it cannot go stale unnoticed.
#[test]
fn every_path_that_is_named_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let missing: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            ["crates/", "docs/", "scripts/", "walkthrough/"].iter().any(|dir| word.starts_with(dir))
        })
        .filter(|path| !root().join(path).exists())
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not there: {missing:?}");
}

//! The repository's own text: files that stay small, lines without blanks at their end.

use std::{
    fs,
    path::{Path, PathBuf},
};

const FILE_LINES_MAX: usize = 600;

/// What is made by programs, or must stay as it was written elsewhere.
const NOT_OURS: &[&str] = &["Cargo.lock", "LICENSE", "openapi.json"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// All text files, with their path in the repository.
fn texts() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut found = Vec::new();
    collect(&root, &mut found);
    for (path, _) in &mut found {
        *path = path.strip_prefix(&root).expect("below the root").to_owned();
    }
    assert!(found.len() > 50, "the repository was not found");
    found
}

fn collect(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    let mut entries: Vec<_> = fs::read_dir(directory).expect("a directory").flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            if !["target", ".git", ".demo", "proptest-regressions"].iter().any(|skipped| name == *skipped) {
                collect(&path, found);
            }
        } else if kind.is_file()
            && !NOT_OURS.iter().any(|other| name == *other)
            && path.extension().is_none_or(|e| e != "snap")
        {
            // What is not UTF-8 is no text.
            found.extend(fs::read_to_string(&path).ok().map(|text| (path, text)));
        }
    }
}

#[test]
fn files_stay_small() {
    let large: Vec<String> = texts()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(large.is_empty(), "split what has more than {FILE_LINES_MAX} lines:\n{}", large.join("\n"));
}

#[test]
fn no_line_ends_with_a_blank() {
    let mut blanks = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) {
                blanks.push(format!("{}:{}", path.display(), number + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            blanks.push(format!("{}: the last line has no end", path.display()));
        }
    }
    assert!(blanks.is_empty(), "{}", blanks.join("\n"));
}

use std::path::PathBuf;

/// Why the store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the node's store {} is damaged ({detail}); stop the node, move the file away and put a copy of it back, \
         or start without it: disks and saved states stay, definitions of machines and networks are lost",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "the node's store {} was written by a newer version of nestling (schema {found}; this one knows up to \
         {supported}); use that version, nothing was changed",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, supported: i64 },
    #[error("the node's store {} is in use by another process; only one node can use a home", path.display())]
    Locked { path: PathBuf },
    #[error("the disk that holds the node's store {} is full; the change was not made", path.display())]
    Full { path: PathBuf },
    #[error("the node's store {} cannot be used", path.display())]
    Sql { path: PathBuf, source: rusqlite::Error },
    #[error("the document {kind} {id} in the node's store cannot be understood")]
    Document { kind: &'static str, id: String, source: serde_json::Error },
}

use crate::StoreError;

/// One document set (`body`) or deleted (no `body`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: &'static str,
    pub id: String,
    pub body: Option<String>,
}

/// Where documents lie.
pub trait Backend: Send {
    /// Makes all changes, in their order, or none. When it returns `Ok`, they survive a power cut.
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Ids and bodies of a kind, sorted by id.
    fn list(&self, kind: &str) -> Result<Vec<(String, String)>, StoreError>;
}

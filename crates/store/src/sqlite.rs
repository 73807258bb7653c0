//! Documents in one SQLite file.
//!
//! The write-ahead log is synced at every commit (`synchronous=FULL`), so a commit that returned survives a power cut.
//! Exclusive locking keeps other processes out for as long as the file is open, and spares the shared memory file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use crate::{Backend, Change, StoreError};

const FILE_NAME: &str = "nestling.db";

/// What brings a file from one schema to the next; the file's schema number is how many of them it has seen.
/// Never change one that was released: add another.
const MIGRATIONS: &[&str] = &["CREATE TABLE document (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID"];

pub struct SqliteBackend {
    connection: Connection,
    path: PathBuf,
}

impl SqliteBackend {
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, MIGRATIONS)
    }

    fn open_with(dir: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let failed = |e| error(&path, e);
        let mut connection = Connection::open(&path).map_err(failed)?;
        // Whoever holds the file holds it for as long as it lives: waiting would be for nothing.
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 PRAGMA cache_size=-512; BEGIN EXCLUSIVE; COMMIT;",
            )
            .map_err(failed)?;
        let finding: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if finding != "ok" {
            return Err(StoreError::Corrupt { path, detail: finding });
        }
        migrate(&mut connection, &path, migrations)?;
        Ok(Self { connection, path })
    }
}

fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let failed = |e| error(path, e);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let supported = migrations.len() as i64;
    let Some(missing) = usize::try_from(found).ok().and_then(|seen| migrations.get(seen..)) else {
        return Err(StoreError::Newer { path: path.to_owned(), found, supported });
    };
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    for step in missing {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", supported).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path, detail: source.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        _ => StoreError::Sql { path, source },
    }
}

impl Backend for SqliteBackend {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let Self { connection, path } = self;
        let failed = |e| error(path, e);
        let transaction = connection.transaction().map_err(failed)?;
        for Change { kind, id, body } in changes {
            let mut statement = transaction
                .prepare_cached(match body {
                    Some(_) => "INSERT OR REPLACE INTO document (kind, id, body) VALUES (?1, ?2, ?3)",
                    None => "DELETE FROM document WHERE kind = ?1 AND id = ?2 AND ?3 IS NULL",
                })
                .map_err(failed)?;
            statement.execute(params![kind, id, body]).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn list(&self, kind: &str) -> Result<Vec<(String, String)>, StoreError> {
        let failed = |e| error(&self.path, e);
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, body FROM document WHERE kind = ?1 ORDER BY id")
            .map_err(failed)?;
        let rows = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(id: &str, body: &str) -> Change {
        Change { kind: "thing", id: id.to_owned(), body: Some(body.to_owned()) }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        SqliteBackend::open(dir.path()).unwrap().apply(&[put("a", "1")]).unwrap();
        let again = SqliteBackend::open(dir.path()).unwrap();
        assert_eq!(again.list("thing").unwrap(), [("a".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [MIGRATIONS[0], "CREATE TABLE later (x)"];
        SqliteBackend::open_with(dir.path(), &steps).unwrap().apply(&[put("a", "1")]).unwrap();
        match SqliteBackend::open(dir.path()) {
            Err(StoreError::Newer { found: 2, supported: 1, .. }) => {}
            other => panic!("{:?}", other.err()),
        }
        assert_eq!(SqliteBackend::open_with(dir.path(), &steps).unwrap().list("thing").unwrap().len(), 1);
    }

    #[test]
    fn an_older_file_gets_the_steps_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        SqliteBackend::open(dir.path()).unwrap().apply(&[put("a", "1")]).unwrap();
        let steps = [MIGRATIONS[0], "UPDATE document SET body = body || '+'"];
        for _ in 0..2 {
            let newer = SqliteBackend::open_with(dir.path(), &steps).unwrap();
            assert_eq!(newer.list("thing").unwrap(), [("a".to_owned(), "1+".to_owned())]);
        }
    }

    #[test]
    fn a_second_opener_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = SqliteBackend::open(dir.path()).unwrap();
        assert!(matches!(SqliteBackend::open(dir.path()), Err(StoreError::Locked { .. })));
    }

    #[test]
    fn a_file_that_is_no_store_is_called_damaged_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "this was never a database, whatever its name says. ".repeat(100)).unwrap();
        let before = fs::read(&path).unwrap();
        let Err(error) = SqliteBackend::open(dir.path()) else { panic!("opened") };
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("put a copy of it back"));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn damage_in_the_middle_is_found_at_opening() {
        let dir = tempfile::tempdir().unwrap();
        {
            let mut backend = SqliteBackend::open(dir.path()).unwrap();
            let body = "x".repeat(3000);
            let changes: Vec<Change> = (0..200).map(|n| put(&format!("{n:05}"), &body)).collect();
            backend.apply(&changes).unwrap();
        }
        let path = dir.path().join(FILE_NAME);
        let mut bytes = fs::read(&path).unwrap();
        assert!(bytes.len() > 100_000);
        // The head of a page: what says where its cells are.
        bytes[8 * 4096..8 * 4096 + 64].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(SqliteBackend::open(dir.path()), Err(StoreError::Corrupt { .. })));
    }
}

//! A folder that comes whole or not at all: it is filled under a temporary name beside the one that it is to have.
//!
//! What is begun is written down first, so that a node which dies leaves nothing: the next one removes what has not got its
//! name.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nestling_store::Document;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ExchangeFailed;
use crate::{
    NodeError,
    blocking::{at_disks, blocking},
    error::Result,
    keeper::Keeper,
};

/// A folder that is being filled, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedFolder {
    pub id: Uuid,
    /// Where it is until it has its name.
    pub part: PathBuf,
}

impl Document for UnfinishedFolder {
    const KIND: &'static str = "unfinished-folder";
    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl UnfinishedFolder {
    /// Removes what a node left. Blocks.
    fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.part) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(NodeError::io("remove", &self.part)(e)),
            _ => Ok(()),
        }
    }

    /// A node that died began it.
    pub async fn forget(self, keeper: &Keeper) -> Result<()> {
        let id = self.id.to_string();
        at_disks(move |look| {
            look.at(&self.part);
            self.clear()
        })
        .await?;
        keeper.delete::<Self>(id).await
    }
}

pub struct NewFolder {
    keeper: Keeper,
    unfinished: UnfinishedFolder,
    path: PathBuf,
}

impl NewFolder {
    /// Whether a folder can be made: it must not be there, in one that is. Gives the latter.
    pub async fn check(path: &Path) -> Result<PathBuf> {
        let parent = path.parent().filter(|_| path.is_absolute() && path.file_name().is_some());
        let parent = parent.filter(|_| path.to_str().is_some()).map(Path::to_owned);
        let parent = parent.ok_or_else(|| {
            NodeError::Invalid(format!("{} is no absolute path, or not UTF-8", path.display()))
        })?;
        let path = path.to_owned();
        at_disks(move |look| {
            look.at(&path);
            if path.symlink_metadata().is_ok() {
                return Err(ExchangeFailed::FolderExists(path).into());
            }
            fs::metadata(&parent).map_err(NodeError::io("open", &parent))?;
            Ok(parent)
        })
        .await
    }

    pub async fn begin(keeper: &Keeper, path: &Path) -> Result<Self> {
        let id = Uuid::new_v4();
        let part = Self::check(path).await?.join(format!(".nestling-{}", id.simple()));
        let unfinished = UnfinishedFolder { id, part: part.clone() };
        keeper.put(&unfinished).await?;
        let folder = Self { keeper: keeper.clone(), unfinished, path: path.to_owned() };
        let made = at_disks(move |look| {
            look.at(&part);
            DirBuilder::new().mode(0o700).create(&part).map_err(NodeError::io("create", part))
        })
        .await;
        match made {
            Ok(()) => Ok(folder),
            Err(error) => {
                folder.undo().await?;
                Err(error)
            }
        }
    }

    /// Where it is filled.
    pub fn part(&self) -> &Path {
        &self.unfinished.part
    }

    /// All in it is durable: it gets its name.
    pub async fn finish(self) -> Result<()> {
        let (part, path) = (self.unfinished.part.clone(), self.path.clone());
        let named = blocking(move || {
            sync(&part)?;
            match renameat_with(CWD, &part, CWD, &path, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) => return Err(ExchangeFailed::FolderExists(path).into()),
                renamed => renamed.map_err(|e| NodeError::io("name", &path)(e.into()))?,
            }
            path.parent().map_or(Ok(()), sync)
        });
        match named.await {
            Ok(()) => self.keeper.delete::<UnfinishedFolder>(self.unfinished.id.to_string()).await,
            Err(error) => {
                self.undo().await?;
                Err(error)
            }
        }
    }

    pub async fn undo(self) -> Result<()> {
        self.unfinished.forget(&self.keeper).await
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|d| d.sync_all()).map_err(NodeError::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use nestling_store::Store;

    use super::*;

    #[tokio::test]
    async fn a_folder_comes_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Store::in_memory());
        let count = || fs::read_dir(dir.path()).unwrap().count();
        let target = dir.path().join("export");
        let folder = NewFolder::begin(&keeper, &target).await.unwrap();
        fs::write(folder.part().join("a"), "x").unwrap();
        assert!(!target.exists());
        folder.finish().await.unwrap();
        assert_eq!((fs::read(target.join("a")).unwrap(), count()), (b"x".to_vec(), 1));
        assert!(matches!(
            NewFolder::begin(&keeper, &target).await,
            Err(NodeError::Exchange(ExchangeFailed::FolderExists(_)))
        ));
        // What came meanwhile is not replaced.
        let (other, late) = (dir.path().join("other"), dir.path().join("other"));
        let folder = NewFolder::begin(&keeper, &other).await.unwrap();
        fs::write(&late, "theirs").unwrap();
        assert!(matches!(folder.finish().await, Err(NodeError::Exchange(ExchangeFailed::FolderExists(_)))));
        assert_eq!((fs::read(&late).unwrap(), count()), (b"theirs".to_vec(), 2));
        for bad in ["relative", "/", "/none/such/folder"] {
            assert!(NewFolder::begin(&keeper, Path::new(bad)).await.is_err(), "{bad}");
        }
        // A node died.
        let folder = NewFolder::begin(&keeper, &dir.path().join("third")).await.unwrap();
        fs::write(folder.part().join("a"), "x").unwrap();
        folder.unfinished.clone().forget(&keeper).await.unwrap();
        assert_eq!(count(), 2);
    }
}

//! Files into a directory of this host, by way of `recover_write`.

use nestling_api::{
    FileContent,
    v1::{RecoveryFile, RecoveryFileKind},
};

use super::{Miss, Sink, Taken, kind};
use crate::commands::recover_write::{Folder, Part};

pub struct IntoFolder {
    /// The target, and the directories on the way.
    folders: Vec<Folder>,
    part: Option<Part>,
    offset: u64,
    force: bool,
}

impl IntoFolder {
    pub fn new(target: Folder, force: bool) -> Self {
        Self { folders: vec![target], part: None, offset: 0, force }
    }

    fn here(&self) -> Taken<&Folder> {
        self.folders.last().ok_or_else(|| Miss::One("there is no directory for it".to_owned()))
    }
}

impl Sink for IntoFolder {
    async fn enter(&mut self, folder: &RecoveryFile) -> Taken {
        let made = self.here()?.directory(folder)?;
        self.folders.push(made);
        Ok(())
    }

    async fn leave(&mut self, folder: &RecoveryFile) -> Taken {
        match self.folders.pop() {
            Some(made) => Ok(made.finish(folder)?),
            None => Ok(()),
        }
    }

    async fn special(&mut self, file: &RecoveryFile) -> Taken {
        match file.kind {
            RecoveryFileKind::Link => Ok(self.here()?.link(file, self.force)?),
            other => Err(Miss::One(format!("a {} is not made on this host", kind(other)))),
        }
    }

    async fn begin(&mut self, file: &RecoveryFile, _is_read: bool) -> Taken {
        self.part = Some(self.here()?.part(file, self.force)?);
        self.offset = 0;
        Ok(())
    }

    async fn write(&mut self, piece: &FileContent) -> Taken {
        match (piece, &self.part) {
            (FileContent::Bytes(bytes), Some(part)) => {
                part.write(self.offset, bytes)?;
                self.offset += bytes.len() as u64;
            }
            (FileContent::Zeroes(bytes), _) => self.offset += bytes,
            (FileContent::Bytes(_), None) => {}
        }
        Ok(())
    }

    async fn end(&mut self, file: &RecoveryFile) -> Taken {
        match self.part.take() {
            Some(part) => Ok(part.finish(file)?),
            None => Ok(()),
        }
    }

    async fn give_up(&mut self) -> Taken {
        self.part = None;
        Ok(())
    }
}

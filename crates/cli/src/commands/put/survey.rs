//! What is to come into a guest is counted before any of it does, and what is in its way there is found.

use std::{future::Future, pin::Pin};

use nestling_api::{
    Client, FilesAt,
    v1::{RecoveryFile, RecoveryFileKind, RecoveryFiles},
};
use nestling_explore::FileName;

use super::{
    guest::{Clashes, Inside, check},
    target::Folder,
};
use crate::{commands::take::DEPTH_MAX, failure::Result};

/// Of paths, looked for at once.
const LINES_BYTES: usize = 128 << 10;

pub struct Survey<'a, G> {
    pub client: &'a Client,
    pub point: &'a str,
    pub repository: Option<&'a str>,
    pub guest: &'a G,
    /// The folder of the guest into which it comes.
    pub base: &'a Folder,
    pub overwrite: bool,
    /// Something may be in the way.
    pub looks: bool,
    pub lines: String,
    pub bytes: u64,
    pub clashes: Clashes,
}

impl<G: Inside> Survey<'_, G> {
    /// A file or tree, and where it comes to below the base. What cannot be read is told when it is to come.
    pub fn go(
        &mut self,
        first: RecoveryFiles,
        path: String,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result> + '_>> {
        Box::pin(async move {
            if first.itself.kind != RecoveryFileKind::Directory {
                return self.note(&first.itself, &path).await;
            }
            if !path.is_empty() {
                self.note(&first.itself, &path).await?;
            }
            let (place, mut page, mut from) = (first.itself.place, first.entries, first.next);
            loop {
                for entry in std::mem::take(&mut page) {
                    self.entry(entry, &path, depth).await?;
                }
                let Some(next) = from else { return Ok(()) };
                let Ok(more) = self.client.point_files(self.at(&place), next).await else { return Ok(()) };
                page = more.entries;
                from = more.next.filter(|after| *after > next);
            }
        })
    }

    fn at<'b>(&'b self, place: &'b str) -> FilesAt<'b> {
        FilesAt { point: self.point, repository: self.repository, place }
    }

    async fn entry(&mut self, entry: RecoveryFile, above: &str, depth: usize) -> Result {
        // What a guest cannot be asked about by text is looked at before it is moved.
        let path = match text(&entry.name) {
            Some(name) if above.is_empty() => name,
            Some(name) => format!("{above}/{name}"),
            None => {
                self.bytes = self.bytes.saturating_add(entry.size_bytes);
                return Ok(());
            }
        };
        if entry.kind != RecoveryFileKind::Directory {
            return self.note(&entry, &path).await;
        }
        if depth >= DEPTH_MAX {
            return Ok(());
        }
        match self.client.point_files(self.at(&entry.place), 0).await {
            Ok(found) => self.go(found, path, depth + 1).await,
            Err(_) => Ok(()),
        }
    }

    async fn note(&mut self, file: &RecoveryFile, path: &str) -> Result {
        if file.kind == RecoveryFileKind::File {
            self.bytes = self.bytes.saturating_add(file.size_bytes);
        }
        if !self.looks || path.is_empty() {
            return Ok(());
        }
        self.lines.push(if file.kind == RecoveryFileKind::Directory { 'd' } else { 'f' });
        self.lines.push_str(path);
        self.lines.push('\n');
        if self.lines.len() > LINES_BYTES { self.look().await } else { Ok(()) }
    }

    /// What is in the way of those since the last look.
    pub async fn look(&mut self) -> Result {
        let lines = std::mem::take(&mut self.lines);
        if !lines.is_empty() {
            self.clashes.add(check(self.guest, self.base, self.overwrite, lines).await?);
        }
        Ok(())
    }
}

/// A name that stands on a line.
pub fn text(name: &str) -> Option<String> {
    let name: FileName = name.parse().ok()?;
    let is_fit = name.is_usable() && !name.as_bytes().contains(&b'\n');
    is_fit.then(|| String::from_utf8(name.into_bytes()).ok()).flatten()
}

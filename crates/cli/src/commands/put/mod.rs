//! `nestling recover put`: files of a recovery point go back into a guest that runs, through its agent.
//!
//! ```text
//! each place:  survey: what is in its way in the guest, and is there room?
//!              then all of it, in pieces, into a folder of the same file system (outgoing, keep.sh)
//! at last      from there to its target, by renaming (move.sh)
//! ```
//!
//! What must never happen: that a file of the guest is replaced unasked; that a file is there in part; that something is left
//! in the guest when this is cancelled, cut off or killed (what unpacks there ends by itself and takes everything along); that
//! somebody who owns a folder in the guest leads to another one what is done there by root.

mod guest;
mod outgoing;
mod survey;
mod target;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
};

use clap::Args;
use nestling_api::{
    Client, FilesAt,
    v1::{ErrorCode, RecoveryFile, RecoveryFiles},
};
use nestling_model::VmPath;
use serde::Serialize;

use self::{
    guest::{Clashes, Guest, Inside, Moved, Probed, begin, place, probe, stop},
    outgoing::{Meter, Outgoing, new_folder},
    survey::{Survey, text as name_text},
    target::{Folder, Origin},
};
use super::{
    backup_run::Signals,
    recover::{POINT, REPOSITORY},
    recover_files::{KEY_FILE, PLACE, unlock},
    recover_key::read_key,
    take::Taking,
};
use crate::{
    args::vm_path,
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
    text,
};

/// Room that pieces on their way take in the guest.
const PIECES_BYTES: u64 = 8 << 20;
/// By these a volume is known as a system's root.
const OF_A_ROOT: [&[&str]; 3] = [&["etc", "os-release"], &["usr", "lib", "os-release"], &["etc", "passwd"]];

/// Put files and directories of a recovery point back into a machine that runs
///
/// They come through the machine's guest agent, with owner, permissions, times, links and, where the guest's tar is GNU's, extended
/// attributes and access control lists. They get their names when all of them are there; nothing is left in the guest if not.
/// Folders that are there already take in what comes; with --overwrite they get their old owner, permissions and time, too.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  everything is back
  1  nothing is
  2  the command line makes no sense
  3  something could not be put back; the rest is there")]
pub struct Put {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(value_name = "PLACE", required = true, help = PLACE)]
    places: Vec<String>,
    /// The machine, which need not be the one that the point is of; L1/L2 is L2 inside L1
    #[arg(long, value_name = "VM", value_parser = vm_path)]
    vm: VmPath,
    /// Into this folder of the guest, which is made if need be [default: where they were, of a system's root volume]
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<String>,
    /// Replace files that are there already; else nothing is put back then
    #[arg(long)]
    overwrite: bool,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    #[arg(long, value_name = "FILE", help = KEY_FILE)]
    key_file: Option<PathBuf>,
}

impl Put {
    pub async fn run(self, session: &Session) -> Result {
        let to = self.to.as_deref().map(Folder::parse).transpose()?;
        let printer = session.printer;
        let key = self.key_file.as_deref().map(|path| read_key(printer, path)).transpose()?;
        let (inside, vm) = session.at(&self.vm).await?;
        let guest = Guest { client: inside, vm: vm.to_owned() };
        guest.check().await?;
        let client = session.client().await?;
        if let Some(key) = &key {
            for place in &self.places {
                let at = FilesAt { point: &self.point, repository: self.repository.as_deref(), place };
                unlock(&client, printer, at, key).await?;
            }
        }
        // From here on something may have to be cleared away.
        let mut signals = Signals::listen()?;
        let mut putting = Putting {
            client,
            printer,
            guest,
            vm: self.vm.to_string(),
            point: self.point,
            repository: self.repository,
            to,
            overwrite: self.overwrite,
            goings: Vec::new(),
            works: Vec::new(),
            failed: 0,
        };
        let brought = tokio::select! {
            brought = putting.bring(self.places) => brought,
            () = signals.next() => {
                printer.talk("clearing away what was brought");
                Err(Failure::new(ErrorCode::Failed, "cancelled: nothing is put back"))
            }
        };
        if let Err(failure) = brought {
            putting.clear().await;
            return Err(failure);
        }
        putting.place().await
    }
}

/// A place on its way.
struct Going {
    place: String,
    /// There in the guest; everything is unpacked beside what it holds.
    base: Folder,
    /// Folders on the way from there, which have to be made.
    folders: Vec<RecoveryFile>,
    probed: Probed,
    bytes: u64,
    /// What people call it.
    target: String,
    /// Of files, once they are in the guest.
    taken: u32,
    missed: u32,
    work: String,
}

/// What was put back, for programs.
#[derive(Serialize)]
struct PutBack<'a> {
    place: &'a str,
    vm: &'a str,
    target: &'a str,
    files: u32,
    missed: u32,
}

struct Putting<G> {
    client: Client,
    printer: Printer,
    guest: G,
    vm: String,
    point: String,
    repository: Option<String>,
    to: Option<Folder>,
    overwrite: bool,
    goings: Vec<Going>,
    /// Folders in the guest that have to go if nothing comes of it.
    works: Vec<String>,
    failed: u32,
}

impl<G: Inside> Putting<G> {
    fn at<'a>(&'a self, place: &'a str) -> FilesAt<'a> {
        FilesAt { point: &self.point, repository: self.repository.as_deref(), place }
    }

    /// Everything into the guest, and nothing to its place yet.
    async fn bring(&mut self, places: Vec<String>) -> Result {
        for place in places {
            let found = match self.client.point_files(self.at(&place), 0).await {
                Ok(found) => found,
                Err(error) => {
                    self.failed += 1;
                    self.printer.warning(&format!("{place}: {}", error.message));
                    continue;
                }
            };
            // From now on the same point, though a newer one may come.
            self.point.clone_from(&found.point);
            let going = self.plan(place, found).await?;
            if self.goings.iter().any(|other| other.target == going.target) {
                return Err(Failure::usage(format!("two places would both come to {}", going.target)));
            }
            self.goings.push(going);
        }
        self.has_room()?;
        let mut meter = Meter::new(self.printer);
        meter.total_bytes = self.goings.iter().map(|going| going.bytes).sum();
        for number in 0..self.goings.len() {
            self.transfer(number, &mut meter).await?;
        }
        Ok(())
    }

    /// Where it goes, and whether it may.
    async fn plan(&self, place: String, found: RecoveryFiles) -> Result<Going> {
        let (origin, folder, root) = self.target(&place).await?;
        let itself = &found.itself;
        let name = name_text(&itself.name).unwrap_or_default();
        let target = match itself.name.is_empty() {
            true => folder.path(),
            false => folder.child(&itself.name),
        };
        let target_shown = text::clean(&format!("{}:{target}", self.vm));
        let probed = probe(&self.guest, &folder, &name).await?;
        if let Some(link) = &probed.led {
            let said =
                format!("{link} in the guest is a link of somebody else, who can have it lead anywhere");
            return Err(Failure::new(ErrorCode::Denied, said)
                .hint("--to puts the files into the folder that it is meant to lead to"));
        }
        if probed.is_blocked {
            let said = format!("{} in the guest is no folder, and none can be made", folder.path());
            return Err(Failure::new(ErrorCode::Exists, said).hint("--to puts the files into another one"));
        }
        let (base, missing) = folder.split(probed.missing);
        // As it is without links: that is looked at again before anything is moved there.
        let base = probed.base.clone().unwrap_or(base);
        if !probed.is_writable {
            return Err(Failure::new(
                ErrorCode::Denied,
                format!("{} in the guest cannot be written to", base.path()),
            ));
        }
        if probed.tar.is_none() {
            let failure =
                Failure::new(ErrorCode::Requirement, "the guest has no tar, which unpacks the files there");
            return Err(failure.hint("install it there; or take the files out with `nestling recover get`"));
        }
        let mut folders = Vec::new();
        for (at, name) in missing.iter().enumerate() {
            let count = root.map(|root| root + folder.0.len() - missing.len() + at + 1);
            folders.push(self.folder(&origin, count, name).await?);
        }
        let mut survey = Survey {
            client: &self.client,
            point: &self.point,
            repository: self.repository.as_deref(),
            guest: &self.guest,
            base: &base,
            overwrite: self.overwrite,
            looks: missing.is_empty() && probed.is_there && name.is_empty() == itself.name.is_empty(),
            lines: String::new(),
            bytes: 0,
            clashes: Clashes::default(),
        };
        survey.go(found, name, 0).await?;
        survey.look().await?;
        if survey.clashes.count > 0 {
            return Err(survey.clashes.failure(&base));
        }
        let bytes = survey.bytes;
        self.printer.talk(&format!("{place} goes to {target_shown}, {}", text::size(bytes)));
        let (taken, missed, work) = (0, 0, String::new());
        Ok(Going { place, base, folders, probed, bytes, target, taken, missed, work })
    }

    /// The folder into which a place goes. With it, if that is where it was, after how many names of the place the system's root is.
    async fn target(&self, place: &str) -> Result<(Origin, Folder, Option<usize>)> {
        let origin = Origin::parse(place)?;
        if let Some(to) = &self.to {
            return Ok((origin, to.clone(), None));
        }
        let hint = "--to says into which folder of the guest";
        let Some((_, above)) = origin.names().split_last() else {
            return Err(Failure::usage(format!("{place} is a whole volume")).hint(hint));
        };
        let Some(root) = self.root(&origin).await else {
            let said =
                format!("{place} is in a volume that no system has its root in: where it was is not known");
            return Err(Failure::usage(said).hint(hint));
        };
        let Some(folder) = above.get(root..).and_then(Folder::of) else {
            return Err(Failure::usage(format!("the folder that {place} is in has a name that is no text"))
                .hint(hint));
        };
        Ok((origin, folder, Some(root)))
    }

    async fn root(&self, origin: &Origin) -> Option<usize> {
        for root in origin.roots() {
            for file in OF_A_ROOT {
                if self.client.point_files(self.at(&origin.above(root, file)), 0).await.is_ok() {
                    return Some(root);
                }
            }
        }
        None
    }

    /// A folder that the guest lacks: as it was, if `count` names of the place lead to it.
    async fn folder(&self, origin: &Origin, count: Option<usize>, name: &str) -> Result<RecoveryFile> {
        match count {
            Some(count) => Ok(self.client.point_files(self.at(&origin.above(count, &[])), 0).await?.itself),
            None => Ok(new_folder(name)),
        }
    }

    fn has_room(&self) -> Result {
        for going in &self.goings {
            let together = self.goings.iter().filter(|other| other.base == going.base);
            let bytes = together.map(|other| other.bytes).sum::<u64>().saturating_add(PIECES_BYTES);
            if let Some(free) = going.probed.free_bytes.filter(|free| *free < bytes) {
                let (needed, free, path) = (text::size(bytes), text::size(free), going.base.path());
                return Err(Failure::new(
                    ErrorCode::Requirement,
                    format!(
                        "there is too little room in {path} in the guest: it takes {needed}, and {free} are free"
                    ),
                ));
            }
        }
        Ok(())
    }

    async fn transfer(&mut self, number: usize, meter: &mut Meter) -> Result {
        let going = &mut self.goings[number];
        let random = RandomState::new().hash_one(number);
        let beside = going.probed.safe.as_ref().unwrap_or_else(|| {
            let base = going.base.path();
            self.printer.warning(&format!(
                "who owns the file system of {base} in the guest could lead elsewhere what is done there as root"
            ));
            &going.base
        });
        going.work = beside.child(&format!(".nestling-put-{random:016x}"));
        self.works.push(going.work.clone());
        begin(&self.guest, beside, &going.work, &going.probed).await?;
        let sink = Outgoing::open(&self.guest, meter, &self.works, &going.probed, &going.folders).await;
        let mut taking = Taking {
            client: self.client.clone(),
            printer: self.printer,
            point: self.point.clone(),
            repository: self.repository.clone(),
            sink: sink?,
            taken: 0,
            failed: 0,
        };
        taking.take(going.place.clone(), 0).await?;
        (going.taken, going.missed) = (taking.taken, taking.failed);
        self.failed += going.missed;
        let said = taking.sink.close(&going.folders).await?;
        for line in said.lines().map(str::trim).filter(|line| !line.is_empty()).take(5) {
            self.printer.warning(&format!("in the guest: {line}"));
        }
        Ok(())
    }

    /// Everything to its place. It is not cancelled in between: that takes a moment, and would leave half of it.
    async fn place(&mut self) -> Result {
        // Whether something of one may be in its place, too.
        let (mut back, mut half) = (0, false);
        for going in std::mem::take(&mut self.goings) {
            if going.taken == 0 && going.missed > 0 {
                continue;
            }
            let moved = place(&self.guest, &going.work, &going.base, self.overwrite).await;
            let failure = match moved {
                Ok(Moved::Done) => {
                    self.works.retain(|work| *work != going.work);
                    self.tell(&going)?;
                    back += 1;
                    continue;
                }
                Ok(Moved::Clashes(clashes)) => clashes.failure(&going.base),
                Ok(Moved::Half(failure)) => {
                    self.works.retain(|work| *work != going.work);
                    half = true;
                    failure
                }
                Err(failure) => failure,
            };
            self.clear().await;
            if back == 0 && !half {
                return Err(failure);
            }
            if let Failure::Error(error) = &failure {
                self.printer.error(error);
            }
            return Err(Failure::Told(status::PARTLY));
        }
        self.clear().await;
        match (self.failed, back) {
            (0, _) => Ok(()),
            (_, 0) => Err(Failure::Told(status::FAILED)),
            _ => Err(Failure::Told(status::PARTLY)),
        }
    }

    fn tell(&self, going: &Going) -> Result {
        let files = text::count(going.taken, "file");
        let target = text::clean(&format!("{}:{}", self.vm, going.target));
        self.printer.talk(&format!("{target}: {files} put back, {} not", going.missed));
        let (place, vm, target) = (&*going.place, &*self.vm, &*going.target);
        let (files, missed) = (going.taken, going.missed);
        self.printer.changed(&PutBack { place, vm, target, files, missed })
    }

    /// What was brought and not moved goes.
    async fn clear(&mut self) {
        let works = std::mem::take(&mut self.works);
        if works.is_empty() {
            return;
        }
        if let Err(Failure::Error(error)) = stop(&self.guest, works).await {
            let why = error.message;
            self.printer.warning(&format!("{why}; it goes by itself, ten minutes from now"));
        }
    }
}

//! `nestling vault save`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use nestling_api::v1::ErrorCode;
use nestling_block::{ExtentSet, ImageFormat, OpenImage};
use nestling_vault::{
    DiskInput, Identity, PointName, PointSelector, SaveReport, SaveRequest, format::Timestamp, parse_point_id,
};
use serde::Serialize;

use super::{REPO, access::Access, points::now, work::watch};
use crate::{
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    text,
};

const KEPT: &str = "no point was written; what was stored is there for the next run, which goes on from it";

/// Save disk images as a new point of a machine
#[derive(Debug, Args)]
pub struct Save {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME", help = "The machine's name, which may have folders: Server2016/Web01")]
    name: PointName,
    /// Raw, qcow2, VHDX, VHD or VMDK files, block devices or NBD addresses, called disk0, disk1 and so on in the point
    #[arg(value_name = "IMAGE", required_unless_present = "disks")]
    images: Vec<PathBuf>,
    /// An image and what it is called in the point
    #[arg(long = "disk", value_name = "DISK=IMAGE", value_parser = named)]
    disks: Vec<(String, PathBuf)>,
    /// What the images are [default: what they start like, else raw]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Read only what this file lists, and take the rest from the parent: [{"offset": 0, "length": 65536}, ...]
    #[arg(long, value_name = "[DISK=]FILE")]
    changed: Vec<String>,
    /// The point that --changed counts from [default: the machine's newest]
    #[arg(long, value_name = "POINT", requires = "changed")]
    parent: Option<String>,
    /// Tag the point
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The instant that the disks show, such as 2026-11-26T22:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// Keep this file beside the disks, as the machine's description
    #[arg(long, value_name = "FILE")]
    description: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
    Vhdx,
    Vhd,
    Vmdk,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
            Format::Vhdx => Self::Vhdx,
            Format::Vhd => Self::Vhd,
            Format::Vmdk => Self::Vmdk,
        }
    }
}

fn named(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (name, image) = text.split_once('=').ok_or("it is written DISK=IMAGE, such as data=/srv/data.img")?;
    Ok((name.to_owned(), PathBuf::from(image)))
}

/// A disk on its way into a point.
struct Disk {
    name: String,
    image: OpenImage,
    changed: Option<ExtentSet>,
}

#[derive(Serialize)]
struct Saved {
    point: String,
    name: String,
    time: String,
    /// Bytes of all disks.
    size_bytes: u64,
    /// Bytes that were read from the images.
    read_bytes: u64,
    /// Bytes that the repository did not have, before compression.
    new_bytes: u64,
    /// What the repository grew by.
    stored_bytes: u64,
    seconds: f64,
    disks: Vec<SavedDisk>,
}

#[derive(Serialize)]
struct SavedDisk {
    name: String,
    image: String,
    format: String,
    size_bytes: u64,
    /// Whether --changed could be used for it.
    only_changed: bool,
}

impl Save {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let disks = self.open(printer)?;
        let description = self.description.as_deref().map(read).transpose()?;
        let parent = match self.changed.is_empty() {
            true => None,
            false => {
                let id = self.parent.as_deref().map(parse_point_id).transpose()?.flatten();
                Some(PointSelector { name: self.name.clone(), id })
            }
        };
        let inputs: Vec<DiskInput<'_>> = disks
            .iter()
            .map(|disk| DiskInput {
                name: &disk.name,
                source: &*disk.image.source,
                changed: disk.changed.as_ref(),
            })
            .collect();
        let (time, who) = (self.time.unwrap_or_else(now), Identity::current());
        let repository = self.access.open(printer, &self.repo)?;
        let report = watch(printer, KEPT, |job| {
            let parent = parent.as_ref().map(|parent| repository.select(parent, job)).transpose()?;
            let request = SaveRequest {
                name: &self.name,
                disks: &inputs,
                description: description.as_deref(),
                time,
                tags: &self.tags,
                parent: parent.as_ref(),
                who: &who,
                threads: 0,
            };
            repository.save(&request, job)
        })?;
        for disk in &report.read_in_full {
            printer.warning(&format!(
                "{disk} was read in full: the parent has no such disk, or of another size, or is damaged"
            ));
        }
        if report.read_anew > 0 {
            printer.warning(&format!(
                "the repository lacks something of the parent, and {} segments were read again though they did not \
                 change; `nestling vault verify` tells what is concerned",
                report.read_anew
            ));
        }
        printer.show(&self.record(time, &disks, &report), human)
    }

    /// Opens the images, and says what was found when nobody said what they are.
    fn open(&self, printer: Printer) -> Result<Vec<Disk>> {
        let numbered = self.images.iter().enumerate().map(|(n, path)| (format!("disk{n}"), path.clone()));
        let mut disks = Vec::new();
        for (name, path) in numbered.chain(self.disks.iter().cloned()) {
            let image = OpenImage::open(&path, self.format.map(Into::into))
                .map_err(|error| Failure::from(nestling_vault::VaultError::from(error)))?;
            if self.format.is_none() {
                printer.talk(&format!("{} is taken for {}", text::clean(image.source.name()), image.format));
            }
            disks.push(Disk { name, image, changed: None });
        }
        for changed in &self.changed {
            attach(changed, &mut disks)?;
        }
        Ok(disks)
    }

    fn record(&self, time: Timestamp, disks: &[Disk], report: &SaveReport) -> Saved {
        let disk = |disk: &Disk| SavedDisk {
            name: disk.name.clone(),
            image: disk.image.source.name().to_owned(),
            format: disk.image.format.to_string(),
            size_bytes: disk.image.source.size_bytes(),
            only_changed: disk.changed.is_some() && !report.read_in_full.contains(&disk.name),
        };
        Saved {
            point: report.point.to_string(),
            name: self.name.to_string(),
            time: time.to_string(),
            size_bytes: report.size_bytes,
            read_bytes: report.read_bytes,
            new_bytes: report.new_bytes,
            stored_bytes: report.stored.bytes,
            seconds: report.duration.as_secs_f64(),
            disks: disks.iter().map(disk).collect(),
        }
    }
}

/// `FILE` for the only disk, or `DISK=FILE`.
fn attach(changed: &str, disks: &mut [Disk]) -> Result {
    let named = changed.split_once('=').and_then(|(name, file)| {
        disks.iter().position(|disk| disk.name == name).map(|number| (number, file))
    });
    let (number, file) = match named {
        Some(named) => named,
        None if disks.len() == 1 => (0, changed),
        None => {
            return Err(Failure::usage(format!("{changed} does not say for which disk it is"))
                .hint("with several disks, write --changed DISK=FILE"));
        }
    };
    let path = Path::new(file);
    let json = File::open(path).map_err(|e| Failure::file("read the changed extents from", path, &e))?;
    let size_bytes = disks[number].image.source.size_bytes();
    let extents = ExtentSet::read(json, size_bytes).map_err(|error| {
        Failure::new(ErrorCode::Invalid, format!("{file} can't be used as changed extents: {error}"))
            .hint("it is a JSON array of {\"offset\": BYTES, \"length\": BYTES}, inside the disk")
    })?;
    disks[number].changed = Some(extents);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Failure::file("read the description from", path, &e))
}

fn human(saved: &Saved) -> String {
    let point: String = saved.point.chars().take(8).collect();
    format!(
        "{}@{point}: {}, {} read, {} new, {} stored, in {:.1} seconds\n",
        saved.name,
        text::size(saved.size_bytes),
        text::size(saved.read_bytes),
        text::size(saved.new_bytes),
        text::size(saved.stored_bytes),
        saved.seconds
    )
}

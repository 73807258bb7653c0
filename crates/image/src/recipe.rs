//! The recipes. Each turns a quarry of unpacked packages into the files of one image; a new recipe is a new
//! module and a new line in every `match` here.

mod debian;
mod host;
mod pebble;
mod reader;

use self::debian::With;
use crate::error::IoContext;
use crate::image::{Image, Manifest};
use crate::packages::Quarry;
use crate::progress::Steps;
use crate::store::BuildOptions;
use crate::{ImageError, Progress};
use std::fs;
use std::path::{Path, PathBuf};

/// The code that shapes every image is part of its key: a changed recipe never passes for the old one.
const CODE: &[&str] = &[
    include_str!("recipe.rs"),
    include_str!("boot_disk.rs"),
    include_str!("cpio.rs"),
    include_str!("kernel.rs"),
    include_str!("packages.rs"),
    include_str!("root.rs"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recipe {
    Pebble,
    Host,
    Debian,
    Database,
    Reader,
}

/// What a recipe works with. Everything it writes goes below `work` (removed afterwards) or `out` (the image).
pub struct Workshop<'a> {
    pub quarry: &'a Quarry<'a>,
    pub steps: &'a Steps<'a>,
    pub work: &'a Path,
    pub out: &'a Path,
    /// The packages as they were fetched.
    pub archives: &'a Path,
}

impl<'a> Workshop<'a> {
    pub fn progress(&self) -> &'a dyn Progress {
        self.steps.progress()
    }
}

impl Recipe {
    pub const ALL: [Self; 5] = [Self::Pebble, Self::Host, Self::Debian, Self::Database, Self::Reader];

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|recipe| recipe.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pebble => "pebble",
            Self::Host => "host",
            Self::Debian => "debian",
            Self::Database => "database",
            Self::Reader => "reader",
        }
    }

    /// One line for a list of what can be built.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Pebble => "the smallest guest: kernel, busybox, network tools, guest agent",
            Self::Host => "a small Debian that is a Nestling host itself",
            Self::Debian => "a usual server: systemd, ssh, guest agent, cloud-init",
            Self::Database => "the same with PostgreSQL and MariaDB, to try backups of applications",
            Self::Reader => {
                "reads files of XFS, btrfs, LVM, arrays and encrypted disks out of recovery points"
            }
        }
    }

    pub(crate) fn packages(self) -> Vec<&'static str> {
        match self {
            Self::Pebble => pebble::PACKAGES.to_vec(),
            Self::Host => host::PACKAGES.to_vec(),
            Self::Debian => debian::packages(With::Nothing),
            Self::Database => debian::packages(With::Databases),
            Self::Reader => reader::PACKAGES.to_vec(),
        }
    }

    /// Whether this package is unpacked into the quarry. The recipes of servers install the packages properly and
    /// only take the boot loader apart.
    pub(crate) fn quarries(self, deb: &Path) -> bool {
        let name = deb.file_name().unwrap_or_default().to_string_lossy();
        matches!(self, Self::Pebble | Self::Host | Self::Reader)
            || name.starts_with("grub-")
            || name.starts_with("lib")
    }

    pub(crate) fn step_count(self) -> u32 {
        match self {
            Self::Pebble | Self::Reader => 4,
            Self::Host | Self::Debian | Self::Database => 6,
        }
    }

    /// What of our own goes into the image, for its key.
    pub(crate) fn sources(self) -> Vec<&'static str> {
        let mut sources = match self {
            Self::Pebble => pebble::SOURCES.to_vec(),
            Self::Host => host::SOURCES.to_vec(),
            Self::Debian => debian::sources(With::Nothing),
            Self::Database => debian::sources(With::Databases),
            Self::Reader => reader::SOURCES.to_vec(),
        };
        sources.extend(CODE);
        sources
    }

    /// The program that goes into the image, checked before anything is fetched.
    pub(crate) fn binary(self, options: &BuildOptions) -> Result<Option<PathBuf>, ImageError> {
        if !matches!(self, Self::Host | Self::Reader) {
            return Ok(None);
        }
        let bad = |path: &Path, reason: &str| ImageError::Binary {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let Some(path) = &options.nestling_binary else { return Err(bad(Path::new(""), "was not given")) };
        let metadata = fs::metadata(path).at("open", path)?;
        if !metadata.is_file() {
            return Err(bad(path, "is not a file"));
        }
        Ok(Some(path.clone()))
    }

    pub(crate) fn build(
        self,
        workshop: &Workshop,
        binary: Option<&Path>,
        pebble: Option<&Image>,
    ) -> Result<Manifest, ImageError> {
        match (self, binary, pebble) {
            (Self::Pebble, ..) => pebble::build(workshop),
            (Self::Host, Some(binary), Some(pebble)) => host::build(workshop, binary, pebble),
            (Self::Debian, ..) => debian::build(workshop, With::Nothing),
            (Self::Database, ..) => debian::build(workshop, With::Databases),
            (Self::Reader, Some(binary), _) => reader::build(workshop, binary),
            (Self::Reader, None, _) => Err(ImageError::NotFound("nestling".to_owned())),
            (Self::Host, ..) => Err(ImageError::NotFound("pebble".to_owned())),
        }
    }
}

/// Kernel parameters of guests that boot directly; docs/images.md has what they save. The largest is `pci=lastbus=0`:
/// without it the kernel asks 8,160 absent devices whether they exist, an exit to the host for each.
pub(crate) const FAST_BOOT: &str = concat!(
    "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check nokaslr noreplace-smp pci=lastbus=0 ",
    "lsm=capability audit=0 rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on"
);

/// Scripts that guests share.
pub(crate) const SHUTDOWN: &str = include_str!("../assets/shutdown");
pub(crate) const UDHCPC: &str = include_str!("../assets/udhcpc");
pub(crate) const AGENT: &str = include_str!("../assets/agent");
pub(crate) const POWER_BUTTON: &str = include_str!("../assets/power-button");
pub(crate) const POWER_LISTENER: &str = include_str!("../assets/power-listener");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_found_by_its_name() {
        for recipe in Recipe::ALL {
            assert_eq!(Recipe::from_name(recipe.name()), Some(recipe));
        }
        assert_eq!(Recipe::from_name("nothing"), None);
    }

    #[test]
    fn scripts_are_valid_shell() {
        for recipe in Recipe::ALL {
            for source in recipe.sources().into_iter().filter(|text| text.starts_with("#!")) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("script");
                fs::write(&path, source).unwrap();
                let status = std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap();
                assert!(status.success(), "{source}");
            }
        }
    }
}

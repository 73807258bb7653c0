//! Finds QEMU's programs and firmware on this host.
//!
//! Looks only at files and asks one program for its version, once for each file that it finds. It must never start a guest: whether the engine works is
//! [`crate::probe`]'s question.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_model::{Boot, Generation, Vm};

use crate::probe::{FileIdentity, Remembered, qemu_version};

/// Names a directory with QEMU's programs, or qemu-system-x86_64 itself, for hosts that have several.
pub const QEMU_VARIABLE: &str = "NESTLING_QEMU";

const SYSTEM: &str = "qemu-system-x86_64";
const IMG: &str = "qemu-img";
/// Debian 12's, the oldest that the machine type and the tests know.
const VERSION_MIN: Version = Version { major: 7, minor: 2 };
const FIRMWARE_DIRS: [&str; 4] =
    ["/usr/share/qemu", "/usr/share/OVMF", "/usr/share/edk2/x64", "/usr/share/edk2/ovmf"];

#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error("{program} was not found in {places}; install QEMU (Debian: apt install {package})")]
    Missing { program: &'static str, places: String, package: &'static str },
    #[error("{} does not run; reinstall QEMU", path.display())]
    Broken { path: PathBuf, source: io::Error },
    #[error("{} says \"{said}\", which is no version of QEMU", path.display())]
    NoVersion { path: PathBuf, said: String },
    #[error("{} is version {found}; version {VERSION_MIN} or newer is needed", path.display())]
    TooOld { path: PathBuf, found: Version },
    #[error(
        "a generation 2 virtual machine needs UEFI firmware, which this host lacks; install it (Debian: apt install ovmf)"
    )]
    NoUefi,
    #[error(
        "a generation 2 virtual machine starts from its disks; a kernel can be given only to generation 1"
    )]
    KernelOnGeneration2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Firmware files; SeaBIOS is built into every QEMU and not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Starts a given kernel faster than SeaBIOS does.
    pub qboot: Option<PathBuf>,
    /// UEFI: the code, and the template of each machine's own variables.
    pub uefi: Option<(PathBuf, PathBuf)>,
}

impl Firmware {
    fn find(dirs: &[PathBuf]) -> Self {
        let file = |name: &str| dirs.iter().map(|d| d.join(name)).find(|p| p.is_file());
        let pair = |(code, vars): (&str, &str)| Some((file(code)?, file(vars)?));
        let uefi = [
            ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            ("OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
            ("OVMF_CODE.fd", "OVMF_VARS.fd"),
        ];
        Self { qboot: file("qboot.rom"), uefi: uefi.into_iter().find_map(pair) }
    }
}

/// QEMU on this host.
#[derive(Debug, Clone)]
pub struct Qemu(Arc<Found>);

#[derive(Debug)]
struct Found {
    system: PathBuf,
    img: PathBuf,
    /// The file of `system` as it was when it was asked.
    file: Option<FileIdentity>,
    said: String,
    version: Version,
    firmware: Firmware,
}

impl Qemu {
    /// Looks in `place` (a directory, or qemu-system-x86_64 itself), else where [`QEMU_VARIABLE`] says, else in `PATH`.
    /// The version is remembered in `dir`.
    pub async fn find(place: Option<&Path>, dir: Option<&Path>) -> Result<Self, QemuError> {
        let place = place.map(Path::to_owned).or_else(|| env::var_os(QEMU_VARIABLE).map(PathBuf::from));
        let places = match place {
            Some(place) => vec![place],
            None => {
                let path = env::var_os("PATH").unwrap_or_default();
                env::split_paths(&path).chain([PathBuf::from("/usr/bin")]).collect()
            }
        };
        let system = program(SYSTEM, "qemu-system-x86", &places)?;
        // A qemu-system given by name has its qemu-img beside it.
        let beside: Vec<PathBuf> = system.parent().map(Path::to_owned).into_iter().chain(places).collect();
        let img = program(IMG, "qemu-utils", &beside)?;
        let broken = |source| QemuError::Broken { path: system.clone(), source };
        // Before it is asked: a file that is replaced meanwhile is then asked again.
        let file = FileIdentity::of(&system).map_err(broken)?;
        let said = version_line(&system, &file, dir).await.map_err(broken)?;
        let Some(version) = parse_version(&said) else {
            return Err(QemuError::NoVersion { path: system, said });
        };
        if version < VERSION_MIN {
            return Err(QemuError::TooOld { path: system, found: version });
        }
        let mut dirs: Vec<PathBuf> = FIRMWARE_DIRS.iter().map(PathBuf::from).collect();
        // A QEMU built from source keeps its firmware below its own prefix.
        if let Some(prefix) = system.parent().and_then(Path::parent) {
            dirs.insert(0, prefix.join("share/qemu"));
        }
        Ok(Self(Arc::new(Found {
            system,
            img,
            file: Some(file),
            said,
            version,
            firmware: Firmware::find(&dirs),
        })))
    }

    pub fn system(&self) -> &Path {
        &self.0.system
    }

    /// Whether the program is still the file that was asked for its version.
    pub fn is_current(&self) -> bool {
        self.0.file.is_some() && FileIdentity::of(&self.0.system).ok() == self.0.file
    }

    pub fn img(&self) -> &Path {
        &self.0.img
    }

    /// It comes with qemu-img.
    pub fn nbd(&self) -> PathBuf {
        self.0.img.with_file_name("qemu-nbd")
    }

    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The first line of what it says of its version: names the build, too.
    pub fn said(&self) -> &str {
        &self.0.said
    }

    pub fn firmware(&self) -> &Firmware {
        &self.0.firmware
    }

    /// Whether this QEMU has what the machine starts with.
    pub fn check(&self, vm: &Vm) -> Result<(), QemuError> {
        match (vm.generation, &vm.boot) {
            (Generation::One, _) => Ok(()),
            (Generation::Two, Boot::Kernel { .. }) => Err(QemuError::KernelOnGeneration2),
            (Generation::Two, Boot::Firmware) if self.0.firmware.uefi.is_none() => Err(QemuError::NoUefi),
            (Generation::Two, Boot::Firmware) => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn fixed(firmware: Firmware) -> Self {
        let version = Version { major: 7, minor: 2 };
        let (system, img, said) = (SYSTEM.into(), IMG.into(), String::new());
        Self(Arc::new(Found { system, img, file: None, said, version, firmware }))
    }
}

/// Asks only a file that was not asked before: a start of QEMU takes half a second in an emulated guest.
async fn version_line(system: &Path, file: &FileIdentity, dir: Option<&Path>) -> io::Result<String> {
    let Some(dir) = dir else { return qemu_version(system).await };
    let mut remembered = Remembered::load(dir);
    if let Some(said) = remembered.version(file) {
        return Ok(said.to_owned());
    }
    let said = qemu_version(system).await?;
    remembered.set_version(file.clone(), said.clone());
    if let Err(error) = remembered.store(dir) {
        tracing::warn!(%error, "cannot remember QEMU's version");
    }
    Ok(said)
}

fn program(name: &'static str, package: &'static str, places: &[PathBuf]) -> Result<PathBuf, QemuError> {
    let candidates = places.iter().map(|place| match place.file_name() {
        Some(file) if file == name && place.is_file() => place.clone(),
        _ => place.join(name),
    });
    candidates.into_iter().find(|c| c.is_file()).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        QemuError::Missing { program: name, places: places.join(", "), package }
    })
}

/// From `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn parse_version(said: &str) -> Option<Version> {
    let number = said.strip_prefix("QEMU emulator version ")?.split([' ', '(']).next()?;
    let mut parts = number.split('.');
    Some(Version { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn script(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_read() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)";
        assert_eq!(parse_version(said), Some(Version { major: 10, minor: 0 }));
        assert_eq!(parse_version("QEMU emulator version x"), None);
        assert_eq!(parse_version("qemu-img version 7.2.22"), None);
    }

    #[tokio::test]
    async fn an_old_qemu_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), SYSTEM, "echo 'QEMU emulator version 5.2.0'");
        script(dir.path(), IMG, "");
        let refused = Qemu::find(Some(dir.path()), None).await.unwrap_err().to_string();
        assert!(refused.contains("is version 5.2; version 7.2 or newer is needed"), "{refused}");
        script(dir.path(), SYSTEM, "echo 'QEMU emulator version 9.1.0'");
        let found = Qemu::find(Some(&dir.path().join(SYSTEM)), None).await.unwrap();
        assert_eq!(found.img(), dir.path().join(IMG));
    }

    #[tokio::test]
    async fn a_file_is_asked_for_its_version_once() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), SYSTEM, "echo x >> \"$0.asked\"; echo 'QEMU emulator version 7.2.1'");
        script(dir.path(), IMG, "");
        for _ in 0..2 {
            let found = Qemu::find(Some(dir.path()), Some(dir.path())).await.unwrap();
            assert_eq!(found.version(), Version { major: 7, minor: 2 });
        }
        let asked = fs::read_to_string(dir.path().join(format!("{SYSTEM}.asked"))).unwrap();
        assert_eq!(asked, "x\n");
        script(dir.path(), SYSTEM, "echo 'QEMU emulator version 8.0.0'");
        let found = Qemu::find(Some(dir.path()), Some(dir.path())).await.unwrap();
        assert_eq!(found.version(), Version { major: 8, minor: 0 });
    }

    #[tokio::test]
    async fn a_missing_qemu_says_what_to_install() {
        let refused = Qemu::find(Some(Path::new("/nonexistent")), None).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "qemu-system-x86_64 was not found in /nonexistent; install QEMU (Debian: apt install qemu-system-x86)"
        );
    }
}

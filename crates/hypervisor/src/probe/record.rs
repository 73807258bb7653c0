//! Remembers what was proven and which version QEMU is, so that a node's start costs nothing on a host that has not
//! changed.
//!
//! Only success is remembered: a failure may have been a busy host, and must not outlive it. A proof counts only for
//! exactly the same processor, kernel, modules, QEMU, model and test guest; anything else is stale and proves nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Accel, HostFacts, ProbeRequest, guest};

const FILE_NAME: &str = "engine-proofs.json";
const MOST_BYTES: u64 = 1 << 20;
/// More proofs than one host needs; the oldest go first.
const MOST_PROOFS: usize = 32;

/// All that a proof depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeKey {
    cpu_name: String,
    cpu_flags: String,
    kernel_release: String,
    kvm_modules: BTreeMap<String, String>,
    qemu: PathBuf,
    qemu_version: String,
    accel: Accel,
    cpu: String,
    nesting: Option<super::Nesting>,
    guest: u64,
}

impl ProbeKey {
    #[must_use]
    pub fn new(facts: &HostFacts, qemu_version: &str, request: &ProbeRequest) -> Self {
        Self {
            cpu_name: facts.cpu_name.clone(),
            cpu_flags: facts.cpu_flags.clone(),
            kernel_release: facts.kernel_release.clone(),
            kvm_modules: facts.kvm_modules.clone(),
            qemu: request.qemu.clone(),
            qemu_version: qemu_version.to_owned(),
            accel: request.accel,
            cpu: request.cpu.clone(),
            nesting: request.nesting,
            guest: guest::version(),
        }
    }
}

/// What tells a program's file from any other that was ever at its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    path: PathBuf,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last change of the content, and of the file as a whole, which nobody can set back.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// The proofs kept in a directory, and what QEMU last said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    proofs: Vec<ProbeKey>,
    #[serde(default)]
    version: Option<(FileIdentity, String)>,
}

impl Remembered {
    /// What the directory holds; nothing if the file is missing, damaged or of another version. Then one probes again.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let path = dir.join(FILE_NAME);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "remembered proofs are unreadable; probing again");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "cannot read remembered proofs; probing again");
                }
                Self::default()
            }
        }
    }

    #[must_use]
    pub fn contains(&self, key: &ProbeKey) -> bool {
        self.proofs.contains(key)
    }

    pub fn add(&mut self, key: ProbeKey) {
        self.proofs.retain(|known| *known != key);
        self.proofs.push(key);
        let excess = self.proofs.len().saturating_sub(MOST_PROOFS);
        self.proofs.drain(..excess);
    }

    /// The first line of `qemu --version`, if exactly this file was asked before.
    #[must_use]
    pub fn version(&self, qemu: &FileIdentity) -> Option<&str> {
        self.version.as_ref().filter(|(file, _)| file == qemu).map(|(_, said)| said.as_str())
    }

    pub fn set_version(&mut self, qemu: FileIdentity, said: String) {
        self.version = Some((qemu, said));
    }

    /// Replaces the directory's file, all or nothing.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let temp = dir.join(format!(".{FILE_NAME}.{}", std::process::id()));
        let written = self.write(&temp).and_then(|()| fs::rename(&temp, dir.join(FILE_NAME)));
        if written.is_err() {
            // The error to report is the first one.
            let _ = fs::remove_file(&temp);
        }
        written.and_then(|()| File::open(dir)?.sync_all())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Nesting;

    fn key(cpuinfo: &str, change: impl FnOnce(&mut HostFacts, &mut ProbeRequest)) -> ProbeKey {
        let mut facts = HostFacts::from_cpuinfo(cpuinfo);
        let mut request = ProbeRequest {
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            accel: Accel::Kvm,
            cpu: "host,+svm".into(),
            nesting: Some(Nesting::Svm),
            deadline: ProbeRequest::DEADLINE,
        };
        change(&mut facts, &mut request);
        ProbeKey::new(&facts, "QEMU emulator version 7.2.22", &request)
    }

    #[test]
    fn a_proof_survives_the_file_and_only_for_the_same_host() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Remembered::load(dir.path()), Remembered::default());
        let proven = key("flags : svm\n", |_, _| {});
        let mut remembered = Remembered::default();
        remembered.add(proven.clone());
        remembered.add(proven.clone());
        remembered.store(dir.path()).unwrap();
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE_NAME]);
        let loaded = Remembered::load(dir.path());
        assert_eq!(loaded, remembered);
        assert!(loaded.contains(&proven));
        // The deadline is no part of a proof; everything else is.
        assert!(loaded.contains(&key("flags : svm\n", |_, request| request.deadline *= 2)));
        for stale in [
            key("flags : svm npt\n", |_, _| {}),
            key("model name : x\nflags : svm\n", |_, _| {}),
            key("flags : svm\n", |facts, _| facts.kernel_release = "6.1".into()),
            key("flags : svm\n", |facts, _| {
                facts.kvm_modules.extend([("kvm_amd/nested".into(), "0".into())]);
            }),
            key("flags : svm\n", |_, request| request.cpu = "host,-svm".into()),
            key("flags : svm\n", |_, request| request.accel = Accel::Tcg),
            key("flags : svm\n", |_, request| request.nesting = None),
            key("flags : svm\n", |_, request| request.qemu = "/opt/qemu".into()),
        ] {
            assert!(!loaded.contains(&stale), "{stale:?}");
        }
    }

    #[test]
    fn a_version_is_that_of_one_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        fs::write(&qemu, "1").unwrap();
        let asked = FileIdentity::of(&qemu).unwrap();
        let mut remembered = Remembered::default();
        remembered.set_version(asked.clone(), "version 1".to_owned());
        remembered.store(dir.path()).unwrap();
        let loaded = Remembered::load(dir.path());
        assert_eq!(loaded.version(&asked), Some("version 1"));
        // As an upgrade does it: another file under the same name, even of the same size and age.
        let other = dir.path().join("other");
        fs::write(&other, "2").unwrap();
        let modified = fs::metadata(&qemu).unwrap().modified().unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        fs::rename(&other, &qemu).unwrap();
        assert_eq!(loaded.version(&FileIdentity::of(&qemu).unwrap()), None);
    }

    #[test]
    fn a_damaged_file_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"proofs\":[{\"cpu\":1}]}", "\u{0}"] {
            fs::write(dir.path().join(FILE_NAME), text).unwrap();
            assert_eq!(Remembered::load(dir.path()), Remembered::default());
        }
    }

    #[test]
    fn the_number_of_proofs_is_bounded() {
        let mut remembered = Remembered::default();
        for n in 0..100 {
            remembered.add(key("", |_, request| request.cpu = n.to_string()));
        }
        assert_eq!(remembered.proofs.len(), MOST_PROOFS);
        assert!(remembered.contains(&key("", |_, request| request.cpu = "99".into())));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(Remembered::default().store(Path::new("/nonexistent")).is_err());
    }
}

//! The file that a saved machine sleeps in: a head that says what it fits, then QEMU's own stream.
//!
//! QEMU's stream only fits a machine built exactly as the one that was saved, and the errors for a wrong one help nobody.
//! So the head is compared first.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use nestling_model::Vm;
use serde::{Deserialize, Serialize};

use super::MachineError;
use crate::{
    cmdline::{MACHINE_TYPE, devices::LAYOUT},
    spec::{LaunchSpec, Slots},
};

const MAGIC: &[u8; 16] = b"nestling-state1\n";
const HEAD_BYTES_MAX: u32 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("{} can't be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no saved state of a virtual machine; remove the saved state and start the machine anew", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the saved state has {what} {saved}, the virtual machine now has {now}; change it back, or remove the saved state"
    )]
    Differs { what: &'static str, saved: String, now: String },
    #[error(
        "the saved state has its devices in layout {saved}, this version of nestling knows only layout {now}; resume it with \
         the version that saved it, or remove the saved state"
    )]
    Layout { saved: u32, now: u32 },
}

/// What a machine must agree in with a state that it wakes up from, besides its adapters and disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    machine_type: String,
    accelerator: String,
    processor: String,
    processors: u32,
    memory_bytes: u64,
    /// Heads of before there was this number had layout 1.
    #[serde(default = "first_layout")]
    layout: u32,
}

fn first_layout() -> u32 {
    1
}

impl Shape {
    /// A machine of another layout can neither take devices in this one's places nor be woken up by this version.
    pub fn check_layout(&self) -> Result<(), MachineError> {
        if self.layout == LAYOUT { Ok(()) } else { Err(MachineError::OlderLayout) }
    }

    pub fn of(spec: &LaunchSpec) -> Self {
        Self {
            machine_type: MACHINE_TYPE.to_owned(),
            accelerator: spec.engine.accel.as_str().to_owned(),
            processor: spec.engine.cpu(spec.vm.processor.expose_virtualization_extensions),
            processors: spec.vm.processor.count,
            memory_bytes: spec.vm.memory.startup_bytes,
            layout: LAYOUT,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub shape: Shape,
    pub slots: Slots,
    /// QEMU's names of the disks.
    pub disks: Vec<String>,
}

impl Head {
    pub fn write(&self, file: &mut impl Write) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        file.write_all(MAGIC)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&json)
    }

    fn read(file: &mut impl Read) -> io::Result<Self> {
        let foreign = || io::Error::from(io::ErrorKind::InvalidData);
        let mut start = [0; 20];
        file.read_exact(&mut start)?;
        let (magic, length) = start.split_at(MAGIC.len());
        let length = u32::from_le_bytes(length.try_into().map_err(io::Error::other)?);
        if magic != MAGIC || length > HEAD_BYTES_MAX {
            return Err(foreign());
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// A saved state, read up to where QEMU's stream begins.
pub(super) struct StateFile {
    pub path: PathBuf,
    pub stream: File,
    head: Head,
}

impl StateFile {
    pub fn open(path: &Path) -> Result<Self, StateFileError> {
        let io = |source| StateFileError::Io { path: path.to_owned(), source };
        let mut stream = File::open(path).map_err(io)?;
        let head = Head::read(&mut stream).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
                StateFileError::Foreign { path: path.to_owned() }
            }
            _ => io(error),
        })?;
        Ok(Self { path: path.to_owned(), stream, head })
    }

    pub fn slots(&self) -> &Slots {
        &self.head.slots
    }

    pub fn check(&self, now: &Shape, vm: &Vm) -> Result<(), StateFileError> {
        let saved = &self.head.shape;
        let same = |what, saved: String, now: String| match saved == now {
            true => Ok(()),
            false => Err(StateFileError::Differs { what, saved, now }),
        };
        same("machine type", saved.machine_type.clone(), now.machine_type.clone())?;
        if saved.layout != now.layout {
            return Err(StateFileError::Layout { saved: saved.layout, now: now.layout });
        }
        same("accelerator", saved.accelerator.clone(), now.accelerator.clone())?;
        same("processor", saved.processor.clone(), now.processor.clone())?;
        same("a number of processors of", saved.processors.to_string(), now.processors.to_string())?;
        same("bytes of memory:", saved.memory_bytes.to_string(), now.memory_bytes.to_string())?;
        same("disks:", self.head.disks.join(", "), disks(vm).join(", "))?;
        if !self.head.slots.fit(vm) {
            let (what, now) = ("other network adapters:", vm.adapters.len().to_string());
            return Err(StateFileError::Differs { what, saved: self.head.slots.len().to_string(), now });
        }
        Ok(())
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_saved_head(mut bytes: &[u8]) {
    if let Ok(head) = Head::read(&mut bytes) {
        let mut written = Vec::new();
        assert!(head.write(&mut written).is_ok());
        assert_eq!(Head::read(&mut written.as_slice()).ok(), Some(head));
    }
}

/// The names of a machine's disks, in a fixed order.
pub(super) fn disks(vm: &Vm) -> Vec<String> {
    let mut names: Vec<String> =
        vm.disks.iter().map(|d| crate::cmdline::devices::node_name(d.controller, d.location)).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        let shape = Shape {
            machine_type: "q35".to_owned(),
            accelerator: "tcg".to_owned(),
            processor: "EPYC".to_owned(),
            processors: 2,
            memory_bytes: 64 << 20,
            layout: LAYOUT,
        };
        Head { shape, slots: Slots::default(), disks: vec!["scsi-0".to_owned()] }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_the_stream_begins_after_it() {
        let mut bytes = Vec::new();
        head().write(&mut bytes).unwrap();
        bytes.extend(b"stream");
        let mut rest = bytes.as_slice();
        assert_eq!(Head::read(&mut rest).unwrap(), head());
        assert_eq!(rest, b"stream");
    }

    /// What versions wrote, a saved state's head and a running machine's record, with their layout; they are never changed.
    /// A version that writes something new adds its own beside them.
    const STORED: [(u32, &[u8], &str); 2] = [
        (1, include_bytes!("../../tests/stored/saved-head"), include_str!("../../tests/stored/spec.json")),
        (
            2,
            include_bytes!("../../tests/stored/saved-head-2"),
            include_str!("../../tests/stored/spec-2.json"),
        ),
    ];

    /// Whether a document that was read says all that was written, under the same names.
    fn says_all(written: &serde_json::Value, read: &serde_json::Value) -> bool {
        match (written, read) {
            (serde_json::Value::Object(written), serde_json::Value::Object(read)) => {
                written.iter().all(|(name, value)| read.get(name).is_some_and(|r| says_all(value, r)))
            }
            _ => written == read,
        }
    }

    #[test]
    fn states_and_machines_of_older_versions_are_read_whole() {
        for (layout, saved_head, stored_record) in STORED {
            let mut rest = saved_head;
            let head = Head::read(&mut rest).unwrap();
            assert_eq!((rest, head.shape.layout), (b"QEVM\n".as_slice(), layout));
            let written = serde_json::from_slice(&saved_head[20..saved_head.len() - 5]).unwrap();
            assert!(says_all(&written, &serde_json::to_value(&head).unwrap()), "{head:?}");
            let record: crate::machine::Record = serde_json::from_str(stored_record).unwrap();
            let written = serde_json::from_str(stored_record).unwrap();
            assert!(says_all(&written, &serde_json::to_value(&record).unwrap()), "{record:?}");
            assert_eq!(record.shape.layout, layout);
        }
        assert_eq!(STORED[STORED.len() - 1].0, LAYOUT, "a new layout has files of its own");
    }

    #[test]
    fn a_machine_of_another_layout_is_refused_in_words() {
        let older = Shape { layout: 1, ..head().shape };
        assert!(older.check_layout().unwrap_err().to_string().contains("an older version"));
        assert!(head().shape.check_layout().is_ok());
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), magic: bool) {
            if magic && bytes.len() >= 16 {
                bytes[..16].copy_from_slice(MAGIC);
            }
            prop_assert!(Head::read(&mut bytes.as_slice()).is_err());
        }
    }

    #[test]
    fn a_state_of_another_layout_is_refused_in_words() {
        let mut older = serde_json::to_value(head()).unwrap();
        older["shape"].as_object_mut().unwrap().remove("layout");
        let head: Head = serde_json::from_value(older).unwrap();
        let now = Shape { layout: LAYOUT, ..head.shape.clone() };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        head.write(&mut File::create(&path).unwrap()).unwrap();
        let state = StateFile::open(&path).unwrap();
        let refused = state.check(&now, &crate::cmdline::tests::vm()).unwrap_err().to_string();
        assert!(refused.contains("layout 1") && refused.contains("only layout 2"), "{refused}");
    }

    #[test]
    fn what_is_no_state_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "hello").unwrap();
        let refused = StateFile::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("remove the saved state"), "{refused}");
    }
}

//! What every disk that is read and written must do, whatever it lies in: the same as a vector of bytes.

use std::sync::Arc;

use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    BlockError, BlockSource, BlockTarget, ExtentKind, MemoryDisk, Overlay, RawDisk, extents,
    nbd::{Export, NbdAddress, NbdClient, NbdOptions, NbdServer, NbdUri, ServerLimits},
};

#[derive(Debug, Clone)]
enum Step {
    Write(u16, u16, u8),
    Zero(u16, u16),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![Just(0_u16), 1..20_u16, 1..9000_u16, Just(4096_u16)];
    let step = prop_oneof![
        4 => (any::<u16>(), length.clone(), 1..255_u8).prop_map(|(at, length, value)| Step::Write(at, length, value)),
        2 => (any::<u16>(), length).prop_map(|(at, length)| Step::Zero(at, length)),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 0..16)
}

/// `make` gives a disk with these bytes.
fn conforms<D: BlockSource + BlockTarget>(cases: u32, make: impl Fn(&[u8]) -> D) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    runner
        .run(&(1..40_000_usize, steps()), |(size, steps)| {
            let mut model: Vec<u8> = (0..size).map(|n| if n / 5000 % 2 == 0 { 7 } else { 0 }).collect();
            let disk = make(&model);
            prop_assert_eq!(BlockSource::size_bytes(&disk), size as u64);
            for step in steps {
                take(&disk, &mut model, &step).map_err(|e| TestCaseError::fail(e.to_string()))?;
            }
            check(&disk, &model)
        })
        .expect("it is a disk");
}

fn take<D: BlockTarget>(disk: &D, model: &mut [u8], step: &Step) -> Result<(), BlockError> {
    let place = |at: u16, length: u16| {
        let start = usize::from(at) % model.len();
        start..(start + usize::from(length)).min(model.len())
    };
    match *step {
        Step::Write(at, length, value) => {
            let place = place(at, length);
            model[place.clone()].fill(value);
            disk.write_at(&model[place.clone()], place.start as u64)
        }
        Step::Zero(at, length) => {
            let place = place(at, length);
            model[place.clone()].fill(0);
            disk.write_zeroes(place.start as u64..place.end as u64)
        }
        Step::Flush => disk.flush(),
    }
}

fn check<D: BlockSource + BlockTarget>(disk: &D, model: &[u8]) -> Result<(), TestCaseError> {
    let size = model.len() as u64;
    let mut read = vec![9; model.len()];
    disk.read_at(&mut read, 0).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(read == model);
    for range in [0..size, size / 3..size / 2, size..size] {
        let mut at = range.start;
        for extent in extents(disk, range.clone()) {
            let extent = extent.map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(extent.offset, at);
            at = extent.end();
            let part = &model[extent.offset as usize..extent.end() as usize];
            prop_assert!(extent.kind == ExtentKind::Data || part.iter().all(|byte| *byte == 0));
        }
        prop_assert_eq!(at, range.end);
    }
    for (offset, length) in [(size, 1), (0, model.len() + 1), (u64::MAX, 1), (u64::MAX - 5, 10)] {
        let outside = |result| matches!(result, Err(BlockError::OutOfRange { .. }));
        prop_assert!(outside(disk.read_at(&mut vec![0; length], offset)));
        prop_assert!(outside(disk.write_at(&vec![1; length], offset)));
        prop_assert!(
            outside(disk.extents(offset..offset.saturating_add(length as u64)).map(|_| ()))
                || offset == u64::MAX
        );
    }
    Ok(())
}

fn raw(dir: &tempfile::TempDir, bytes: &[u8]) -> RawDisk {
    let path = dir.path().join("raw");
    let _ = std::fs::remove_file(&path);
    let disk = RawDisk::create(&path, bytes.len() as u64).expect("created");
    disk.write_at(bytes, 0).expect("written");
    disk
}

#[test]
fn memory_is_a_disk() {
    conforms(200, |bytes| MemoryDisk::from_bytes("memory", bytes));
}

#[test]
fn a_file_is_a_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    conforms(48, |bytes| raw(&dir, bytes));
}

#[test]
fn an_overlay_is_a_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    conforms(64, |bytes| {
        let below = Arc::new(MemoryDisk::from_bytes("below", bytes));
        Overlay::new(below, raw(&dir, b"")).expect("an overlay")
    });
}

/// A client with the server that it needs.
struct Remote {
    client: NbdClient,
    _server: NbdServer,
}

impl BlockSource for Remote {
    fn size_bytes(&self) -> u64 {
        BlockSource::size_bytes(&self.client)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.client.read_at(buf, offset)
    }
    fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<crate::Extent>, BlockError> {
        self.client.extents(range)
    }
    fn name(&self) -> &str {
        BlockSource::name(&self.client)
    }
}

impl BlockTarget for Remote {
    fn size_bytes(&self) -> u64 {
        BlockTarget::size_bytes(&self.client)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        self.client.write_at(buf, offset)
    }
    fn write_zeroes(&self, range: std::ops::Range<u64>) -> Result<(), BlockError> {
        self.client.write_zeroes(range)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.client.flush()
    }
    fn set_size(&self, size_bytes: u64) -> Result<(), BlockError> {
        self.client.set_size(size_bytes)
    }
    fn name(&self) -> &str {
        BlockTarget::name(&self.client)
    }
}

#[test]
fn an_export_is_a_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    for extended_headers in [true, false] {
        conforms(24, |bytes| {
            let address = NbdAddress::Unix(dir.path().join("s"));
            let disk = Arc::new(MemoryDisk::from_bytes("served", bytes));
            let server =
                NbdServer::start(&address, vec![Export::writable("d", disk)], ServerLimits::default())
                    .expect("listening");
            let options = NbdOptions { extended_headers, ..NbdOptions::default() };
            let client =
                NbdClient::connect(&NbdUri { address, export: "d".into() }, &options).expect("connected");
            Remote { client, _server: server }
        });
    }
}

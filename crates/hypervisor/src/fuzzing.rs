//! What the fuzz targets drive: everything here that reads bytes of a QEMU, a guest or a file.

use std::{fs, path::PathBuf, sync::LazyLock};

use nestling_model::DiskFormat;

use crate::{disk, qmp::Lines};

const LINE_BYTES_MAX: usize = 64 << 10;

fn block_on<F: Future>(future: F) {
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
        runtime.block_on(future);
    }
}

/// A monitor's lines, the messages in them, and what is read of its disks.
pub fn qmp(bytes: &[u8]) {
    block_on(async {
        let mut lines = Lines::new(bytes);
        while let Ok(Some(line)) = lines.next(LINE_BYTES_MAX).await {
            crate::qmp::read_message(&line);
            if let Ok(answer) = serde_json::from_slice(&line) {
                crate::capture::read_answer(&answer);
            }
        }
    });
}

/// A guest agent's answers, with stale ones before a mark.
pub fn agent(bytes: &[u8]) {
    block_on(async {
        let mut lines = Lines::new(bytes);
        while let Ok(true) = lines.skip_past(0xff, LINE_BYTES_MAX).await {
            if let Ok(Some(line)) = lines.next(LINE_BYTES_MAX).await {
                crate::agent::read_answer(&line);
            }
        }
    });
}

/// The guest channel's stream: however it is cut, it says the same.
pub fn channel(bytes: &[u8]) {
    let (cut, stream) = bytes.split_first().map_or((0, bytes), |(cut, rest)| (usize::from(*cut), rest));
    let whole = crate::channel::read_stream(&[stream]);
    let (first, second) = stream.split_at(cut.min(stream.len()));
    assert_eq!(crate::channel::read_stream(&[first, second]), whole);
}

/// A disk image's head, and where it leads.
pub fn disk(bytes: &[u8]) {
    static PATH: LazyLock<PathBuf> =
        LazyLock::new(|| std::env::temp_dir().join(format!("nestling-fuzz-{}.qcow2", std::process::id())));
    if fs::write(&*PATH, bytes).is_ok() {
        let _ = disk::parents(&PATH, DiskFormat::Qcow2);
        let _ = disk::recognise(&PATH);
        disk::read_info(bytes);
        disk::read_bitmaps(bytes);
    }
}

/// The head of a saved state.
pub fn saved_state(bytes: &[u8]) {
    crate::machine::read_saved_head(bytes);
}

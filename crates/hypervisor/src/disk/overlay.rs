//! A disk that holds what is written to it, and reads everything else from an NBD export.

use std::path::Path;

use nestling_model::DiskFormat;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::{DiskError, WORK_TIMEOUT, io_error, tool::Img};
use crate::{Qemu, durable};

/// How long a guest's reads wait for an export that is away, before they fail. As good as for ever: whoever serves it comes
/// back, or the machine is turned off. (QEMU 7.2 dies when it is asked about a disk whose wait has run out.)
const RECONNECT_SECONDS: u32 = 30 * 24 * 3600;

/// Where the rest of a disk is.
#[derive(Debug, Clone)]
pub struct Below<'a> {
    pub socket: &'a Path,
    pub export: &'a str,
    pub bytes: u64,
}

/// Makes an empty qcow2 image on top of an export, which need not be served yet. Whole or not at all, and never in the place
/// of another file.
pub async fn create_on_export(qemu: &Qemu, path: &Path, below: &Below<'_>) -> Result<(), DiskError> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(DiskError::Exists(path.to_owned()));
    }
    let socket = below.socket.to_str().ok_or_else(|| DiskError::Path(below.socket.to_owned()))?;
    let server = json!({"type": "unix", "path": socket});
    let file = json!({"driver": "nbd", "server": server, "export": below.export, "reconnect-delay": RECONNECT_SECONDS});
    let backing = format!("json:{}", json!({"driver": "raw", "file": file}));
    let part = durable::part(path);
    let mut img = Img::new(qemu, path, DiskFormat::Qcow2);
    img.args(["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", &backing]).path(&part)?;
    img.args([below.bytes.to_string().as_str()]);
    let made = img.run(WORK_TIMEOUT).await;
    let named = made.and_then(|()| {
        let file = std::fs::File::open(&part).map_err(io_error("opened", &part))?;
        file.sync_all().map_err(io_error("written", &part))?;
        match renameat_with(CWD, &part, CWD, path, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => return Err(DiskError::Exists(path.to_owned())),
            renamed => renamed.map_err(|e| io_error("named", path)(e.into()))?,
        }
        durable::sync_dir_of(path).map_err(io_error("written", path))
    });
    if named.is_err() {
        std::fs::remove_file(&part).ok();
    }
    named
}

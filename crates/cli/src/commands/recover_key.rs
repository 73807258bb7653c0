//! Where a key comes from that opens an encrypted volume: a file, never an argument, which everybody on the host could read.
//! It is wiped after use and must never reach a message.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use nestling_api::v1::ErrorCode;
use nestling_explore::machine::KEY_BYTES_MAX;
use zeroize::Zeroizing;

use super::password;
use crate::{
    failure::{Failure, Result},
    printer::Printer,
};

/// All of a file, as the tools of LUKS take it: a key is any bytes, line ends too.
pub fn read_key(printer: Printer, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |e: io::Error| Failure::file("read the key from", path, &e);
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(failed)?;
        password::warn_of_others(printer, path, &file.metadata().map_err(failed)?, "key");
        Box::new(file)
    };
    // Room for all of it at once: to grow would leave a copy.
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_BYTES_MAX + 1));
    source.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut key).map_err(failed)?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("{}: a key has 1 to {KEY_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    Ok(key)
}

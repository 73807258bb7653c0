//! A picture of what is on a machine's display.
//!
//! The guest draws it, and QEMU makes the file: neither its size nor its content is believed to be good.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use serde_json::json;

use super::{Machine, MachineError};

/// A display of ours has no more than this even where nothing can be compressed.
const PICTURE_BYTES_MAX: u64 = 7 << 20;
const PNG: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    #[error("QEMU takes no picture of the screen")]
    Refused(#[source] MachineError),
    #[error("the picture of the screen can't be read")]
    Read(#[source] io::Error),
    #[error("the picture of the screen is larger than {} MB", PICTURE_BYTES_MAX >> 20)]
    TooLarge,
    #[error("what QEMU gave as a picture of the screen is none")]
    NoPicture,
}

impl Machine {
    /// What is on its display now, as PNG. The machine was launched with one.
    pub async fn picture(&self) -> Result<Vec<u8>, ScreenError> {
        let path = self.run_dir().join("screen.png");
        let arguments = json!({"filename": path, "format": "png"});
        self.execute("screendump", arguments).await.map_err(ScreenError::Refused)?;
        let taken = tokio::task::spawn_blocking(move || {
            let taken = read(&path);
            fs::remove_file(&path).ok();
            taken
        });
        taken.await.map_err(|e| ScreenError::Read(io::Error::other(e)))?
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ScreenError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ScreenError::Read)?;
    file.take(PICTURE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ScreenError::Read)?;
    if bytes.len() as u64 > PICTURE_BYTES_MAX {
        return Err(ScreenError::TooLarge);
    }
    if bytes.starts_with(&PNG) { Ok(bytes) } else { Err(ScreenError::NoPicture) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_or_too_large_a_one_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(matches!(read(&path), Err(ScreenError::Read(_))));
        fs::write(&path, b"P6 720 400").unwrap();
        assert!(matches!(read(&path), Err(ScreenError::NoPicture)));
        fs::write(&path, [PNG.as_slice(), b"rest"].concat()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 12);
        File::options().write(true).open(&path).unwrap().set_len(PICTURE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(ScreenError::TooLarge)));
    }
}

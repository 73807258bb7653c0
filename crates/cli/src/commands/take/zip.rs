//! A zip archive. It has no owners and attributes, and its names are text; links are in it as links.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, Write},
};

use nestling_api::{
    FileContent,
    v1::{ErrorCode, RecoveryFile, RecoveryFileKind},
};
use zip::{CompressionMethod, DateTime, result::ZipError, write::FullFileOptions};

use super::{Miss, Taken, kind, tar::mode, way::Way};
use crate::{commands::recover_write::link_target, failure::Failure};

/// From here on a file needs the long form of its sizes. What is packed may be longer than what it is made of.
const LARGE_BYTES: u64 = 0xf000_0000;
/// Of the extra field that has the time in UTC and by the second.
const TIMESTAMP: u16 = 0x5455;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

pub struct ZipWriter {
    zip: zip::ZipWriter<BufWriter<File>>,
    way: Way,
}

impl ZipWriter {
    pub fn new(file: File) -> Self {
        Self { zip: zip::ZipWriter::new(BufWriter::new(file)), way: Way::default() }
    }

    pub fn enter(&mut self, folder: &RecoveryFile) -> Taken {
        let path = self.way.to(folder)?;
        let name = text(path.clone())?;
        self.zip.add_directory(name, options(folder)?).map_err(unwritten)?;
        self.way.enter(path);
        Ok(())
    }

    pub fn leave(&mut self) {
        self.way.leave();
    }

    pub fn special(&mut self, file: &RecoveryFile) -> Taken {
        if file.kind != RecoveryFileKind::Link {
            return Err(Miss::One(format!("a {} is left out", kind(file.kind))));
        }
        let target = link_target(file)?.into_string();
        let target = target.map_err(|_| not_text("where the link leads"))?;
        let name = text(self.way.to(file)?)?;
        self.zip.add_symlink(name, target, options(file)?).map_err(unwritten)
    }

    pub fn begin(&mut self, file: &RecoveryFile) -> Taken {
        let name = text(self.way.to(file)?)?;
        self.zip.start_file(name, options(file)?).map_err(unwritten)
    }

    pub fn write(&mut self, piece: &FileContent) -> Taken {
        match piece {
            FileContent::Bytes(bytes) => self.put(bytes),
            FileContent::Zeroes(bytes) => {
                let mut rest = *bytes;
                while rest > 0 {
                    let now = rest.min(ZEROES.len() as u64);
                    self.put(&ZEROES[..usize::try_from(now).unwrap_or(ZEROES.len())])?;
                    rest -= now;
                }
                Ok(())
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Taken {
        self.zip.write_all(bytes).map_err(|error| Miss::unwritten(&error))
    }

    pub fn end(&mut self) -> Taken {
        Ok(())
    }

    pub fn give_up(&mut self) -> Taken {
        self.zip.abort_file().map_err(unwritten)
    }

    pub fn finish(self) -> Taken<File> {
        let mut out = self.zip.finish().map_err(unwritten)?;
        let cut = |out: &mut BufWriter<File>| -> io::Result<()> {
            out.flush()?;
            // What was taken back may have been longer than what came after it.
            let end = out.stream_position()?;
            out.get_ref().set_len(end)
        };
        cut(&mut out).map_err(|error| Miss::unwritten(&error))?;
        out.into_inner().map_err(|error| Miss::unwritten(error.error()))
    }
}

fn unwritten(error: ZipError) -> Miss {
    match error {
        ZipError::Io(error) => Miss::unwritten(&error),
        error => Miss::All(Failure::new(ErrorCode::Failed, format!("can't write the archive: {error}"))),
    }
}

fn not_text(what: &str) -> Miss {
    Miss::One(format!("{what} is not UTF-8, which a zip cannot hold; a tar can"))
}

/// Some systems take a `\` for the end of a folder's name.
fn text(path: Vec<u8>) -> Taken<String> {
    let path = String::from_utf8(path).map_err(|_| not_text("its name"))?;
    if path.contains('\\') {
        return Err(Miss::One("a name with \\ in it leads elsewhere in a zip; a tar can hold it".to_owned()));
    }
    Ok(path)
}

fn options(file: &RecoveryFile) -> Taken<FullFileOptions<'static, 'static>> {
    let seconds = file.modified.map_or(0, |time| time.seconds);
    let mut options = FullFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(mode(file))
        .last_modified_time(date_time(seconds))
        .large_file(file.size_bytes >= LARGE_BYTES);
    if let Ok(seconds) = i32::try_from(seconds) {
        // The first byte says that the time of the last change follows.
        let field: Vec<u8> = [1].into_iter().chain(seconds.to_le_bytes()).collect();
        options.add_extra_field(TIMESTAMP, field, false).map_err(unwritten)?;
    }
    Ok(options)
}

/// Two seconds by two seconds, from 1980 on; in UTC.
fn date_time(seconds: i64) -> DateTime {
    let milliseconds = u64::try_from(seconds).unwrap_or_default().saturating_mul(1000);
    let text = crate::text::time(milliseconds.min(4_300_000_000_000));
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u16>().ok());
    let mut next = || numbers.next().unwrap_or_default();
    let (year, month, day, hour, minute, second) = (next(), next(), next(), next(), next(), next());
    let small = |number: u16| u8::try_from(number).unwrap_or_default();
    DateTime::from_date_and_time(year, small(month), small(day), small(hour), small(minute), small(second))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::take::tests::{about, link};

    #[test]
    fn what_a_zip_cannot_hold_is_told() {
        let mut zip = ZipWriter::new(tempfile::tempfile().expect("a file"));
        for name in ["\\xff", "a\\x5cb", "\\x2e\\x2e", "a\\x2fb"] {
            let file = about(name, RecoveryFileKind::File, 0);
            assert!(matches!(zip.begin(&file), Err(Miss::One(_))), "{name}");
        }
        assert!(matches!(zip.special(&link("l", "\\xff")), Err(Miss::One(_))));
        assert!(matches!(zip.special(&about("f", RecoveryFileKind::Fifo, 0)), Err(Miss::One(_))));
        zip.special(&link("l", "/etc/passwd")).expect("a link");
        zip.finish().expect("finished");
    }

    #[test]
    fn times_are_those_of_utc() {
        let time = date_time(1_000_000_001);
        let (date, clock) =
            ((time.year(), time.month(), time.day()), (time.hour(), time.minute(), time.second()));
        assert_eq!((date, clock), ((2001, 9, 9), (1, 46, 40)));
        assert_eq!(date_time(-1).year(), 1980);
    }
}

//! What is mounted where, as the kernel tells it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
}

pub(crate) fn mount_points() -> io::Result<Vec<MountPoint>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// What is mounted on a directory, the topmost one. The path is whole and has no links.
pub(crate) fn mounted_on(directory: &Path) -> io::Result<Option<MountPoint>> {
    Ok(mount_points()?.into_iter().rfind(|mount| mount.path == directory))
}

fn parse(text: &[u8]) -> Vec<MountPoint> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            // After the parent's id, the device and the root in it.
            let path = OsString::from_vec(unescaped(fields.nth(3)?)).into();
            Some(MountPoint { id, path })
        })
        .collect()
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        let code = behind
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_and_blanks_in_paths_are_seen() {
        let text = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            98 22 0:44 / /mnt/my\\040points rw shared:3 - fuse nestling rw\nrubbish\n1 2\n";
        let found: Vec<_> = parse(text).into_iter().map(|mount| (mount.id, mount.path)).collect();
        assert_eq!(found, [(22, "/".into()), (98, "/mnt/my points".into())]);
        assert_eq!(
            mounted_on(Path::new("/proc")).expect("read").map(|mount| mount.path),
            Some("/proc".into())
        );
    }

    proptest! {
        #[test]
        fn rubbish_is_no_panic(text in prop::collection::vec(prop_oneof![Just(b'\\'), Just(b' '), Just(b'\n'), 47u8..58], 0..64)) {
            parse(&text);
        }
    }
}

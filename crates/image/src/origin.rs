//! Which image a kernel was taken from, by where it lay on a host that may be another one.
//!
//! Pure: the path comes from anybody and is never followed. What is found by it is found by the image's name, in this host's
//! own store.

use crate::image::check_name;
use std::path::{Component, Path};

/// Of an image's key, in the name of a version's directory.
pub const SHORT_KEY_CHARS: usize = 16;
/// Versions of one key: `NAME-KEY-999` is the last one.
const COUNTER_DIGITS_MAX: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    name: String,
    /// The directory of the version, and the beginning of its key.
    version: Option<(String, String)>,
}

impl Origin {
    /// Out of the path of a file of an image. `None` for a path that no store has.
    pub fn of(file: &Path, store: &Path) -> Option<Self> {
        let mut components = file.components().rev();
        let (Some(Component::Normal(_)), Some(Component::Normal(directory))) =
            (components.next(), components.next())
        else {
            return None;
        };
        let directory = directory.to_str()?;
        match components.next()? {
            Component::Normal(above) if above == crate::store::VERSIONS => {
                let (name, key) = take_apart(directory)?;
                check_name(name).ok()?;
                let version = Some((directory.to_owned(), key.to_owned()));
                Some(Self { name: name.to_owned(), version })
            }
            // By the name that leads to whichever version is the current one.
            _ if file.parent().and_then(Path::parent) == Some(store) => {
                check_name(directory).ok()?;
                Some(Self { name: directory.to_owned(), version: None })
            }
            _ => None,
        }
    }

    /// A usable name of an image, whether there is such an image or not.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory's name: one component, and none that leads anywhere.
    pub(crate) fn directory(&self) -> Option<&str> {
        self.version.as_ref().map(|(directory, _)| directory.as_str())
    }

    pub(crate) fn is_key(&self, key: &str) -> bool {
        self.version.as_ref().is_none_or(|(_, short)| key.starts_with(short.as_str()))
    }
}

/// `NAME-KEY` or `NAME-KEY-COUNTER`.
fn take_apart(directory: &str) -> Option<(&str, &str)> {
    let is_key = |text: &str| {
        text.len() == SHORT_KEY_CHARS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_counter = |text: &str| {
        (1..=COUNTER_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    let (before, last) = directory.rsplit_once('-')?;
    if is_key(last) {
        return Some((before, last));
    }
    let (name, key) = before.rsplit_once('-')?;
    (is_counter(last) && is_key(key)).then_some((name, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<Origin> {
        Origin::of(Path::new(path), Path::new("/n/images"))
    }

    #[test]
    fn the_name_is_in_the_path() {
        for (path, name) in [
            ("/var/lib/nestling/images/.versions/host-3e66ce8f35af92dd/vmlinux", "host"),
            ("/x/.versions/pebble-3e66ce8f35af92dd-12/initrd.cpio", "pebble"),
            ("/x/.versions/my-kernel.2-3e66ce8f35af92dd/kernel", "my-kernel.2"),
        ] {
            let origin = of(path).unwrap();
            assert_eq!(origin.name(), name, "{path}");
            assert!(origin.is_key("3e66ce8f35af92dd00") && !origin.is_key("4e66ce8f35af92dd00"));
        }
        let current = of("/n/images/pebble/vmlinuz").unwrap();
        assert_eq!((current.name(), current.directory()), ("pebble", None));
    }

    #[test]
    fn a_path_that_no_store_has_names_no_image() {
        for path in [
            "",
            "/",
            "vmlinux",
            "/etc/shadow",
            "/x/.versions/../shadow",
            "/x/.versions/host-3e66ce8f35af92dd/..",
            "/x/.versions/host/vmlinux",
            "/x/.versions/host-3e66ce8f35af92d/vmlinux",
            "/x/.versions/-3e66ce8f35af92dd/vmlinux",
            "/x/.versions/.h-3e66ce8f35af92dd/vmlinux",
            "/x/.versions/h h-3e66ce8f35af92dd/vmlinux",
            "/x/.versions/host-3E66CE8F35AF92DD/vmlinux",
            "/x/.versions/host-3e66ce8f35af92dd-1234/vmlinux",
            "/other/images/pebble/vmlinuz",
            "/n/images/.tmp/vmlinuz",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}

//! Where something was, and where it goes. Pure.

use nestling_explore::{ComposedId, ExploreError, FileName, FilePath, Place};

use crate::failure::{Failure, Result};

/// Subvolumes that systems have their root in, where a volume's top level is none.
const SUBVOLUMES: [&[u8]; 3] = [b"@", b"@rootfs", b"root"];

/// A place in a point, taken apart.
#[derive(Debug)]
pub struct Origin {
    /// With a `/` at its end; empty for what is put together from several disks.
    disk: String,
    place: Place,
}

impl Origin {
    pub fn parse(text: &str) -> Result<Self> {
        let failed = |error: ExploreError| Failure::usage(format!("{text} is no place: {error}"));
        let (disk, place) = match ComposedId::is_meant(text) {
            true => (String::new(), text),
            false => match text.split_once('/') {
                Some((disk, place)) => (format!("{disk}/"), place),
                None => (String::new(), ""),
            },
        };
        let place: Place = place.parse().map_err(failed)?;
        if place.last().is_none() {
            let said = format!("{text} is a disk; a place in one of its volumes is such as scsi:0/1:/etc");
            return Err(Failure::usage(said));
        }
        Ok(Self { disk, place })
    }

    /// From the volume's root on.
    pub fn names(&self) -> &[FileName] {
        self.place.last().map_or(&[], |last| last.path.names())
    }

    /// The place of its first so many names, and of `more` below that.
    pub fn above(&self, count: usize, more: &[&str]) -> String {
        let names = self.names().iter().take(count).cloned();
        let more = more.iter().map(|name| FileName::from(name.as_bytes()));
        let path = FilePath::from(names.chain(more).collect::<Vec<_>>());
        format!("{}{}", self.disk, self.place.at(path))
    }

    /// How many names may lead to the root of a system.
    pub fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        let first = self.names().first().map(FileName::as_bytes);
        let is_subvolume = first.is_some_and(|name| SUBVOLUMES.contains(&name));
        (0..=1).filter(move |count| *count == 0 || is_subvolume)
    }
}

/// A folder of the guest, as its names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folder(pub Vec<String>);

impl Folder {
    /// What a user names.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |why: &str| Failure::usage(format!("{text:?} is no folder of a guest: {why}"));
        if !text.starts_with('/') {
            return Err(refused("it begins with /"));
        }
        let names: Vec<String> =
            text.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect();
        if names.iter().any(|name| name == ".." || name.contains('\0')) {
            return Err(refused("it may have neither .. nor a zero in it"));
        }
        Ok(Self(names))
    }

    /// Where the names led, if a guest can be told so: its agent takes text alone.
    pub fn of(names: &[FileName]) -> Option<Self> {
        let text = |name: &FileName| {
            let usable = name.is_usable().then(|| name.as_bytes().to_vec());
            usable.and_then(|bytes| String::from_utf8(bytes).ok())
        };
        names.iter().map(text).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Without its last so many names, and those.
    pub fn split(&self, missing: usize) -> (Self, &[String]) {
        let (there, missing) = self.0.split_at(self.0.len().saturating_sub(missing));
        (Self(there.to_vec()), missing)
    }

    pub fn path(&self) -> String {
        format!("/{}", self.0.join("/"))
    }

    pub fn child(&self, name: &str) -> String {
        match self.0.is_empty() {
            true => format!("/{name}"),
            false => format!("{}/{name}", self.path()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_apart() {
        for (text, names, above) in [
            ("scsi:0/2:/etc/ssh", 2, "scsi:0/2:/etc"),
            ("scsi:0/2:/vms/a.vhdx//1:/a/b", 2, "scsi:0/2:/vms/a.vhdx//1:/a"),
            ("lvm/data/files:/a/\\xff", 2, "lvm/data/files:/a"),
            ("scsi:0/2:/", 0, "scsi:0/2:/"),
            ("scsi:0/2", 0, "scsi:0/2:/"),
        ] {
            let origin = Origin::parse(text).expect(text);
            assert_eq!((origin.names().len(), &*origin.above(1, &[])), (names, above), "{text}");
        }
        let origin = Origin::parse("scsi:0/2:/a").expect("a place");
        assert_eq!(origin.above(0, &["etc", "passwd"]), "scsi:0/2:/etc/passwd");
        for bad in ["", "scsi:0", "scsi:0/", "scsi:0/2:/a//", "scsi:0/2:/../a"] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
        let roots = |text: &str| Origin::parse(text).expect(text).roots().collect::<Vec<_>>();
        assert_eq!((roots("scsi:0/2:/etc"), roots("scsi:0/2:/@/etc")), (vec![0], vec![0, 1]));
    }

    #[test]
    fn a_folder_is_a_whole_path() {
        let folder = Folder::parse("/srv//www/./a/").expect("a folder");
        assert_eq!((folder.path(), folder.child("b")), ("/srv/www/a".into(), "/srv/www/a/b".into()));
        let (base, missing) = folder.split(2);
        assert_eq!((base.path(), missing.join("/")), ("/srv".into(), "www/a".into()));
        let (base, missing) = folder.split(9);
        assert_eq!((base.path(), base.child("x"), missing.len()), ("/".into(), "/x".into(), 3));
        for bad in ["", "srv", "/srv/../etc", "/a\0b", "./a"] {
            assert!(Folder::parse(bad).is_err(), "{bad}");
        }
        let names =
            |names: &[&[u8]]| Folder::of(&names.iter().map(|n| FileName::from(*n)).collect::<Vec<_>>());
        assert_eq!(names(&[b"a", b"b"]), Some(Folder(vec!["a".into(), "b".into()])));
        for bad in [&b".."[..], b"a/b", b"\xff", b"", b"a\0"] {
            assert_eq!(names(&[bad]), None, "{bad:?}");
        }
    }
}

//! Where something is on a disk, through volumes and disk images, to any depth.
//!
//! As text: a volume ([`VolumeId`]), `:`, a path in it; where the file there is a disk image, `//` and the same again for the disk
//! inside: `2:/home/l2.qcow2//1:/etc/hostname`. A text that ends with `//`, or is empty, means the disk itself. Names are
//! escaped as in every path (`name.rs`), and are never empty, so that `//` cannot be in one. A place is only text until the
//! reader's process goes there: it says nothing about what is there.

use std::{fmt, str::FromStr};

use crate::{ExploreError, FilePath, Result, VolumeId};

/// Images inside each other. Deeper nests than these do not run.
pub const DEPTH_MAX: usize = 8;
const TEXT_BYTES_MAX: usize = 32 << 10;

/// A path in one of a disk's volumes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InVolume {
    pub volume: VolumeId,
    pub path: FilePath,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Place {
    /// The images on the way, outermost first.
    images: Vec<InVolume>,
    /// What is meant in the innermost disk; the disk itself when absent.
    last: Option<InVolume>,
}

impl Place {
    #[must_use]
    pub fn images(&self) -> &[InVolume] {
        &self.images
    }

    #[must_use]
    pub fn last(&self) -> Option<&InVolume> {
        self.last.as_ref()
    }

    /// The outermost volume on the way; none where the outermost disk itself is meant.
    #[must_use]
    pub fn outermost(&self) -> Option<&InVolume> {
        self.images.first().or(self.last.as_ref())
    }

    /// The root of the volume that it is in; the disk itself where there is none.
    #[must_use]
    pub fn volume_only(&self) -> Self {
        self.at(FilePath::default())
    }

    /// The disk that `last` is in.
    #[must_use]
    pub fn disk(&self) -> Self {
        self.with(None)
    }

    /// The outermost image, and the place in it.
    #[must_use]
    pub fn in_image(&self) -> Option<(&InVolume, Self)> {
        let (first, rest) = self.images.split_first()?;
        Some((first, Self { images: rest.to_vec(), last: self.last.clone() }))
    }

    /// The root of a volume of the innermost disk.
    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> Self {
        self.with(Some(InVolume { volume, path: FilePath::default() }))
    }

    /// Another path in the same volume; the place itself where there is none.
    #[must_use]
    pub fn at(&self, path: FilePath) -> Self {
        self.with(self.last.as_ref().map(|last| InVolume { volume: last.volume.clone(), path }))
    }

    fn with(&self, last: Option<InVolume>) -> Self {
        Self { images: self.images.clone(), last }
    }
}

impl fmt::Display for InVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, self.path)
    }
}

impl FromStr for InVolume {
    type Err = ExploreError;

    fn from_str(text: &str) -> Result<Self> {
        let (volume, path) = text.split_once(':').unwrap_or((text, ""));
        let volume = volume.parse()?;
        Ok(Self { volume, path: path.parse()? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.images.iter().try_for_each(|image| write!(f, "{image}//"))?;
        self.last.iter().try_for_each(|last| write!(f, "{last}"))
    }
}

impl FromStr for Place {
    type Err = ExploreError;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ExploreError::invalid("...", "the place is too long"));
        }
        let mut parts: Vec<&str> = text.split("//").collect();
        let last = parts.pop().filter(|last| !last.is_empty()).map(str::parse).transpose()?;
        if parts.len() > DEPTH_MAX {
            return Err(ExploreError::invalid(text, "a place goes through 8 disk images at most"));
        }
        let images: Vec<InVolume> = parts.into_iter().map(str::parse).collect::<Result<_>>()?;
        if images.iter().any(|image| image.path.names().is_empty()) {
            return Err(ExploreError::invalid(text, "before // stands a disk image, which is a file"));
        }
        Ok(Self { images, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_back_from_its_text() {
        for text in
            ["", "0:/", "2:/a b/c", "2:/a//", "2:/x.qcow2//1:/y\\x2fz.vhdx//5:/etc:1/é", "lvm/a/b:/c//md/d:/"]
        {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), text);
        }
        let same = |a: &str, b: &str| assert_eq!(a.parse::<Place>().ok(), b.parse().ok(), "{a}");
        same("2", "2:/");
        same("2:", "2:/");
        same("2:a/b/", "2:/a/b");
        let place: Place = "2:/a//".parse().expect("a place");
        assert_eq!(place.volume(VolumeId::Number(3)).to_string(), "2:/a//3:/");
        let inside = place.volume(VolumeId::Number(3)).at("/x".parse().expect("a path"));
        assert_eq!(
            (inside.to_string().as_str(), inside.disk().to_string().as_str()),
            ("2:/a//3:/x", "2:/a//")
        );
        let (image, rest) = inside.in_image().expect("an image");
        assert_eq!((image.to_string(), rest.to_string()), ("2:/a".to_owned(), "3:/x".to_owned()));
        assert_eq!(rest.outermost(), rest.last());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let deep = "1:/a//".repeat(DEPTH_MAX);
        assert!(deep.parse::<Place>().is_ok());
        for text in
            ["x", ":/a", "+1:/a", "4294967296:/", "1:/..", "1:/a/../b", "1://1:/", "//", "1:/a///", "1:/\\x"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        assert!(format!("{deep}1:/a//").parse::<Place>().is_err());
        assert!("1:/".repeat(TEXT_BYTES_MAX).parse::<Place>().is_err());
    }
}

//! The text that says what a VMDK image is made of: a pure function of its bytes.

use crate::{
    error::Fault::{self, Damaged, Unsupported},
    mapped::DISK_BYTES_MAX,
};

/// Larger is none that a program writes.
pub(super) const TEXT_BYTES_MAX: u64 = 1 << 20;
const BEGIN: &str = "# Disk DescriptorFile";
/// What `parentCID` is where there is no parent.
const NO_PARENT: u32 = u32::MAX;
const SECTOR: u64 = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Changes with every change of what a machine sees; a child knows its parent by it.
    pub cid: Option<u32>,
    pub parent: Option<Parent>,
    pub create_type: String,
    pub extents: Vec<ExtentLine>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub cid: u32,
    /// The name of its descriptor.
    pub name: String,
}

/// One stretch of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentLine {
    pub length_bytes: u64,
    pub kind: ExtentType,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentType {
    Zero,
    /// Byte for byte, from this byte of the file on.
    Flat {
        file: String,
        offset: u64,
    },
    /// With tables of its own.
    Sparse {
        file: String,
    },
}

/// Whether these are the first bytes of a descriptor.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.get(..BEGIN.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(BEGIN.as_bytes()))
}

impl Descriptor {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if !is_text(bytes) {
            return Err(Damaged(0, "it is no VMDK image".into()));
        }
        // Inside an image, zeroes fill up what was reserved for it.
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let Ok(text) = std::str::from_utf8(&bytes[..length]) else {
            return Err(Unsupported("has a descriptor that is not UTF-8".into()));
        };
        let mut found = Self { cid: None, parent: None, create_type: String::new(), extents: Vec::new() };
        let (mut parent_cid, mut hint) = (NO_PARENT, None);
        let mut size_bytes = 0_u64;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(extent) = extent(line)? {
                size_bytes = size_bytes.saturating_add(extent.length_bytes);
                found.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "cid" => found.cid = Some(cid(value)?),
                    "parentcid" => parent_cid = cid(value)?,
                    "createtype" => value.clone_into(&mut found.create_type),
                    "parentfilenamehint" => hint = Some(value.to_owned()),
                    _ => {}
                }
            }
        }
        if size_bytes > DISK_BYTES_MAX {
            return Err(Damaged(0, format!("a disk of {size_bytes} bytes")));
        }
        found.parent = match (parent_cid, hint) {
            (NO_PARENT, _) => None,
            (cid, Some(name)) => Some(Parent { cid, name }),
            (_, None) => return Err(Damaged(0, "it does not say where its parent is".into())),
        };
        Ok(found)
    }
}

fn cid(text: &str) -> Result<u32, Fault> {
    u32::from_str_radix(text, 16).map_err(|_| Damaged(0, format!("a content id {text:?}")))
}

/// A line such as `RW 4192256 SPARSE "disk-s001.vmdk"`. None if it is another line.
fn extent(line: &str) -> Result<Option<ExtentLine>, Fault> {
    let (access, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match access {
        "RW" | "RDONLY" => {}
        "NOACCESS" => return Err(Unsupported("has a part that may not be read (NOACCESS)".into())),
        _ => return Ok(None),
    }
    let wrong = || Damaged(0, format!("a line {line:?}"));
    let (sectors, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(wrong)?;
    let sectors: u64 = sectors.parse().map_err(|_| wrong())?;
    let length_bytes = sectors.checked_mul(SECTOR).ok_or_else(wrong)?;
    let (kind, rest) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim_start(), ""));
    // A name may hold blanks, and ends with the last quotation mark.
    let named = || -> Result<(String, &str), Fault> {
        let inside = rest.trim_start().strip_prefix('"').ok_or_else(wrong)?;
        let (name, behind) = inside.rsplit_once('"').ok_or_else(wrong)?;
        Ok((name.to_owned(), behind.trim()))
    };
    let kind = match kind {
        "ZERO" => ExtentType::Zero,
        "FLAT" | "VMFS" => {
            let (file, behind) = named()?;
            let offset: u64 = match behind.split_whitespace().next() {
                None => 0,
                Some(sectors) => sectors.parse().map_err(|_| wrong())?,
            };
            ExtentType::Flat { file, offset: offset.checked_mul(SECTOR).ok_or_else(wrong)? }
        }
        "SPARSE" | "VMFSSPARSE" => ExtentType::Sparse { file: named()?.0 },
        other => {
            return Err(Unsupported(format!("has a part of the kind {other:?}, which is not read here")));
        }
    };
    Ok(Some(ExtentLine { length_bytes, kind }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=12ab34CD\n\
        createType=\"twoGbMaxExtentFlat\"\nparentFileNameHint=\"C:\\VMs\\base disk.vmdk\"\n\n# Extent description\n\
        RW 4192256 FLAT \"my \"disk\"-f001.vmdk\" 0\nRDONLY  63 ZERO\r\nRW 8 VMFS \"d-flat.vmdk\"\n\
        RW 16 SPARSE \"s.vmdk\"\nddb.adapterType = \"ide\"\n\0\0\0";

    #[test]
    fn all_that_counts_is_found() {
        let found = Descriptor::parse(TEXT.as_bytes()).expect("a descriptor");
        assert_eq!((found.cid, found.create_type.as_str()), (Some(0xffff_fffe), "twoGbMaxExtentFlat"));
        let parent = Parent { cid: 0x12ab_34cd, name: "C:\\VMs\\base disk.vmdk".into() };
        assert_eq!(found.parent, Some(parent));
        let flat = |file: &str, offset| ExtentType::Flat { file: file.into(), offset };
        let kinds = [
            flat("my \"disk\"-f001.vmdk", 0),
            ExtentType::Zero,
            flat("d-flat.vmdk", 0),
            ExtentType::Sparse { file: "s.vmdk".into() },
        ];
        assert_eq!(found.extents.iter().map(|extent| extent.kind.clone()).collect::<Vec<_>>(), kinds);
        assert_eq!(found.extents[1].length_bytes, 63 * 512);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (line, expected) in [
            ("RW 1 SESPARSE \"x\"", "SESPARSE"),
            ("RW x FLAT \"x\"", "a line"),
            ("RW 1 FLAT x", "a line"),
            ("RW 36028797018963968 ZERO", "a line"),
            ("RW 1 FLAT \"x\" 36028797018963968", "a line"),
            ("RW 137438953473 ZERO", "a disk of"),
            ("NOACCESS 1 ZERO", "may not be read"),
            ("CID=xyz", "content id"),
            ("parentCID=1", "where its parent is"),
        ] {
            let fault = Descriptor::parse(format!("{BEGIN}\n{line}\n").as_bytes()).expect_err(line);
            assert!(format!("{fault:?}").contains(expected), "{line}: {fault:?}");
        }
        assert!(Descriptor::parse(b"# Disk Descriptor").is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(changes in prop::collection::vec((0..TEXT.len(), any::<u8>()), 1..20)) {
            let mut bytes = TEXT.as_bytes().to_vec();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(found) = Descriptor::parse(&bytes) {
                prop_assert!(found.extents.iter().map(|extent| extent.length_bytes).sum::<u64>() <= DISK_BYTES_MAX);
            }
        }
    }
}

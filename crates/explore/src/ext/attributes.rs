//! Extended attributes, in the inode, in a block of their own, and in inodes of their own; and files that are short
//! enough to lie among them.

use crate::{
    FileName, Result,
    bytes::{le16, le32, part, u8_at},
    fs::ExtendedAttribute,
};

use super::{
    Ext,
    inode::{Inode, flag},
};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEAD_BYTES: usize = 32;
const ENTRY_HEAD_BYTES: usize = 16;
/// As much as Linux gives out for one attribute.
const VALUE_BYTES_MAX: u32 = 64 << 10;
/// Of one file together.
const VALUES_BYTES_MAX: usize = 4 << 20;
const INDEX_SYSTEM: u8 = 7;

/// One entry, its value not yet fetched.
struct Raw<'a> {
    index: u8,
    name: &'a [u8],
    /// None when it lies in an inode of its own.
    value: Option<&'a [u8]>,
    inode: u32,
    size: u32,
}

impl Ext {
    pub(super) fn attributes_of(&self, inode: &Inode) -> Result<Vec<ExtendedAttribute>> {
        let block = self.attributes_block(inode)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for raw in inside(inode).into_iter().chain(in_block(&block)) {
            let raw =
                raw.ok_or_else(|| self.volume.damaged(format!("inode {}: its attributes", inode.number)))?;
            if raw.index == INDEX_SYSTEM && raw.name == b"data" {
                continue;
            }
            let Some(name) = full_name(&raw) else { continue };
            let value = self.value(&raw)?;
            bytes += value.len();
            if bytes > VALUES_BYTES_MAX {
                return Err(self
                    .volume
                    .limit("extended attributes of one file, in bytes", VALUES_BYTES_MAX as u64));
            }
            let value = if matches!(raw.index, 2 | 3) { access_list(&value).unwrap_or(value) } else { value };
            found.push(ExtendedAttribute { name: FileName::from(name), value });
        }
        Ok(found)
    }

    /// The bytes of a file that lie in its inode.
    pub(super) fn inline_data(&self, inode: &Inode) -> Result<[Vec<u8>; 2]> {
        let mut rest = Vec::new();
        for raw in inside(inode).into_iter().flatten() {
            if raw.index == INDEX_SYSTEM && raw.name == b"data" {
                rest = self.value(&raw)?;
                break;
            }
        }
        Ok([inode.map().to_vec(), rest])
    }

    fn value(&self, raw: &Raw<'_>) -> Result<Vec<u8>> {
        if let Some(value) = raw.value {
            return Ok(value.to_vec());
        }
        if raw.size > VALUE_BYTES_MAX {
            return Err(self.volume.limit("an extended attribute, in bytes", VALUE_BYTES_MAX.into()));
        }
        let inode = self.inode(raw.inode.into())?;
        if !inode.has(flag::EA_INODE) || inode.size_bytes != u64::from(raw.size) {
            return Err(self.volume.damaged(format!("inode {} is said to hold an attribute", raw.inode)));
        }
        let mut value = vec![0; raw.size as usize];
        self.read_blocks(&inode, 0, &mut value)?;
        Ok(value)
    }

    fn attributes_block(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.attributes_block == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.block(inode.attributes_block)?;
        if le32(&bytes, 0) != MAGIC || le32(&bytes, 8) != 1 {
            return Err(self.volume.damaged(format!("inode {}: its block of attributes", inode.number)));
        }
        Ok(bytes)
    }
}

fn inside(inode: &Inode) -> Vec<Option<Raw<'_>>> {
    match inode.attributes_start() {
        Some(start) if le32(&inode.bytes, start) == MAGIC => {
            let area = &inode.bytes[start + 4..];
            entries(area, area)
        }
        _ => Vec::new(),
    }
}

fn in_block(block: &[u8]) -> Vec<Option<Raw<'_>>> {
    block.get(BLOCK_HEAD_BYTES..).map(|list| entries(list, block)).unwrap_or_default()
}

/// A list of entries whose values lie in `values`. One that makes no sense is the last.
fn entries<'a>(list: &'a [u8], values: &'a [u8]) -> Vec<Option<Raw<'a>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while list.len() >= at + 4 && le32(list, at) != 0 {
        let entry = read(&list[at..], values);
        let Some(raw) = entry else {
            found.push(None);
            break;
        };
        at += (ENTRY_HEAD_BYTES + raw.name.len()).next_multiple_of(4);
        found.push(Some(raw));
    }
    found
}

fn read<'a>(entry: &'a [u8], values: &'a [u8]) -> Option<Raw<'a>> {
    let name = part(entry, ENTRY_HEAD_BYTES, u8_at(entry, 0).into())?;
    let (inode, size) = (le32(entry, 4), le32(entry, 8));
    let value = match inode {
        0 => Some(part(values, le16(entry, 2).into(), size as usize)?),
        _ => None,
    };
    Some(Raw { index: u8_at(entry, 1), name, value, inode, size })
}

/// What `getxattr` calls it. None is what is not for users (the policy of encryption).
fn full_name(raw: &Raw<'_>) -> Option<Vec<u8>> {
    let prefix: &[u8] = match raw.index {
        0 => b"",
        1 => b"user.",
        2 => return Some(b"system.posix_acl_access".to_vec()),
        3 => return Some(b"system.posix_acl_default".to_vec()),
        4 => b"trusted.",
        6 => b"security.",
        INDEX_SYSTEM => b"system.",
        8 => return Some(b"system.richacl".to_vec()),
        _ => return None,
    };
    Some([prefix, raw.name].concat())
}

/// An access control list as `getxattr` gives it: on disk, entries that need no id have none.
fn access_list(disk: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x2;
    const GROUP: u16 = 0x8;
    if le32(disk, 0) != 1 {
        return None;
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut rest = disk.get(4..)?;
    while !rest.is_empty() {
        list.extend(part(rest, 0, 4)?);
        let with_id = matches!(le16(rest, 0), USER | GROUP);
        list.extend(if with_id { part(rest, 4, 4)? } else { &[0xff; 4] });
        rest = &rest[if with_id { 8 } else { 4 }..];
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lists_are_as_linux_gives_them() {
        let disk = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0, 0x20, 0, 4, 0];
        let expected = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xe8, 3, 0, 0, 0x20, 0, 4, 0, 255, 255,
            255, 255,
        ];
        assert_eq!(access_list(&disk).as_deref(), Some(&expected[..]));
        assert_eq!(access_list(&disk[..disk.len() - 1]), None);
        assert_eq!(access_list(&[2, 0, 0, 0]), None);
    }
}

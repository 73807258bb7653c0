//! Which characters count as the same in names, as the volume's own table says.

use std::cmp::Ordering;

use crate::bytes::le16;

#[derive(Debug)]
pub(super) struct Upcase(Vec<u16>);

impl Upcase {
    pub(super) const BYTES: u64 = 2 << 16;

    /// From the bytes of the table; where it lacks one, a character stands for itself.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self(
            (0..1 << 16)
                .map(|unit| if unit * 2 + 2 <= bytes.len() { le16(bytes, unit * 2) } else { unit as u16 })
                .collect(),
        )
    }

    /// For volumes whose own table cannot be read.
    pub(super) fn ascii() -> Self {
        Self(
            (0..=u16::MAX)
                .map(|unit| u8::try_from(unit).map_or(unit, |byte| byte.to_ascii_uppercase().into()))
                .collect(),
        )
    }

    fn units<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = u16> + 'a {
        name.chunks_exact(2).map(|unit| self.0[usize::from(le16(unit, 0))])
    }

    pub(super) fn same(&self, a: &[u8], b: &[u8]) -> bool {
        self.units(a).eq(self.units(b))
    }

    /// The order of names in a directory, without regard to case.
    pub(super) fn order(&self, a: &[u8], b: &[u8]) -> Ordering {
        self.units(a).cmp(self.units(b))
    }

    /// The same, where names that differ in case alone are two.
    pub(super) fn exact_order(&self, a: &[u8], b: &[u8]) -> Ordering {
        let units = |name: &[u8]| name.chunks_exact(2).map(|unit| le16(unit, 0)).collect::<Vec<_>>();
        self.order(a, b).then_with(|| units(a).cmp(&units(b)))
    }
}

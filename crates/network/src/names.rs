//! The names of what a node makes in the kernel.
//!
//! Every name is built from the node's tag and an id, never from what a person typed, so that two
//! nodes on one machine do not meet and no text can reach the kernel or `nft`.

use nestling_model::{AdapterId, SwitchId};
use uuid::Uuid;

/// What tells the interfaces and tables of one node from those of another; made from the home's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 2]);

/// What an interface of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ours {
    /// A switch's bridge.
    Bridge,
    /// A machine's port.
    Tap,
}

impl Tag {
    /// The bridge of a switch.
    pub fn bridge(self, id: SwitchId) -> String {
        format!("{}{}", self.bridge_prefix(), short(id.0))
    }

    /// The tap device of an adapter.
    pub fn tap(self, id: AdapterId) -> String {
        format!("{}{}", self.tap_prefix(), short(id.0))
    }

    /// The nftables table, in the families `bridge` and `inet`.
    pub fn table(self) -> String {
        format!("nestling_{}", self.hex())
    }

    /// What an interface name of this node stands for; none for anyone else's.
    pub fn owns(self, name: &str) -> Option<Ours> {
        let is_id = |rest: &str| {
            rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if name.strip_prefix(&self.bridge_prefix()).is_some_and(is_id) {
            Some(Ours::Bridge)
        } else if name.strip_prefix(&self.tap_prefix()).is_some_and(is_id) {
            Some(Ours::Tap)
        } else {
            None
        }
    }

    pub(crate) fn bridge_prefix(self) -> String {
        format!("nb{}", self.hex())
    }

    pub(crate) fn tap_prefix(self) -> String {
        format!("nt{}", self.hex())
    }

    fn hex(self) -> String {
        format!("{:02x}{:02x}", self.0[0], self.0[1])
    }
}

/// The first four octets: an interface name has room for no more.
pub(crate) fn short(id: Uuid) -> String {
    id.as_bytes()[..4].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_recognised_by_their_own_tag_only() {
        let id = Uuid::from_bytes([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let tag = Tag([0x0a, 0xf1]);
        assert_eq!(tag.bridge(SwitchId(id)), "nb0af1deadbeef");
        assert_eq!(tag.tap(AdapterId(id)), "nt0af1deadbeef");
        assert!(tag.tap(AdapterId(id)).len() <= 15);
        assert_eq!(tag.owns("nb0af1deadbeef"), Some(Ours::Bridge));
        assert_eq!(tag.owns("nt0af1deadbeef"), Some(Ours::Tap));
        for foreign in
            ["nt0af2deadbeef", "nt0af1deadbee", "nt0af1DEADBEEF", "nt0af1deadbeefa", "eth0", "lo", ""]
        {
            assert_eq!(tag.owns(foreign), None, "{foreign}");
        }
    }
}

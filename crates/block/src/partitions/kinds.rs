//! What a partition is for, by the type that its table gives it.
//!
//! It is what somebody wrote there, and no promise: what is inside is told by its own bytes.

use crate::Guid;

/// The type as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeId {
    Mbr(u8),
    Gpt(Guid),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// The disk has no table: all of it is one volume.
    Whole,
    /// A file system, of whichever system.
    Data,
    Swap,
    Lvm,
    /// Of Linux's md.
    Raid,
    /// What firmware boots from.
    EfiSystem,
    /// For a boot loader's code alone.
    BiosBoot,
    /// Windows keeps it free, or for itself.
    MicrosoftReserved,
    /// Windows' dynamic disks and storage spaces.
    WindowsPool,
    /// Holds the logical partitions, which are in the list themselves.
    Extended,
    /// Of a type that is not known here: anything.
    Other,
}

/// GPT's types, as their text.
const GPT: &[(u128, PartitionKind)] = &[
    (0xebd0_a0a2_b9e5_4433_87c0_68b6_b726_99c7, PartitionKind::Data), // Microsoft basic data
    (0xde94_bba4_06d1_4d40_a16a_bfd5_0179_d6ac, PartitionKind::Data), // Windows recovery environment
    (0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4, PartitionKind::Data), // Linux
    (0x933a_c7e1_2eb4_4f13_b844_0e14_e2ae_f915, PartitionKind::Data), // Linux /home
    (0x3b8f_8425_20e0_4f3b_907f_1a25_a76f_98e8, PartitionKind::Data), // Linux /srv
    (0x4d21_b016_b534_45c2_a9fb_5c16_e091_fd2d, PartitionKind::Data), // Linux /var
    (0xbc13_c2ff_59e6_4262_a352_b275_fd6f_7172, PartitionKind::Data), // Linux /boot
    (0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709, PartitionKind::Data), // Linux / on x86-64
    (0x8484_680c_9521_48c6_9c11_b072_0656_f69e, PartitionKind::Data), // Linux /usr on x86-64
    (0x0657_fd6d_a4ab_43c4_84e5_0933_c84b_4f4f, PartitionKind::Swap),
    (0xe6d6_d379_f507_44c2_a23c_238f_2a3d_f928, PartitionKind::Lvm),
    (0xa19d_880f_05fc_4d3b_a006_743f_0f84_911e, PartitionKind::Raid),
    (0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b, PartitionKind::EfiSystem),
    (0x2168_6148_6449_6e6f_744e_6565_6445_4649, PartitionKind::BiosBoot),
    (0xe3c9_e316_0b5c_4db8_817d_f92d_f002_15ae, PartitionKind::MicrosoftReserved),
    (0x5808_c8aa_7e8f_42e0_85d2_e1e9_0434_cfb3, PartitionKind::WindowsPool), // LDM metadata
    (0xaf9b_60a0_1431_4f62_bc68_3311_714a_69ad, PartitionKind::WindowsPool), // LDM data
    (0xe75c_af8f_f680_4cee_afa3_b001_e56e_fc2d, PartitionKind::WindowsPool), // storage spaces
];

impl TypeId {
    #[must_use]
    pub fn kind(self) -> PartitionKind {
        match self {
            Self::Mbr(id) => match id {
                0x01 | 0x04 | 0x06 | 0x07 | 0x0b | 0x0c | 0x0e | 0x11 | 0x14 | 0x16 | 0x17 | 0x1b | 0x1c
                | 0x1e | 0x27 | 0x83 => PartitionKind::Data,
                0x05 | 0x0f | 0x85 => PartitionKind::Extended,
                0x42 => PartitionKind::WindowsPool,
                0x82 => PartitionKind::Swap,
                0x8e => PartitionKind::Lvm,
                0xfd => PartitionKind::Raid,
                0xef => PartitionKind::EfiSystem,
                _ => PartitionKind::Other,
            },
            Self::Gpt(id) => GPT
                .iter()
                .find(|(known, _)| Guid::known(*known) == id)
                .map_or(PartitionKind::Other, |(_, kind)| *kind),
        }
    }
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mbr(id) => write!(f, "{id:02x}"),
            Self::Gpt(id) => id.fmt(f),
        }
    }
}

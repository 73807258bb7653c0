use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A bootable image of this host's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    pub name: String,
    pub description: String,
    /// Whether it can be used now. Recipes that were not built yet are listed too.
    pub built: bool,
    pub size_bytes: u64,
    /// The generations that it boots with, the usual one first.
    pub generations: Vec<u8>,
    pub memory_bytes: u64,
    /// Whether machines made from it get a disk.
    pub has_disk: bool,
    /// Whether it starts from its own kernel rather than by firmware.
    pub direct_kernel: bool,
}

/// How to build an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BuildImage {
    /// Build it even when nothing that it is made of has changed.
    pub force: bool,
}

/// One line of a build's answer. The last one has `image` or `error`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BuildProgress {
    pub message: String,
    pub done: u32,
    pub total: u32,
    pub image: Option<Image>,
    pub error: Option<super::ErrorBody>,
}

/// A disk image from elsewhere, or a kernel with its initial RAM disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImportImage {
    pub name: String,
    /// A qcow2 or raw disk image, or a directory with `vmlinuz` and `initrd.img`.
    pub path: String,
    /// What a disk image is; otherwise its first bytes say whether it is qcow2, and anything else is raw.
    pub format: Option<super::DiskFormat>,
    /// The only generation that a disk image boots with; otherwise both are allowed.
    pub generation: Option<u8>,
}

//! Images: recipes that build bootable guests from Debian packages on the machine itself, and the store that
//! keeps them.
//!
//! What is built depends on packages and recipes alone, so no image is ever committed or downloaded ready made.
//! This crate must never write outside the store's directory, use loop devices or mounts, or change what is
//! installed on the host. All functions block; an asynchronous caller runs them on a blocking thread.

mod boot_disk;
mod command;
mod cpio;
mod error;
mod image;
mod import;
mod kernel;
mod origin;
mod packages;
mod progress;
mod recipe;
mod root;
mod seed;
mod store;

pub use error::ImageError;
pub use image::{DiskFormat, Image, ImageKind};
pub use import::ImportOptions;
pub use origin::Origin;
pub use progress::{Progress, Silent};
pub use recipe::Recipe;
pub use seed::{Addressing, Seed, SeedNetwork, SeedUser};
pub use store::{BuildOptions, ImageStore};

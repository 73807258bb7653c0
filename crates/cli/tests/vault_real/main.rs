//! The vault under what happens to real processes: killed at any moment, on full and read-only disks, beside a stock
//! restic, under QEMU, with a disk of 1 TiB, on an S3 server, mounted.
//!
//! What a test needs and this machine has not is named in a line that says "skipped". `NESTLING_VAULT_KILLS` sets how
//! often processes are killed, `NESTLING_VAULT_SEED` repeats a run's choices, `NESTLING_VAULT_BOOT` names a Debian image
//! (qcow2) to boot from a point.

mod boot;
mod full;
mod kill;
mod large;
mod mount;
mod nbd;
mod place;
mod restic;
mod s3;
#[expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]
#[path = "../../../vault/tests/storage_s3/server.rs"]
mod server;

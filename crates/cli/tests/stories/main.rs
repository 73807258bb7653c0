//! Stories: what people do with Nestling, told with real guests on a real (emulated) host.
//!
//! They need root, run one at a time (`--test-threads=1`), and share built images. Each is to read as a
//! story: who does what, and what is then seen.

mod applications;
mod bad_input;
mod cmdlets;
mod exchange;
mod faults;
mod files;
mod files_back;
mod firmware;
mod guide;
mod inner;
mod jobs;
mod life;
mod mounted;
mod nest;
mod nested;
mod network;
mod proof;
mod protect;
mod reboot;
mod recover;
mod torture;

//! The program that runs from the initramfs and writes an image to the root disk.
//!
//! It is the first and only process of its boot. `init` is its way from the kernel's hand-over to the
//! reboot; everything it calls runs as well in an ordinary process, on loop devices and files.

pub mod clock;
pub mod disk;
pub mod error;
pub mod identity;
pub mod initramfs;
pub mod job;
pub mod lifeboat;
pub mod network;
pub mod outcome;
pub mod pipeline;
pub mod reimage;
pub mod retry;
pub mod source;
pub mod status;
pub mod systems;
pub mod threads;
pub mod trial;

pub use error::{Context, Fault, Result};

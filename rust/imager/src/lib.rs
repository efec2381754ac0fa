//! The program that runs from the initramfs and writes an image to the root disk.
//!
//! It is the first and only process of its boot. `init` is its way from the kernel's hand-over to the
//! reboot; everything it calls runs as well in an ordinary process, on loop devices and files.

pub mod armed;
pub mod array;
pub mod clock;
pub mod devices;
pub mod disk;
pub mod error;
pub mod grow;
pub mod identity;
pub mod init;
pub mod insist;
pub mod job;
pub mod lifeboat;
pub mod log;
pub mod marker;
pub mod modules;
pub mod mount;
pub mod network;
pub mod new_system;
pub mod outcome;
pub mod partition;
pub mod pipeline;
pub mod previous;
pub mod record;
pub mod reimage;
pub mod source;
pub mod status;
pub mod superblock;
pub mod table;
pub mod target;
pub mod threads;
pub mod trial;
pub mod volume_group;
pub mod watchdog;

pub use error::{Context, Fault, Result};

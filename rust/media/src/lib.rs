//! On-disk formats, shared by the engine, the imager and the binding: partition tables, superblocks,
//! file systems that are read without mounting them, boot loaders, and what a disk image is.
//!
//! Nothing here opens a file: everything reads from a [`ReadAt`]. What is read may be hostile, so each
//! parser is bounded, and answers `None` for what makes no sense.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod gpt;
pub mod loader;
pub mod lvm;
pub mod read;
pub mod rules;
pub mod superblock;
pub mod survey;
pub mod system;
pub mod table;
pub mod tree;

pub use bytes::digits;
pub use read::{Ends, Guard, ReadAt, Source, Window};
pub use superblock::{Kind, Signature, probe};

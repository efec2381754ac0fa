//! Directory trees: opened without leaving their root, walked, and what is left out of them.

pub mod confine;
pub mod filesystem;
pub mod inode;
pub mod patterns;
pub mod root_path;
pub mod skips;
pub mod walk;

//! The disks of this machine, below their file systems.

pub mod fat;
pub mod fat_place;
pub mod gpt;
mod past_cache;

//! What firmware reads of a disk, its GPT and FAT, without the kernel's file systems.

pub mod fat;
pub mod fat_place;
pub mod gpt;
mod past_cache;

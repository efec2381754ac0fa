//! The system calls that no library wraps.

mod cachestat;
mod extent;
mod mapping;
mod prober;
mod sync;

pub use cachestat::{CacheStat, cachestat, has_cachestat};
pub use extent::physical_address;
pub use mapping::{Arena, Mapping};
pub use prober::{Prober, Query};
pub use sync::write_range_back;

/// Bytes in a page of memory.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

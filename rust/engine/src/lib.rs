//! The hot work of holdfast, without Python in it.
//!
//! Every long call takes a [`Progress`] that other threads read and cancel through, confines itself
//! to a [`Root`], and leaves nothing half-written behind when it fails or is cancelled.

pub mod confine;
pub mod digest;
pub mod error;
pub mod fat;
pub mod fat_place;
pub mod filesystem;
pub mod gpt;
pub mod image;
pub mod inode;
pub mod manifest;
pub mod memory;
pub mod pagecache;
mod past_cache;
pub mod patterns;
pub mod pool;
pub mod pressure;
pub mod progress;
pub mod read;
pub mod record;
pub mod request;
pub mod root_path;
pub mod signature;
pub mod skips;
pub mod space;
pub mod sys;
pub mod throttle;
pub mod walk;
pub mod xxh64;

pub use confine::Root;
pub use error::{Error, Result};
pub use progress::Progress;
pub use request::parse_request;
pub use root_path::RootPath;

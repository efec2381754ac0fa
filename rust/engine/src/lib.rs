//! The hot work of holdfast, without Python in it.
//!
//! Every long call takes a [`Progress`] that other threads read and cancel through, confines itself
//! to a [`Root`], and leaves nothing half-written behind when it fails or is cancelled.

pub mod digest;
pub mod disk;
pub mod error;
pub mod image;
pub mod manifest;
pub mod memory;
pub mod pagecache;
pub mod pool;
pub mod pressure;
pub mod progress;
pub mod read;
pub mod record;
pub mod request;
pub mod signature;
pub mod space;
pub mod sys;
pub mod throttle;
pub mod tree;
pub mod xxh64;

pub use error::{Error, Result};
pub use progress::Progress;
pub use request::parse_request;
pub use tree::confine::Root;
pub use tree::root_path::RootPath;

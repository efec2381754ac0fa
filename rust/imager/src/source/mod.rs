//! Where the image comes from.

pub mod ahead;
pub mod download;
pub mod http;
pub mod staged;
pub mod url;
pub mod volume;

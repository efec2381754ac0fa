//! Where the image comes from.

pub mod ahead;
pub mod staged;

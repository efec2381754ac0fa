//! The system that is written and the one that it replaces: what the first gets that is not of the
//! image, and how the second is kept.

pub mod marker;
pub mod new_system;
pub mod previous;

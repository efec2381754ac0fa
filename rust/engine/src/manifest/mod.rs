//! Manifests: every file below a directory with its digest, to prove that a copy is faithful.

pub mod build;
pub mod compare;
pub mod export;
pub mod fingerprint;
pub mod hashing;
pub mod inspect;
mod journal;
pub mod record;
pub mod report;
mod reuse;
pub mod stamps;
pub mod survey;
pub mod totals;
pub mod verify;

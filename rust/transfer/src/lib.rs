//! Moving a tree of files to another node: the protocol and its two ends.
//!
//! A [`Server`] on the source offers directories. [`pull`] on the destination fetches one, in
//! passes, proves every byte, survives kills and cuts, and completes once. What may be fetched by
//! whom, and when a transfer is final, is decided by the caller. The protocol, the order in which
//! things become durable and the threat model are in `docs/design/transfer.md`.

mod channel;
mod chunk;
mod clock;
mod destination;
mod error;
mod frames;
mod known;
pub mod message;
pub mod metadata;
pub mod owners;
mod ranges;
mod source;
mod statistics;
#[cfg(test)]
mod testing;
mod ticket;
mod tls;

pub use holdfast_engine::manifest::build::Outcome as ManifestOutcome;

pub use destination::manifest::Request as ManifestRequest;
pub use destination::repair::{
    Finding, Outcome as RepairOutcome, Request as RepairRequest, Side, repair,
};
pub use destination::{Limited, Outcome, Pass, Proof, Request, SourceManifest, Unfinished, pull};
pub use error::{Error, Result};
pub use owners::Unmapped;
pub use source::{Bound, Events, Limits, Mounts, Offer, Server, Status};
pub use statistics::{Statistics, statistics};
pub use ticket::{Certificate, Secret, Ticket};

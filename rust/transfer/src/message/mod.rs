//! The messages between the two ends. Every parser here reads what a stranger wrote.
//!
//! A frame is its kind (one byte), the length of its body (four bytes, little endian) and the body,
//! at most [`LIMIT`] bytes. Bodies are a message, a block of one file, or a pack of small files.

mod file;
mod frame;

pub use file::{End, Have, Listed, MOST_ATTRIBUTES, Metadata, Proven, Stamp, Table, Want, fits};
pub use frame::{
    BLOCK, BLOCK_HEAD, BlockHead, HEAD, Kind, LIMIT, SMALL, Small, head, pack, parse_head, unpack,
};

use holdfast_engine::manifest::fingerprint::Fingerprint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Proof;

/// The version of the protocol.
pub const VERSION: u16 = 1;
/// The first message of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// The offer's id.
    pub offer: [u8; 16],
    /// The destination's own public key: the first one that uses a ticket owns it.
    pub puller: [u8; 32],
    /// Signature of this connection by the ticket's key.
    pub ticket_proof: Vec<u8>,
    /// The same by the destination's key.
    pub puller_proof: Vec<u8>,
    /// Which connections belong together.
    pub session: [u8; 16],
    /// Whether this one carries data.
    pub data: bool,
}

/// Names of owners, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Users.
    pub users: Vec<(u32, String)>,
    /// Groups.
    pub groups: Vec<(u32, String)>,
}

/// Chunks of a file that the destination asks for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// Its path.
    pub path: Box<[u8]>,
    /// Which chunks, ascending.
    pub chunks: Vec<u32>,
}

/// The outcome of a chunk that the source read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is what the manifest has; its blocks follow.
    Good,
    /// Only the second reading was; its blocks follow.
    Second,
    /// Both readings differ from the manifest, and nobody wrote to the file: the source's device.
    Damaged,
    /// It cannot be compared: why.
    Lost(String),
}

/// From the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Prove who connects.
    Hello(Hello),
    /// List the directory.
    Survey,
    /// Add files to the next round.
    Want(Vec<Want>),
    /// Send them.
    Go {
        /// Data connections over which to send.
        connections: u8,
        /// At most this many bytes each second.
        bytes_per_second: Option<u64>,
        /// How far they will be proven.
        proof: Proof,
    },
    /// Check that the source is at rest, before the session that may complete the transfer.
    Final {
        /// Whether it is served although files are open for writing.
        overrule: bool,
    },
    /// Send the record of the page cache.
    PageCache,
    /// Make the source's own manifest of what was listed last: all of it has arrived.
    Complete,
    /// Send what the source's manifest has of what is offered.
    Proofs,
    /// Read chunks again, and send those that are as the manifest has them.
    Reread(Vec<Reread>),
}

/// Why a file was not sent whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// It changed while it was read, or since it was listed.
    Changed,
    /// It is gone.
    Vanished,
    /// The system's words.
    Error(String),
}

/// How the source spent its time, in milliseconds since the round began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Connections that waited for data to be read, each for itself.
    pub starved_ms: u64,
    /// Connections that waited for the wire, each for itself.
    pub sending_ms: u64,
    /// Processor time.
    pub processor_ms: u64,
    /// Processors.
    pub processors: u32,
    /// Time that the limit on the rate cost.
    pub limited_ms: u64,
}

/// From the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The connection may ask.
    Welcome,
    /// It may not, for this reason, or the request failed.
    Refused(String),
    /// A part of the listing, in the order of the paths' bytes.
    Listed(Vec<Listed>),
    /// The listing is complete.
    Surveyed {
        /// Lines.
        count: u64,
        /// Names left out, by reason.
        left_out: Vec<(String, u64)>,
    },
    /// Bytes of a file are a hole.
    Hole {
        /// Which want.
        want: u32,
        /// Where, in bytes.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// A chunk was read to its end.
    Chunk {
        /// Which want.
        want: u32,
        /// Which chunk.
        index: u32,
        /// Its own digest.
        digest: u64,
        /// State of the whole file's digest at its end, unless it is the last.
        state: Option<[u64; 4]>,
    },
    /// The chunks of a file of which the destination has some, and which of them follow.
    Compared {
        /// Which want.
        want: u32,
        /// All chunks.
        table: Table,
        /// Which of them differ from what the destination has.
        differing: Vec<u32>,
    },
    /// A file was read to its end, and did not change meanwhile.
    End(End),
    /// A file is not sent, or not to its end.
    Lost(u32, Loss),
    /// Nothing is there to be sent just now, but the source is alive.
    Wait,
    /// Nothing more of this round comes on this connection.
    Over(Spent),
    /// How the source has spent its time so far.
    Spent(Spent),
    /// Names of the owners in the listing that follows.
    Names(Names),
    /// Files of the source are open for writing: a sentence with their names.
    Writers(String),
    /// A part of a record.
    Part(Vec<u8>),
    /// The end of a record; false if there is none.
    Parts(bool),
    /// The source made its manifest, if it makes any.
    Completed(Option<Fingerprint>),
    /// Some of the manifest's files.
    Proven(Vec<Proven>),
    /// The end of the manifest: files, and files that it does not have.
    Proofs(u64, u64),
    /// The outcome of the next chunk that was asked for.
    Reread(Verdict),
    /// The source is not what it was when it was listed.
    Moved {
        /// Names that differ.
        count: u64,
        /// One of them.
        path: Box<[u8]>,
    },
}

/// Return a message as it crosses the wire.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages have only types that can be written")
}

/// Parse a message; `None` for anything else, or if bytes follow it.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_blocks_and_packs_are_read_back() {
        let head = BlockHead { want: 7, offset: 1 << 40, sparse: true, check: u64::MAX };
        assert_eq!(BlockHead::parse(&head.bytes()), head);
        assert_eq!(parse_head(super::head(Kind::Pack, LIMIT)), Some((Kind::Pack, LIMIT)));
        assert_eq!(parse_head(super::head(Kind::Pack, LIMIT + 1)), None);
        let end =
            End { want: 1, digest: 2, stamp: Stamp::default(), metadata: Metadata::default() };
        let files = [Small { end: end.clone(), length: 2 }, Small { end, length: 1 }];
        let mut body = pack(&files, b"abc");
        assert_eq!(unpack(&body), Some(Some((files.to_vec(), b"abc".as_slice()))));
        *body.last_mut().unwrap() ^= 1;
        assert_eq!(unpack(&body), Some(None));
        let request = Request::Want(vec![Want {
            path: b"\xff/a".as_slice().into(),
            stamp: Stamp { size: 9, ..Stamp::default() },
            have: Have::Chunks(vec![None, Some(3)]),
        }]);
        assert_eq!(decode(&encode(&request)), Some(request));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&body);
            let _ = decode::<Reply>(&body);
            let _ = unpack(&body);
        }
    }
}

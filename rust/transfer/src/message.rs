//! The messages between the two ends. Every parser here reads what a stranger wrote.
//!
//! A frame is its kind (one byte), the length of its body (four bytes, little endian) and the body,
//! at most [`LIMIT`] bytes. Bodies are a message, a block of one file, or a pack of small files.

use holdfast_engine::manifest::fingerprint::Fingerprint;
use holdfast_engine::manifest::record::{Identity, Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Proof;

/// The version of the protocol.
pub const VERSION: u16 = 1;
/// Bytes of a file in one block at most.
pub const BLOCK: usize = 1 << 20;
/// The longest body of a frame.
pub const LIMIT: usize = BLOCK + (64 << 10);
/// Files up to this size are sent in packs.
pub const SMALL: u64 = 256 << 10;
/// Bytes before a frame's body.
pub const HEAD: usize = 5;
/// Bytes before a block's data.
pub const BLOCK_HEAD: usize = 24;
/// Attributes of one file, with their names, in bytes at most; the kernel allows 64 KiB for each.
pub const MOST_ATTRIBUTES: usize = 32 << 10;

/// What a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One message.
    Message,
    /// Bytes of a file.
    Block,
    /// Small files.
    Pack,
}

/// Parse the head of a frame; `None` for an unknown kind or a body over the limit.
pub fn parse_head(head: [u8; HEAD]) -> Option<(Kind, usize)> {
    let [kind, a, b, c, d] = head;
    let kind = match kind {
        0 => Kind::Message,
        1 => Kind::Block,
        2 => Kind::Pack,
        _ => return None,
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (length <= LIMIT).then_some((kind, length))
}

/// Return the head of a frame.
pub fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [kind as u8, a, b, c, d]
}

/// By what a file is known to be unchanged, as it crosses the wire and as journals have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Its device.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Its change time in nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl From<&Identity> for Stamp {
    fn from(identity: &Identity) -> Self {
        // Times beyond the years 1677 to 2262 are cut to these, at both ends alike.
        let cut = |time: i128| time.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let Identity { dev, ino, size, mtime_ns, ctime_ns } = *identity;
        Self { dev, ino, size, mtime_ns: cut(mtime_ns), ctime_ns: cut(ctime_ns) }
    }
}

/// What is carried of a file beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Permissions, without the type.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Extended attributes: access control lists and capabilities are some of them.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Something below the offered directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path, of plain names; empty for the directory itself.
    pub path: Box<[u8]>,
    /// What it is.
    pub kind: Type,
    /// By what it is known to be unchanged.
    pub stamp: Stamp,
    /// Of directories and symbolic links: what is carried. A file's follows its content.
    pub metadata: Option<Box<Metadata>>,
    /// Of a symbolic link its target, of another name of a file its first name.
    pub link: Option<Box<[u8]>>,
}

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

/// Chunks of a file, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Of each chunk by itself.
    pub digests: Vec<u64>,
    /// Of the whole file's digest, at the end of each chunk but the last.
    pub states: Vec<[u64; 4]>,
}

/// What the destination has of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// Nothing.
    #[default]
    Nothing,
    /// The first chunks of this very version.
    Prefix(Table),
    /// Some chunks of this or another version, by their digests.
    Chunks(Vec<Option<u64>>),
}

/// A file that the destination asks for. Its number is its place in the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Its path as it was listed.
    pub path: Box<[u8]>,
    /// What it was when it was listed.
    pub stamp: Stamp,
    /// What is there.
    pub have: Have,
}

/// Names of owners, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Users.
    pub users: Vec<(u32, String)>,
    /// Groups.
    pub groups: Vec<(u32, String)>,
}

/// A file as the source's manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Its path.
    pub path: Box<[u8]>,
    /// Its size in bytes.
    pub size: u64,
    /// What is carried beside the content; extended attributes are in no manifest.
    pub metadata: Metadata,
    /// XXH64 of all of it.
    pub digest: u64,
    /// Of its chunks, if it has more than one.
    pub digests: Vec<u64>,
    /// Whether it is something else on the source by now.
    pub moved: bool,
}

impl Proven {
    /// Return the digest of a chunk; `None` if it has no such chunk.
    pub fn chunk(&self, index: u32) -> Option<u64> {
        if self.digests.is_empty() && index == 0 {
            return Some(self.digest);
        }
        self.digests.get(index as usize).copied()
    }

    /// Return which bytes a chunk has.
    pub fn range(&self, index: u32) -> std::ops::Range<u64> {
        let chunk = holdfast_engine::manifest::record::chunk_size(self.size);
        let start = u64::from(index).saturating_mul(chunk).min(self.size);
        start..start.saturating_add(chunk).min(self.size)
    }
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

/// The end of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which want.
    pub want: u32,
    /// XXH64 of the whole file.
    pub digest: u64,
    /// What the file was when it was read.
    pub stamp: Stamp,
    /// What is carried beside the content.
    pub metadata: Metadata,
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

/// Where a block belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// Which want.
    pub want: u32,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Whether the file has holes, so that space must not be allocated for all of it.
    pub sparse: bool,
    /// XXH3 of the data.
    pub check: u64,
}

impl BlockHead {
    /// Return it as it crosses the wire.
    pub fn bytes(&self) -> [u8; BLOCK_HEAD] {
        let mut bytes = [0; BLOCK_HEAD];
        bytes[..4].copy_from_slice(&self.want.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12] = u8::from(self.sparse);
        bytes[16..24].copy_from_slice(&self.check.to_le_bytes());
        bytes
    }

    /// Parse it.
    pub fn parse(bytes: &[u8; BLOCK_HEAD]) -> Self {
        let number = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(number)
        };
        Self {
            want: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            offset: number(4),
            sparse: bytes[12] & 1 != 0,
            check: number(16),
        }
    }
}

/// A small file in a pack; its bytes follow those of its predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Small {
    /// Its end.
    pub end: End,
    /// Its bytes.
    pub length: u32,
}

/// Return a pack: the check of what follows, the length of the heads, the heads, the bytes.
pub fn pack(files: &[Small], bytes: &[u8]) -> Vec<u8> {
    let heads = encode(&files);
    let mut body = Vec::with_capacity(12 + heads.len() + bytes.len());
    body.extend([0; 8]);
    body.extend((heads.len() as u32).to_le_bytes());
    body.extend(heads);
    body.extend(bytes);
    let check = xxh3_64(&body[8..]);
    body[..8].copy_from_slice(&check.to_le_bytes());
    body
}

/// Parse a pack: its files and the bytes of all. The outer `None` is a body that is no pack, the
/// inner one a check that differs.
pub fn unpack(body: &[u8]) -> Option<Option<(Vec<Small>, &[u8])>> {
    let (check, rest) = body.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    if xxh3_64(rest) != u64::from_le_bytes(*check) {
        return Some(None);
    }
    let length = u32::from_le_bytes(*length) as usize;
    let heads = rest[4..].get(..length)?;
    let bytes = &rest[4 + length..];
    let files: Vec<Small> = decode(heads)?;
    let total = files.iter().try_fold(0_usize, |sum, file| sum.checked_add(file.length as usize));
    (total == Some(bytes.len())).then_some(Some((files, bytes)))
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

/// Return whether a table can be that of a file of `size` bytes, whole or its first chunks.
pub fn fits(table: &Table, size: u64, whole: bool) -> bool {
    let chunk = holdfast_engine::manifest::record::chunk_size(size);
    let (digests, states) = (table.digests.len() as u64, table.states.len() as u64);
    if whole {
        digests == size.div_ceil(chunk) && states + 1 == digests
    } else {
        digests == states && digests > 0 && digests * chunk < size
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

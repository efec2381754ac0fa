//! An image, chunk by chunk, from anything that gives bytes.

use std::io::{self, BufReader, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::Encoding;
use crate::{Error, Result};

/// The largest window a zstd frame may ask for: 2^26 bytes. It bounds the memory that unpacking takes,
/// which the imager has little of; `zstd -21` and below without `--long` stay within it.
pub const WINDOW_LOG_MAX: u32 = 26;

/// What unpacking xz may take: a dictionary of 64 MiB and the decoder itself. The next larger one that
/// xz knows has 96 MiB; `xz -9` and below stay within it.
const XZ_MEMORY: u64 = (64 << 20) + (2 << 20);

/// Bytes of a packed image that are read at once.
const INPUT_BUFFER: usize = 256 << 10;

/// The bytes of an image in order. Memory is bounded by one chunk and what its encoding needs, which is
/// 64 MiB and a little at most, and what is read is not trusted: the user of a chunk checks it.
pub struct Chunks<R: Read> {
    name: String,
    stream: Stream<R>,
    offset: u64,
    size_bytes: Option<u64>,
    chunk: Vec<u8>,
}

enum Stream<R: Read> {
    Identity(Source<R>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Source<R>>>>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<R>>>>),
    Xz(Box<XzDecoder<BufReader<Source<R>>>>),
}

impl<R: Read> Stream<R> {
    fn new(source: Source<R>, encoding: Encoding) -> io::Result<Self> {
        if encoding == Encoding::Identity {
            return Ok(Self::Identity(source));
        }
        let buffered = BufReader::with_capacity(INPUT_BUFFER, source);
        Ok(match encoding {
            Encoding::Identity | Encoding::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(buffered)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
            Encoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(buffered))),
            Encoding::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
                Self::Xz(Box::new(XzDecoder::new_stream(buffered, stream)))
            }
        })
    }

    /// A sentence about what is wrong with the input.
    fn why(&self, error: &io::Error) -> String {
        let of_xz = error.get_ref().and_then(|e| e.downcast_ref::<liblzma::stream::Error>());
        match of_xz {
            Some(liblzma::stream::Error::MemLimit) => {
                "it cannot be unpacked: it needs a dictionary of more than 64 MiB".to_owned()
            }
            _ if error.kind() == ErrorKind::UnexpectedEof => {
                "it cannot be unpacked: its end is missing".to_owned()
            }
            _ => format!("it cannot be unpacked: {error}"),
        }
    }
}

/// Remembers whether it was the input that failed or what was in it that is damaged.
struct Source<R> {
    input: R,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.input.read(buffer);
        self.failed = result.as_ref().is_err_and(|e| e.kind() != ErrorKind::Interrupted);
        result
    }
}

impl<R: Read> std::fmt::Debug for Chunks<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks")
            .field("name", &self.name)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Chunks<R> {
    /// Read an image of `size_bytes`, unpacked, from the beginning of `input`; `name` is for messages.
    ///
    /// Without `size_bytes` whatever comes until the end is the image.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no memory for unpacking.
    pub fn new(
        name: impl Into<String>,
        input: R,
        encoding: Encoding,
        chunk_bytes: u64,
        size_bytes: Option<u64>,
    ) -> Result<Self> {
        let name = name.into();
        let stream = Stream::new(Source { input, failed: false }, encoding)
            .map_err(|error| Error::io(&name, error))?;
        let chunk_bytes = usize::try_from(chunk_bytes)
            .map_err(|_| Error::Invalid(format!("a chunk of {chunk_bytes} bytes is too large")))?;
        Ok(Self { name, stream, offset: 0, size_bytes, chunk: vec![0; chunk_bytes] })
    }

    /// Where the next chunk begins in the image, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next chunk and where it begins, or `None` after the last. All have `chunk_bytes` bytes, but
    /// for the last, which may have fewer.
    ///
    /// # Errors
    /// [`Error::Io`] if the input fails: reading it once more may help. [`Error::Record`] if what it
    /// gives is no image of this size and encoding: it will not help.
    pub fn next_chunk(&mut self) -> Result<Option<(u64, &[u8])>> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let result = self.fill(&mut chunk);
        self.chunk = chunk;
        Ok(result?.map(|(offset, length)| (offset, &self.chunk[..length])))
    }

    /// As [`Chunks::next_chunk`], into the caller's buffer, whose length is taken for the size of a
    /// chunk; answers where the chunk begins and how long it is.
    ///
    /// # Errors
    /// As [`Chunks::next_chunk`].
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let left = self.size_bytes.map_or(u64::MAX, |size| size - self.offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return self.expect_end();
        }
        let mut length = 0;
        while length < wanted {
            match self.read(&mut buffer[length..wanted])? {
                0 => break,
                read => length += read,
            }
        }
        if length < wanted && self.size_bytes.is_some() {
            let end = self.offset + length as u64;
            return Err(self.damaged(format!("it ends after {end} bytes of the image")));
        }
        let offset = self.offset;
        self.offset += length as u64;
        Ok(Some((offset, length)).filter(|_| length > 0))
    }

    /// Nothing may follow the image.
    fn expect_end(&mut self) -> Result<Option<(u64, usize)>> {
        match self.read(&mut [0])? {
            0 => Ok(None),
            _ => {
                Err(self.damaged(format!("it continues after {} bytes of the image", self.offset)))
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let result = match &mut self.stream {
                Stream::Identity(source) => source.read(buffer),
                Stream::Zstd(decoder) => decoder.read(buffer),
                Stream::Gzip(decoder) => decoder.read(buffer),
                Stream::Xz(decoder) => decoder.read(buffer),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.source().failed => return Err(Error::io(&self.name, error)),
                Err(error) => return Err(self.damaged(self.stream.why(&error))),
                Ok(read) => return Ok(read),
            }
        }
    }

    /// What the bytes come from.
    pub fn input(&self) -> &R {
        &self.source().input
    }

    fn source(&self) -> &Source<R> {
        match &self.stream {
            Stream::Identity(source) => source,
            Stream::Zstd(decoder) => decoder.get_ref().get_ref(),
            Stream::Gzip(decoder) => decoder.get_ref().get_ref(),
            Stream::Xz(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn damaged(&self, reason: String) -> Error {
        Error::record(&self.name, reason)
    }
}

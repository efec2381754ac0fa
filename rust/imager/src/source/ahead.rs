//! Reading a file past the page cache with several reads in flight, in order.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::disk::Buffer;

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;
/// Reads in flight.
const IN_FLIGHT: usize = 4;

/// What a thread hands over: a block, and how many bytes of it there are; none at the end.
type Block = io::Result<(Buffer, usize)>;

/// The bytes of a file, in order. Each of a few threads reads every fourth block.
#[derive(Debug)]
pub struct Ahead {
    /// Blocks of each thread, and the way back for their memory.
    lanes: Vec<(Receiver<Block>, SyncSender<Buffer>)>,
    turn: usize,
    current: Option<(Buffer, usize)>,
    position: usize,
    ended: bool,
}

impl Ahead {
    /// Begin to read; the file should be open with O_DIRECT.
    pub fn new(file: File) -> Self {
        let file = Arc::new(file);
        let lanes = (0..IN_FLIGHT)
            .map(|lane| {
                let file = Arc::clone(&file);
                let (hand_over, blocks) = sync_channel(1);
                let (give_back, memory) = sync_channel(2);
                for _ in 0..2 {
                    give_back.send(Buffer::new(BLOCK)).expect("there is room for two");
                }
                thread::spawn(move || read_lane(&file, lane, &memory, &hand_over));
                (blocks, give_back)
            })
            .collect();
        Self { lanes, turn: 0, current: None, position: 0, ended: false }
    }
}

/// Read until the end, or until nobody listens any more.
fn read_lane(file: &File, lane: usize, memory: &Receiver<Buffer>, hand_over: &SyncSender<Block>) {
    let mut offset = (lane * BLOCK) as u64;
    while let Ok(mut buffer) = memory.recv() {
        let block = fill(file, &mut buffer, offset).map(|length| (buffer, length));
        let more = matches!(&block, Ok((_, BLOCK)));
        if hand_over.send(block).is_err() || !more {
            return;
        }
        offset += (IN_FLIGHT * BLOCK) as u64;
    }
}

/// Fill the buffer; less than all only at the file's end.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => {
                length += read;
                // Continuing from here would not be aligned; there is nothing more, though.
                if length % 512 != 0 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((buffer, length)) = &self.current
                && self.position < *length
            {
                let count = into.len().min(length - self.position);
                into[..count].copy_from_slice(&buffer[self.position..][..count]);
                self.position += count;
                return Ok(count);
            }
            if let Some((buffer, length)) = self.current.take() {
                self.ended |= length < BLOCK;
                let last = (self.turn + IN_FLIGHT - 1) % IN_FLIGHT;
                // The thread is gone if it came to the end.
                let _ = self.lanes[last].1.send(buffer);
            }
            if self.ended || into.is_empty() {
                return Ok(0);
            }
            let block = self.lanes[self.turn].0.recv();
            let block = block.map_err(|_| io::Error::other("the reading thread is gone"))?;
            self.current = Some(block?);
            self.position = 0;
            self.turn = (self.turn + 1) % IN_FLIGHT;
        }
    }
}

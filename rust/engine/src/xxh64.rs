//! XXH64, streaming.
//!
//! The algorithm is Yann Collet's, from its specification (doc/xxhash_spec.md of the xxHash
//! project). It is written here because no crate exposes the running state, which parallel
//! verification of a standard digest needs.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// Bytes that one round takes.
const STRIPE: usize = 32;

/// A running digest with seed 0.
#[derive(Debug, Clone)]
pub struct Xxh64 {
    lanes: [u64; 4],
    buffer: [u8; STRIPE],
    buffered: usize,
    length: u64,
}

impl Default for Xxh64 {
    fn default() -> Self {
        Self {
            lanes: [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)],
            buffer: [0; STRIPE],
            buffered: 0,
            length: 0,
        }
    }
}

impl Xxh64 {
    /// Take in more bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        self.length += data.len() as u64;
        if self.buffered > 0 {
            let take = data.len().min(STRIPE - self.buffered);
            self.buffer[self.buffered..self.buffered + take].copy_from_slice(&data[..take]);
            self.buffered += take;
            data = &data[take..];
            if self.buffered < STRIPE {
                return;
            }
            self.buffered = 0;
            let stripe = self.buffer;
            self.lanes = rounds(self.lanes, &stripe);
        }
        let whole = data.len() - data.len() % STRIPE;
        self.lanes = rounds(self.lanes, &data[..whole]);
        let rest = &data[whole..];
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.buffered = rest.len();
    }

    /// Resume from the accumulators after `length` bytes, a multiple of 32.
    ///
    /// # Panics
    /// If the length is no such multiple.
    pub fn resume(lanes: [u64; 4], length: u64) -> Self {
        assert!(length.is_multiple_of(STRIPE as u64));
        Self { lanes, length, ..Self::default() }
    }

    /// The accumulators: after a multiple of 32 bytes they and the length are the whole state.
    ///
    /// # Panics
    /// After any other number of bytes.
    pub fn lanes(&self) -> [u64; 4] {
        assert_eq!(self.buffered, 0, "the state is asked for in the middle of a stripe");
        self.lanes
    }

    /// The digest of all bytes taken in so far.
    pub fn digest(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut hash = if self.length >= STRIPE as u64 {
            let sum = a
                .rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18));
            self.lanes
                .iter()
                .fold(sum, |hash, &lane| (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4))
        } else {
            P5
        };
        hash = hash.wrapping_add(self.length);
        let (words, rest) = self.buffer[..self.buffered].as_chunks::<8>();
        for word in words {
            hash ^= round(0, u64::from_le_bytes(*word));
            hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
            hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        }
        for &byte in rest {
            hash ^= u64::from(byte).wrapping_mul(P5);
            hash = hash.rotate_left(11).wrapping_mul(P1);
        }
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(P2);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(P3);
        hash ^ (hash >> 32)
    }
}

/// Take the same bytes into two digests, for less than twice the price: each multiplies the input by
/// the same number first.
pub fn update_both(one: &mut Xxh64, other: &mut Xxh64, data: &[u8]) {
    let whole = data.len() - data.len() % STRIPE;
    let (stripes, rest) = data.split_at(whole);
    if one.buffered > 0 || other.buffered > 0 {
        one.update(data);
        other.update(data);
        return;
    }
    let (mut left, mut right) = (one.lanes, other.lanes);
    for stripe in stripes.as_chunks::<STRIPE>().0 {
        let words = stripe.as_chunks::<8>().0;
        for ((left, right), word) in left.iter_mut().zip(&mut right).zip(words) {
            let product = u64::from_le_bytes(*word).wrapping_mul(P2);
            *left = left.wrapping_add(product).rotate_left(31).wrapping_mul(P1);
            *right = right.wrapping_add(product).rotate_left(31).wrapping_mul(P1);
        }
    }
    for (hash, lanes) in [(one, left), (other, right)] {
        hash.lanes = lanes;
        hash.length += whole as u64;
        hash.update(rest);
    }
}

/// The digest of `data`.
pub fn xxh64(data: &[u8]) -> u64 {
    let mut hash = Xxh64::default();
    hash.update(data);
    hash.digest()
}

fn round(lane: u64, input: u64) -> u64 {
    lane.wrapping_add(input.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn rounds(mut lanes: [u64; 4], stripes: &[u8]) -> [u64; 4] {
    for stripe in stripes.as_chunks::<STRIPE>().0 {
        for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use proptest::prelude::*;

    use super::{Xxh64, update_both, xxh64};

    #[test]
    fn the_empty_input_has_its_published_digest() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
    }

    proptest! {
        #[test]
        fn equals_an_independent_implementation_however_it_is_fed(
            data in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(0_usize..300, 0..6),
        ) {
            let mut judge = twox_hash::XxHash64::with_seed(0);
            judge.write(&data);
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(data.len())).collect();
            cuts.sort_unstable();
            cuts.push(data.len());
            let mut hash = Xxh64::default();
            let mut from = 0;
            for to in cuts {
                hash.update(&data[from..to]);
                from = to;
            }
            prop_assert_eq!(hash.digest(), judge.finish());
        }

        #[test]
        fn two_at_once_are_as_one_by_one(
            data in prop::collection::vec(any::<u8>(), 0..300),
            before in 0_usize..100,
            cut in 0_usize..300,
        ) {
            let (first, second) = data.split_at(cut.min(data.len()));
            let mut one = Xxh64::default();
            one.update(&[7; 100][..before]);
            let mut other = Xxh64::default();
            let mut judge = one.clone();
            judge.update(&data);
            update_both(&mut one, &mut other, first);
            update_both(&mut one, &mut other, second);
            prop_assert_eq!(one.digest(), judge.digest());
            prop_assert_eq!(other.digest(), xxh64(&data));
        }

        #[test]
        fn goes_on_from_a_state(data in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..10) {
            let cut = (cut * 32).min(data.len() / 32 * 32);
            let mut first = Xxh64::default();
            first.update(&data[..cut]);
            let mut second = Xxh64::resume(first.lanes(), cut as u64);
            second.update(&data[cut..]);
            prop_assert_eq!(second.digest(), xxh64(&data));
        }
    }
}

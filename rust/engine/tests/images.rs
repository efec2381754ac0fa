//! Images from the outside: descriptors that hold together, chunks in order, differences found.

use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use holdfast_engine::image::describe::{self, describe};
use holdfast_engine::image::pack;
use holdfast_engine::image::verify::{self, Kind, verify};
use holdfast_engine::image::{Chunks, Descriptor, Encoding, Sha256, unpack};
use holdfast_engine::{Error, Progress, Result};
use proptest::prelude::*;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn parse(value: &Value) -> Result<Descriptor> {
    Descriptor::parse(Path::new("image.json"), value.to_string().as_bytes())
}

fn refusal(value: &Value) -> String {
    match parse(value) {
        Err(Error::Record { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Of an image of 8.5 MiB whose chunks 0, 3, 4 and 8 are not zeros.
fn good() -> Value {
    let digests: Vec<String> = (0..4_u8).map(|n| Sha256::of(&[n]).to_string()).collect();
    json!({
        "format": "holdfast-image", "version": 1, "name": "web", "image_version": "1",
        "created": "2026-11-24T20:00:00Z", "size_bytes": 8 * MIB + MIB / 2, "chunk_bytes": MIB,
        "mapped": [[0, MIB], [3 * MIB, 2 * MIB], [8 * MIB, MIB / 2]], "chunks": digests,
        "content": {"file": "disk.raw.zst", "encoding": "zstd", "size_bytes": 9,
                    "sha256": digests[0]},
        "boot_modes": ["bios"],
        "partition_table": {"kind": "gpt", "id": "x", "partitions": [
            {"number": 1, "start_bytes": MIB, "size_bytes": MIB, "type": "y", "name": "",
             "file_system": "ext4", "uuid": null, "label": null}]},
        "root_partition": 1, "more": "is ignored",
    })
}

#[test]
fn a_good_descriptor_is_read_and_written_as_it_was() {
    let found = parse(&good()).unwrap();
    assert_eq!(found.mapped_bytes(), 3 * MIB as u64 + MIB as u64 / 2);
    assert_eq!(found.root().unwrap().size_bytes, MIB as u64);
    let mapped: Vec<u64> =
        found.pieces().filter(|p| p.digest.is_some()).map(|p| p.offset / MIB as u64).collect();
    assert_eq!(mapped, [0, 3, 4, 8]);
    let mib = MIB as u64;
    let zeros: Vec<_> = found.zero_ranges().collect();
    assert_eq!(zeros, [(mib, 2 * mib), (5 * mib, 3 * mib)]);
    let again = Descriptor::parse(Path::new("again"), found.to_json().as_bytes()).unwrap();
    assert_eq!(again, found);
}

#[test]
fn what_does_not_hold_together_is_refused_with_a_reason() {
    let cases = [
        ("/version", json!(2), "version 2"),
        ("/format", json!("holdfast-manifest"), "format"),
        ("/size_bytes", json!(8 * MIB + 511), "multiple of 512"),
        ("/size_bytes", json!(0), "multiple of 512"),
        ("/size_bytes", json!(u64::MAX - 511), "larger than any file"),
        ("/chunk_bytes", json!(3 * MIB), "1, 2 or 4 MiB"),
        ("/chunk_bytes", json!(0), "1, 2 or 4 MiB"),
        ("/mapped/1/0", json!(MIB), "overlaps or touches"),
        ("/mapped/1/0", json!(3 * MIB + 512), "whole chunks"),
        ("/mapped/1/1", json!(2 * MIB - 1), "whole chunks"),
        ("/mapped/1/1", json!(0), "whole chunks"),
        ("/mapped/2/1", json!(u64::MAX), "out of the image"),
        ("/mapped/2/1", json!(MIB), "out of the image"),
        ("/mapped/1/1", json!(3 * MIB), "digests"),
        ("/chunks/0", json!("abc"), "SHA-256"),
        ("/content/file", json!("../disk.raw"), "bare file name"),
        ("/content/file", json!(".."), "bare file name"),
        ("/content/file", json!(""), "empty"),
        ("/content/encoding", json!("identity"), "size of its content"),
        ("/content/encoding", json!("bzip2"), "bzip2"),
        ("/name", json!("a\u{1b}[2J"), "control characters"),
        ("/name", json!("a".repeat(256)), "at most 255"),
        ("/partition_table/partitions/0/size_bytes", json!(u64::MAX), "out of the image"),
        ("/partition_table/partitions/0/number", json!(0), "is 0"),
        ("/root_partition", json!(2), "no partition"),
        ("/partition_table", json!(null), "no partition"),
    ];
    for (pointer, value, reason) in cases {
        let mut wrong = good();
        *wrong.pointer_mut(pointer).unwrap() = value.clone();
        let found = refusal(&wrong);
        assert!(found.contains(reason), "{pointer} = {value}: {found}");
    }
    let long = vec![b' '; (64 << 20) + 1];
    assert!(Descriptor::parse(Path::new("long"), &long).is_err());
}

/// Small pieces, as from a network, and an interruption before each.
struct Trickle<R>(R, bool);

impl<R: Read> Read for Trickle<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(4099);
        self.0.read(&mut buffer[..length])
    }
}

fn collect(input: impl Read, encoding: Encoding, size: Option<u64>) -> Result<Vec<u8>> {
    let mut chunks = Chunks::new("image", input, encoding, 4096, size)?;
    let mut all = Vec::new();
    while let Some((offset, chunk)) = chunks.next_chunk()? {
        assert_eq!(offset, all.len() as u64);
        all.extend_from_slice(chunk);
    }
    Ok(all)
}

const PACKED: [Encoding; 3] = [Encoding::Zstd, Encoding::Gzip, Encoding::Xz];

fn pack_once(bytes: &[u8], encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Identity => bytes.to_vec(),
        Encoding::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Encoding::Xz => liblzma::encode_all(bytes, 0).unwrap(),
    }
}

/// Each half a frame, member or stream of its own.
fn pack_as(bytes: &[u8], encoding: Encoding) -> Vec<u8> {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    [pack_once(left, encoding), pack_once(right, encoding)].concat()
}

#[test]
fn a_dictionary_of_xz_that_is_too_large_is_refused_and_one_of_64_mib_is_not() {
    for (mib, fits) in [(64, true), (96, false)] {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(mib << 20);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let stream =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32)
                .unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&vec![7; MIB]).unwrap();
        let packed = encoder.finish().unwrap();
        match collect(Cursor::new(packed), Encoding::Xz, None) {
            Ok(found) => assert!(fits && found == vec![7; MIB]),
            Err(error) => {
                assert!(!fits && error.to_string().contains("more than 64 MiB"), "{error}");
            }
        }
    }
}

#[test]
fn a_window_that_is_too_large_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![7; MIB]).unwrap();
    let packed = encoder.finish().unwrap();
    let found = collect(Cursor::new(packed), Encoding::Zstd, None);
    assert!(matches!(found, Err(Error::Record { .. })), "{found:?}");
}

#[test]
fn an_input_that_fails_is_not_taken_for_a_damaged_image() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    for encoding in [Encoding::Identity, Encoding::Zstd, Encoding::Gzip, Encoding::Xz] {
        let packed = pack_as(&[1; 9000], encoding);
        let input = packed[..packed.len() - 3].chain(Failing);
        let found = collect(input, encoding, Some(9000));
        assert!(matches!(found, Err(Error::Io { .. })), "{found:?}");
    }
}

#[test]
fn what_is_unpacked_into_memory_is_bounded() {
    let packed = zstd::encode_all(&vec![0; MIB][..], 3).unwrap();
    assert_eq!(unpack("x", &packed, Encoding::Zstd, MIB as u64).unwrap(), vec![0; MIB]);
    assert!(unpack("x", &packed, Encoding::Zstd, MIB as u64 - 1).is_err());
    assert!(unpack("x", &packed[..packed.len() - 1], Encoding::Zstd, MIB as u64).is_err());
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn describe(&self, file: &Path) -> Descriptor {
        let request = describe::Request {
            file: file.to_owned(),
            name: "web".to_owned(),
            image_version: "1".to_owned(),
            created: "2026-11-24T20:00:00Z".to_owned(),
            root_partition: None,
        };
        describe(&request, &Progress::default()).unwrap()
    }

    fn verify(&self, file: &Path, descriptor: &Descriptor) -> verify::Outcome {
        let descriptor = self.write("descriptor.json", descriptor.to_json().as_bytes());
        let request =
            verify::Request { file: file.to_owned(), descriptor, descriptor_sha256: None };
        verify(&request, &Progress::default()).unwrap()
    }
}

/// 5 MiB and a half: data, zeros, data, zeros, zeros, half a mebibyte of data.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 5 * MIB + MIB / 2];
    bytes[MIB - 1] = 1;
    bytes[2 * MIB..3 * MIB].fill(2);
    bytes[5 * MIB] = 3;
    bytes
}

#[test]
fn a_raw_and_a_packed_image_have_the_same_chunks() {
    let files = Files::new();
    let bytes = image();
    let raw = files.describe(&files.write("disk.raw", &bytes));
    let path = files.directory.path().join("sparse.raw");
    let sparse = std::fs::File::create(&path).unwrap();
    sparse.set_len(bytes.len() as u64).unwrap();
    for at in [MIB - 1, 5 * MIB] {
        std::os::unix::fs::FileExt::write_at(&sparse, &bytes[at..=at], at as u64).unwrap();
    }
    std::os::unix::fs::FileExt::write_at(&sparse, &bytes[2 * MIB..3 * MIB], 2 << 20).unwrap();
    // So that chunks have one size: that of an image of which nothing is known is larger.
    let packed = files.describe(&files.write("disk.raw.zst", &zstd_of_known_size(&bytes)));
    assert_eq!(raw.content.sha256, Sha256::of(&bytes));
    for other in [&files.describe(&path), &packed] {
        assert_eq!(other.chunks, raw.chunks);
        assert_eq!(other.mapped, raw.mapped);
        assert_eq!(other.size_bytes, raw.size_bytes);
    }
    assert_eq!(files.describe(&path).content.sha256, raw.content.sha256);
    let mib = MIB as u64;
    assert_eq!(raw.mapped, [(0, mib), (2 * mib, mib), (5 * mib, mib / 2)]);
    assert_eq!(packed.content.encoding, Encoding::Zstd);
    for (file, descriptor) in
        [("disk.raw", &raw), ("sparse.raw", &raw), ("disk.raw.zst", &packed), ("disk.raw", &packed)]
    {
        let found = files.verify(&files.directory.path().join(file), descriptor);
        assert!(found.matches, "{file}: {found:?}");
    }
}

fn zstd_of_known_size(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.set_pledged_src_size(Some(bytes.len() as u64)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn each_kind_of_difference_is_found_where_it_is() {
    let files = Files::new();
    let good = image();
    let descriptor = files.describe(&files.write("disk.raw", &good));
    let mut bad = good.clone();
    bad[0] = 1;
    bad[2 * MIB..3 * MIB].fill(0);
    bad[4 * MIB + 17] = 1;
    let found = files.verify(&files.write("bad.raw", &bad), &descriptor);
    let kinds: Vec<_> = found.differences.iter().map(|d| (d.offset, d.kind)).collect();
    let mib = MIB as u64;
    let wanted = [(0, Kind::Differs), (2 * mib, Kind::Zeros), (4 * mib, Kind::NotZeros)];
    assert_eq!(kinds, wanted);
    assert_eq!((found.matches, found.different_chunks), (false, 3));

    let short = files.verify(&files.write("short.raw", &good[..good.len() - 512]), &descriptor);
    assert!(!short.matches && short.problem.unwrap().contains("bytes"));
    for encoding in PACKED {
        let packed = pack_as(&good, encoding);
        let descriptor = files.describe(&files.write("disk.packed", &packed));
        assert_eq!(descriptor.content.encoding, encoding);
        let (half, _) = good.split_at(good.len() / 2);
        let mut flipped = packed.clone();
        flipped[packed.len() / 4] ^= 0x10;
        for (bytes, word) in [
            (&packed[..packed.len() - 1], "unpacked"),
            (&packed[..pack_once(half, encoding).len()], "ends after"),
            (&flipped[..], ""),
            (&[&packed[..], &packed[..]].concat()[..], "continues after"),
            (&[&packed[..], b"garbage"].concat()[..], "unpacked"),
            (&pack_as(&good[..good.len() - 512], encoding)[..], "ends after"),
            (&pack_once(&good, encoding)[..], "SHA-256 of its file"),
            (&[][..], ""),
        ] {
            let found = files.verify(&files.write("bad.packed", bytes), &descriptor);
            let problem = found.problem.as_deref().unwrap_or_default();
            assert!(!found.matches && problem.contains(word), "{encoding:?} {word}: {found:?}");
        }
        assert!(files.verify(&files.write("disk.packed", &packed), &descriptor).matches);
        assert!(files.verify(&files.write("disk.raw", &good), &descriptor).matches);
    }
}

#[test]
fn a_raw_image_is_packed_so_that_it_describes_itself() {
    let files = Files::new();
    let raw = files.write("disk.raw", &image());
    let output = files.directory.path().join("disk.raw.zst");
    let request = pack::Request { file: raw.clone(), output: output.clone() };
    let done = pack::pack(&request, &Progress::default()).unwrap();
    assert_eq!(done.size_bytes, image().len() as u64);
    assert_eq!(done.content_bytes, output.metadata().unwrap().len());
    let (packed, plain) = (files.describe(&output), files.describe(&raw));
    assert_eq!((packed.chunks, packed.chunk_bytes), (plain.chunks, plain.chunk_bytes));
    // What is there is not replaced.
    assert!(matches!(pack::pack(&request, &Progress::default()), Err(Error::Io { .. })));
}

#[test]
fn a_descriptor_of_another_digest_and_a_cancelled_call_are_errors() {
    let files = Files::new();
    let file = files.write("disk.raw", &image());
    let json = files.describe(&file).to_json();
    let descriptor = files.write("descriptor.json", json.as_bytes());
    let mut request =
        verify::Request { file, descriptor, descriptor_sha256: Some(Sha256::of(b"another")) };
    let progress = Progress::default();
    assert!(matches!(verify(&request, &progress), Err(Error::Record { .. })));
    request.descriptor_sha256 = Some(Sha256::of(json.as_bytes()));
    assert!(verify(&request, &progress).unwrap().matches);
    progress.cancel();
    assert!(matches!(verify(&request, &progress), Err(Error::Cancelled)));
}

proptest! {
    #[test]
    fn chunks_give_what_was_packed(
        bytes in proptest::collection::vec(any::<u8>(), 1..40_000), packed in 0..4_usize, known: bool,
    ) {
        let size = known.then_some(bytes.len() as u64);
        let (content, encoding) = if let Some(encoding) = PACKED.get(packed).copied() {
            (pack_as(&bytes, encoding), encoding)
        } else {
            (bytes.clone(), Encoding::Identity)
        };
        let found = collect(Trickle(Cursor::new(&content), false), encoding, size).unwrap();
        prop_assert_eq!(found, bytes.clone());
        let cut = collect(&content[..content.len() - 1], encoding, Some(bytes.len() as u64));
        prop_assert!(cut.is_err_and(is_damage));
        let longer = collect(&content[..], encoding, Some(bytes.len() as u64 - 1));
        prop_assert!(longer.is_err_and(is_damage));
    }

    #[test]
    fn pieces_and_zero_ranges_cover_an_image_once(
        chunks in proptest::collection::vec(any::<bool>(), 1..60), last in 1_u64..=2048,
    ) {
        let mib = MIB as u64;
        let size = (chunks.len() as u64 - 1) * mib + last * 512;
        let mut mapped: Vec<(u64, u64)> = Vec::new();
        for (index, _) in chunks.iter().enumerate().filter(|(_, mapped)| **mapped) {
            let start = index as u64 * mib;
            let length = mib.min(size - start);
            match mapped.last_mut() {
                Some((from, bytes)) if *from + *bytes == start => *bytes += length,
                _ => mapped.push((start, length)),
            }
        }
        let mut value = good();
        value["size_bytes"] = json!(size);
        value["mapped"] = json!(mapped);
        value["chunks"] = json!(
            (0..chunks.iter().filter(|m| **m).count() as u64)
                .map(|n| Sha256::of(&n.to_le_bytes())).collect::<Vec<_>>()
        );
        value["partition_table"] = json!(null);
        value["root_partition"] = json!(null);
        let found = parse(&value).unwrap();
        let pieces: Vec<_> = found.pieces().collect();
        prop_assert_eq!(pieces.iter().map(|p| p.digest.is_some()).collect::<Vec<_>>(), chunks);
        let digests: Vec<_> = pieces.iter().filter_map(|p| p.digest).collect();
        prop_assert_eq!(&digests, &found.chunks);
        prop_assert_eq!(pieces.iter().map(|p| p.length).sum::<u64>(), size);
        let zeros: u64 = found.zero_ranges().map(|(_, length)| length).sum();
        prop_assert_eq!(zeros + found.mapped_bytes(), size);
        for (start, length) in found.zero_ranges() {
            let inside = |p: &&holdfast_engine::image::Piece| p.offset >= start && p.offset < start + length;
            prop_assert!(pieces.iter().filter(inside).all(|p| p.digest.is_none()));
        }
    }

    #[test]
    fn a_changed_descriptor_is_refused_or_holds_together(
        at: proptest::sample::Index, byte: u8,
    ) {
        let mut json = good().to_string().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(found) = Descriptor::parse(Path::new("x"), &json) {
            prop_assert_eq!(found.pieces().count() as u64, found.pieces_count());
            let digests: Vec<_> = found.pieces().filter_map(|p| p.digest).collect();
            prop_assert_eq!(&digests, &found.chunks);
        }
    }
}

fn is_damage(error: Error) -> bool {
    matches!(error, Error::Record { .. })
}

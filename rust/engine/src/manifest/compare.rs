//! In what two manifests differ, without reading the files that they list.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::{Entry, Manifest, Status, Type};
use super::report::{Finding, FindingKind, Reason, Report};
use crate::digest::{Algorithm, Digest};
use crate::{Error, Progress, Result};

/// What to compare.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// One manifest.
    pub left: PathBuf,
    /// The other.
    pub right: PathBuf,
    /// Bytes of each to decompress at most.
    pub max_bytes: u64,
    /// The record file to write all findings to; its directory exists.
    pub report: PathBuf,
    /// More members for its header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// Whether to report what is identical as well.
    pub identical: bool,
}

/// The result.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Whether nothing differs and everything could be compared.
    pub ok: bool,
    /// The same in both.
    pub identical: u64,
    /// Other content, size, target or type.
    pub differing: u64,
    /// In the left one only.
    pub only_left: u64,
    /// In the right one only.
    pub only_right: u64,
    /// Files with the same content under another name.
    pub moved: u64,
    /// The same content with another owner, mode or time.
    pub metadata: u64,
    /// Files of which one side has no digest.
    pub unproven: u64,
    /// Bytes in the ranges that differ.
    pub differing_bytes: u64,
    /// What differs by name, up to the limit.
    pub findings: Vec<Finding>,
    /// Whether the list is complete.
    pub findings_all: bool,
}

/// Memory for what is in one manifest only, in bytes.
const LONE_BYTES: u64 = 128 << 20;
/// Passes over both manifests to detect moves, where one pass would take more memory than that.
const MOST_PARTS: u64 = 64;

/// What is in one manifest only: enough to find it in the other under another name.
#[derive(Debug)]
struct Lone {
    path: Box<[u8]>,
    kind: Type,
    size: u64,
    digest: Option<Digest>,
}

impl Lone {
    fn of(entry: Entry) -> Self {
        let Entry { path, kind, identity, digest, .. } = entry;
        Self { path, kind, size: identity.size, digest }
    }

    /// By what it is known again.
    fn content(&self) -> Option<(u64, Digest)> {
        self.digest.filter(|_| self.size > 0).map(|digest| (self.size, digest))
    }

    /// Bytes of memory that it takes, with its place in the tables.
    fn memory(&self) -> u64 {
        (2 * size_of::<Self>() + 48 + self.path.len()) as u64
    }

    /// Which of `parts` parts its content belongs to: the same for all of one content.
    fn part(&self, parts: u64) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        self.content()?.hash(&mut hasher);
        Some(hasher.finish() % parts)
    }
}

/// What is in one manifest only, as far as there is memory for it.
#[derive(Debug, Default)]
struct Lones {
    left: Vec<Lone>,
    right: Vec<Lone>,
    /// Bytes of memory that all of it takes, also what was dropped.
    bytes: u64,
}

impl Lones {
    /// Keep one; drop all once there is no memory for all.
    fn add(&mut self, lone: Lone, in_left: bool, budget: u64) {
        self.bytes += lone.memory();
        if self.bytes > budget {
            (self.left, self.right) = (Vec::new(), Vec::new());
        } else if in_left {
            self.left.push(lone);
        } else {
            self.right.push(lone);
        }
    }
}

/// Compare two manifests.
///
/// # Errors
/// [`Error::Record`] for one that cannot be trusted, [`Error::Invalid`] if their algorithms differ or
/// too much is in one of them only, [`Error::Io`], [`Error::NoSpace`], [`Error::Cancelled`].
pub fn compare(request: &Request, progress: &Progress) -> Result<Outcome> {
    compare_within(request, LONE_BYTES, progress)
}

/// As [`compare`], with this many bytes of memory for what is in one manifest only.
///
/// # Errors
/// As [`compare`].
pub fn compare_within(request: &Request, budget: u64, progress: &Progress) -> Result<Outcome> {
    progress.enter("comparing");
    same_algorithm(request)?;
    let report = Report::create(&request.report, "compare", &request.header)?;
    let mut outcome = Outcome::default();
    let mut lones = Lones::default();
    merge(request, progress, |one, other| {
        progress.add_files(1);
        match (one, other) {
            (Some(one), Some(other)) => outcome.pair(&one, &other, &report, request.identical)?,
            (Some(one), None) => lones.add(Lone::of(one), true, budget),
            (None, Some(other)) => lones.add(Lone::of(other), false, budget),
            (None, None) => {}
        }
        Ok(())
    })?;
    if lones.bytes <= budget {
        outcome.lone(&lones, &report, progress)?;
    } else {
        // Twice as many parts as would do, since they are not of one size.
        let parts = lones.bytes.div_ceil(budget).saturating_mul(2);
        outcome.lone_by_parts(request, parts, budget, &report, progress)?;
    }
    (outcome.findings, outcome.findings_all) = report.finish()?;
    let Outcome { differing, only_left, only_right, moved, metadata, unproven, .. } = outcome;
    outcome.ok = differing + only_left + only_right + moved + metadata + unproven == 0;
    Ok(outcome)
}

fn same_algorithm(request: &Request) -> Result<()> {
    let left = Manifest::open(&request.left, request.max_bytes)?.header.algorithm;
    let right = Manifest::open(&request.right, request.max_bytes)?.header.algorithm;
    if left == right {
        return Ok(());
    }
    let [left, right] = [left, right].map(Algorithm::name);
    Err(Error::Invalid(format!(
        "the left manifest has digests of {left}, the right one of {right}; build both with one \
         algorithm to compare them"
    )))
}

/// Read both manifests side by side, by path.
fn merge(
    request: &Request,
    progress: &Progress,
    mut visit: impl FnMut(Option<Entry>, Option<Entry>) -> Result<()>,
) -> Result<()> {
    let mut left = Manifest::open(&request.left, request.max_bytes)?;
    let mut right = Manifest::open(&request.right, request.max_bytes)?;
    let (mut one, mut other) = (left.next(progress)?, right.next(progress)?);
    loop {
        let order = match (&one, &other) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(one), Some(other)) => one.path.cmp(&other.path),
        };
        let taken_left = if order.is_le() { one.take() } else { None };
        let taken_right = if order.is_ge() { other.take() } else { None };
        if order.is_le() {
            one = left.next(progress)?;
        }
        if order.is_ge() {
            other = right.next(progress)?;
        }
        // What went away while a manifest was made is as if it had never been.
        let there = |entry: &Entry| entry.status != Status::Vanished;
        visit(taken_left.filter(there), taken_right.filter(there))?;
    }
}

impl Outcome {
    /// What is under one name in both.
    fn pair(&mut self, one: &Entry, other: &Entry, report: &Report, all: bool) -> Result<()> {
        let finding = |kind| Finding::new(&one.path, kind, one.kind);
        let differing = |reason| finding(FindingKind::Differing).reason(reason);
        if one.kind != other.kind {
            self.differing += 1;
            return report.add(&differing(Reason::Type));
        }
        if one.target() != other.target() {
            self.differing += 1;
            return report.add(&differing(Reason::Target));
        }
        let (left, right) = (one.identity.size, other.identity.size);
        if one.kind == Type::File {
            let (Some(digest), Some(wanted)) = (one.digest, other.digest) else {
                self.unproven += 1;
                return report.add(&finding(FindingKind::Unproven).sizes(left, right));
            };
            if (left, digest) != (right, wanted) {
                self.differing += 1;
                let ranges = differing_ranges(one, other);
                let bytes: u64 = ranges.iter().map(|[from, to]| to - from).sum();
                self.differing_bytes = self.differing_bytes.saturating_add(bytes);
                let reason = if left == right { Reason::Content } else { Reason::Size };
                return report.add(&differing(reason).ranges(&ranges).sizes(left, right));
            }
        } else if one.status != Status::Ok || other.status != Status::Ok {
            self.unproven += 1;
            return report.add(&finding(FindingKind::Unproven));
        }
        let fields = differing_fields(one, other);
        if !fields.is_empty() {
            self.metadata += 1;
            return report.add(&finding(FindingKind::Metadata).fields(fields));
        }
        self.identical += 1;
        if all { report.add(&finding(FindingKind::Identical)) } else { Ok(()) }
    }

    /// What is under a name in one only, as [`Outcome::lone`], in parts that fit into memory: each
    /// has all files of its contents.
    fn lone_by_parts(
        &mut self,
        request: &Request,
        parts: u64,
        budget: u64,
        report: &Report,
        progress: &Progress,
    ) -> Result<()> {
        let too_much = || {
            Error::Invalid(format!(
                "too much is in one of the manifests only to find what moved with {budget} bytes of \
                 memory; compare manifests of the same directory"
            ))
        };
        if parts > MOST_PARTS {
            return Err(too_much());
        }
        for part in 0..parts {
            let mut lones = Lones::default();
            merge(request, progress, |one, other| {
                let in_left = one.is_some();
                let ((Some(entry), None) | (None, Some(entry))) = (one, other) else {
                    return Ok(());
                };
                let lone = Lone::of(entry);
                match lone.part(parts) {
                    Some(of) if of == part => lones.add(lone, in_left, budget),
                    // What has no content cannot be found again.
                    None if part == 0 => self.alone(&lone, in_left, report)?,
                    _ => {}
                }
                if lones.bytes > budget { Err(too_much()) } else { Ok(()) }
            })?;
            self.lone(&lones, report, progress)?;
        }
        Ok(())
    }

    /// What is under a name in one only: some of it is in the other under another name.
    fn lone(&mut self, lones: &Lones, report: &Report, progress: &Progress) -> Result<()> {
        let Lones { left, right, .. } = lones;
        let mut elsewhere: HashMap<(u64, Digest), VecDeque<usize>> = HashMap::new();
        for (index, lone) in right.iter().enumerate() {
            if let Some(content) = lone.content() {
                elsewhere.entry(content).or_default().push_back(index);
            }
        }
        let mut found = vec![false; right.len()];
        for lone in left {
            progress.check()?;
            let place = lone.content().and_then(|content| elsewhere.get_mut(&content)?.pop_front());
            match place {
                Some(place) => {
                    found[place] = true;
                    self.moved += 1;
                    let finding = Finding::new(&lone.path, FindingKind::Moved, lone.kind);
                    report.add(&finding.moved_to(&right[place].path))?;
                }
                None => self.alone(lone, true, report)?,
            }
        }
        for (lone, _) in right.iter().zip(found).filter(|(_, found)| !found) {
            progress.check()?;
            self.alone(lone, false, report)?;
        }
        Ok(())
    }

    /// What is in one manifest under no name in the other.
    fn alone(&mut self, lone: &Lone, in_left: bool, report: &Report) -> Result<()> {
        let kind = if in_left { FindingKind::OnlyLeft } else { FindingKind::OnlyRight };
        *(if in_left { &mut self.only_left } else { &mut self.only_right }) += 1;
        report.add(&Finding::new(&lone.path, kind, lone.kind))
    }
}

/// Which bytes of a file differ, as far as the chunk tables show: nothing if they do not.
fn differing_ranges(one: &Entry, other: &Entry) -> Vec<[u64; 2]> {
    let (left, right) = (one.identity.size, other.identity.size);
    let end = left.max(right);
    let (Some(mine), Some(theirs)) = (one.chunks(), other.chunks()) else {
        // One piece each: all of it, or where one of them has a table nothing is known.
        let known = one.chunks().is_none() && other.chunks().is_none();
        let linked = one.hardlink_of().is_some() || other.hardlink_of().is_some();
        return if known && !linked { vec![[0, end]] } else { Vec::new() };
    };
    if mine.size != theirs.size {
        return Vec::new();
    }
    let size = mine.size;
    // Chunks that are whole on both sides, or the last of both.
    let comparable = if left == right { end.div_ceil(size) } else { left.min(right) / size };
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    let mut push = |from: u64, to: u64| match ranges.last_mut() {
        Some(last) if last[1] == from => last[1] = to,
        _ => ranges.push([from, to]),
    };
    for nth in 0..comparable {
        let index = nth as usize;
        if mine.digests.get(index) != theirs.digests.get(index) {
            push(nth * size, ((nth + 1) * size).min(end));
        }
    }
    if comparable * size < end {
        push(comparable * size, end);
    }
    ranges
}

/// Which members differ of what has the same content. Times of what copying tools make anew, of
/// directories and links, mean nothing.
fn differing_fields(one: &Entry, other: &Entry) -> Vec<&'static str> {
    let file = one.kind == Type::File;
    let owned = one.kind != Type::Symlink;
    let linked = one.hardlink_of().is_some() != other.hardlink_of().is_some();
    [
        ("mode", owned && one.mode != other.mode),
        ("mtime_ns", file && one.identity.mtime_ns != other.identity.mtime_ns),
        ("uid", owned && one.uid != other.uid),
        ("gid", owned && one.gid != other.gid),
        ("nlink", file && (one.nlink != other.nlink || linked)),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

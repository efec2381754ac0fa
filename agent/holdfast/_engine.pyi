"""The Rust engine.

Requests and results are JSON documents. A capability has the shapes of its requests in its
`engine_requests.py`, and those of results among its models.
Every call that can be long releases the GIL, reports to a `Progress`, and stops when cancelled.
Failures of the operating system are raised as `OSError` with `errno` and `filename` set.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, final

__version__: str
__all__ = [
    "CancelledError",
    "EngineError",
    "NotPermittedError",
    "Progress",
    "RecordError",
    "TransferError",
    "TransferServer",
    "__version__",
    "apply_image_rules",
    "build_fat",
    "build_gpt",
    "build_manifest",
    "check_free_space",
    "check_patterns",
    "commit_memory",
    "compare_manifests",
    "decompress",
    "describe_image",
    "discard_memory",
    "dump_pages",
    "ed25519_public",
    "ed25519_sign",
    "ed25519_verify",
    "evict_pages",
    "export_happycache",
    "export_manifest",
    "find_fat_file",
    "free_space",
    "has_cachestat",
    "import_happycache",
    "inspect_descriptor",
    "inspect_dump",
    "inspect_image",
    "inspect_manifest",
    "inspect_memory_save",
    "kind_of",
    "load_pages",
    "mbr_ranges",
    "measure_residency",
    "pack_image",
    "page_size",
    "probe_device",
    "pull_transfer",
    "read_gpt",
    "recover_memory",
    "refused_in_system",
    "repair_transfer",
    "save_memory",
    "set_free_space_floor",
    "stage_memory",
    "switched_gpt",
    "transfer_certificate",
    "transfer_secret",
    "transfer_statistics",
    "verify_image",
    "verify_manifest",
]

class EngineError(Exception):
    """The base of what the engine raises besides `OSError` and `ValueError`."""

class CancelledError(EngineError):
    """The work was cancelled through its `Progress`; nothing half-written is left."""

class RecordError(EngineError):
    """A record file is torn, damaged, hostile, or of a kind or version this engine cannot read."""

class NotPermittedError(EngineError):
    """The kernel would not tell the truth about a file's residency to this process."""

@final
class Progress:
    """What a running call has done so far; cheap to read from any thread at any time."""

    def __new__(cls) -> Progress: ...
    @property
    def phase(self) -> str:
        """The current phase in one or two words, for example `scanning`; empty before the start."""
    @property
    def bytes_done(self) -> int: ...
    @property
    def bytes_expected(self) -> int | None: ...
    @property
    def files_done(self) -> int: ...
    @property
    def files_expected(self) -> int | None: ...
    @property
    def read_bytes(self) -> int:
        """Bytes of file data this call caused to be read."""
    @property
    def uses_share(self) -> float | None:
        """The share of the expected uses of pages that is dealt with, where a load has them."""
    @property
    def current(self) -> str | None:
        """The path of the largest file that is being worked on, where the call reports it."""
    @property
    def cancelled(self) -> bool: ...
    def enter(self, phase: str) -> None:
        """Set what is being done, for work that is not the engine's."""
    def expect(self, amount: int | None) -> None:
        """Set how many bytes there are to process; None if that is not known."""
    def advance(self, amount: int) -> None:
        """Count bytes as dealt with."""
    def restart(self) -> None:
        """Count the bytes dealt with from zero again; the phase and what is expected stay."""
    def cancel(self) -> None:
        """Ask the call to stop; it raises `CancelledError` soon after. Idempotent."""

def page_size() -> int:
    """Bytes in a page of memory."""

def set_free_space_floor(share: int, amount: int, most: int) -> None:
    """Set how much of a volume stays free, for all writers of this process.

    The larger of `share` thousandths of the volume and `amount` bytes, of which no more than `most`
    thousandths.
    """

def free_space(path: Path) -> tuple[int, int]:
    """Return the free bytes of the volume of a path, and how many of them have to stay free."""

def check_free_space(path: Path, more: int) -> None:
    """Raise `OSError` (ENOSPC) if `more` bytes at `path` would go below the floor."""

def has_cachestat() -> bool:
    """Whether the running kernel has cachestat(2), Linux 6.5 and later."""

def kind_of(root: Path, path: Path) -> Literal["directory", "file", "other"]:
    """Return what a path relative to a root is.

    Raises `OSError`: `EXDEV` if something else is mounted on the way, `ELOOP` at a symbolic link.
    """

def measure_residency(request: str, progress: Progress) -> str:
    """Measure how much of a file, a directory or a root is in memory."""

def dump_pages(request: str, progress: Progress) -> str:
    """Record which pages are in memory, in a record file that is there whole or not at all."""

def load_pages(request: str, progress: Progress) -> str:
    """Read the pages of a record back into memory and check that they arrived."""

def evict_pages(request: str, progress: Progress) -> str:
    """Drop clean pages of files from memory."""

def inspect_dump(request: str, progress: Progress) -> str:
    """Read a whole record, check it, and tell its header and totals."""

def import_happycache(request: str, progress: Progress) -> str:
    """Make a record of a file that happycache wrote."""

def export_happycache(request: str, progress: Progress) -> str:
    """Write a record as happycache reads it, to the open descriptor `output`."""

def build_manifest(request: str, progress: Progress) -> str:
    """Record every file below a directory with its digest; resume an earlier run."""

def check_patterns(include: list[str], exclude: list[str]) -> None:
    """Raise `ValueError`, naming the pattern, if one is malformed."""

def verify_manifest(request: str, progress: Progress) -> str:
    """Read the files that a manifest lists and find what differs, and where."""

def compare_manifests(request: str, progress: Progress) -> str:
    """Find in what two manifests differ, without reading any file that they list."""

def inspect_manifest(request: str, progress: Progress) -> str:
    """Read a whole manifest, check it, and tell its header, totals and largest files."""

def export_manifest(request: str, progress: Progress) -> str:
    """Write a manifest as text that `xxhsum -c` reads, or any record as plain JSON lines.

    It goes to the open descriptor `output`. Raises `CancelledError` also if that is a pipe whose
    reader closed it.
    """

def describe_image(request: str, progress: Progress) -> str:
    """Read a disk image, raw or packed with zstd, gzip or xz, and make its descriptor."""

def inspect_image(request: str, progress: Progress) -> str:
    """Inspect a disk image, raw or packed, without digests: what `describe_image` would find."""

def apply_image_rules(question: str) -> str:
    """Return why an image cannot be written to a disk, boot a machine, or get what it should.

    The question has `image` (a descriptor; members that are absent are not known), and `target`,
    `machine` and `wishes`, each of which may be left out. The answer has `refusals` and `notes`,
    sentences, and `carried_root`. Raises `ValueError` for another question.
    """

def probe_device(path: Path) -> str:
    """Return what is on a block device, and why it must not be written. Raises `OSError`."""

def refused_in_system(path: Path, groups: list[str], partitions: list[Path]) -> str | None:
    """Return a clause: why a partition of the disk of a system on LVM may not be written.

    `groups` are UUIDs of the system's volume groups, which go with it if they are on that
    disk alone; `partitions` are all of the disk. Raises `OSError`.
    """

def pack_image(request: str, progress: Progress) -> str:
    """Pack a raw disk image with zstd, into a file that is not there yet."""

def verify_image(request: str, progress: Progress) -> str:
    """Read the file of a disk image and check whether it is the image of a descriptor."""

def inspect_descriptor(data: bytes) -> str:
    """Check the descriptor of an image and tell what it says, but for the digests of chunks.

    Raises `RecordError` if it is not one, or does not hold together.
    """

def ed25519_public(seed: bytes) -> bytes:
    """Return the public key, of 32 bytes, of a private one. `ValueError` unless it has 32."""

def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """Sign a message; 64 bytes. Raises `ValueError` unless the seed has 32 bytes."""

def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is one of this message by this key; False for anything malformed."""

def find_fat_file(device: Path, path: str) -> str:
    """Find where a file's bytes are on a device with a FAT file system, past the page cache.

    `path` begins at the file system's root. Raises `ValueError` with a clause about a file system
    that is damaged, or no FAT; `OSError`.
    """

def read_gpt(path: Path, lba: int, sector_bytes: int) -> str | None:
    """Read the GPT of the header in a sector of a disk, past the page cache; None without one.

    `sector_bytes` is the size of the disk's logical sectors. Raises `ValueError` with a clause for
    a table that is damaged, `OSError`.
    """

def mbr_ranges(sector: bytes) -> list[tuple[int, int]]:
    """Return first sector and number of sectors of each entry of an MBR that protects no GPT.

    An extended partition is one range. Nothing for a sector without the signature of an MBR.
    """

def switched_gpt(mbr: bytes, header: bytes) -> str | None:
    """Return the GUID of a disk from its sectors 0 and 1, if sector 1 alone decides on the table.

    None without a header there, or a protective MBR. Raises `ValueError` with a clause for a header
    that is damaged.
    """

def build_gpt(request: str) -> tuple[bytes, bytes, bytes]:
    """Build a table with one system partition: entries, first header, second header.

    Raises `ValueError` for a number or a GUID that no table has.
    """

def build_fat(sector_bytes: int, files: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a FAT file system with these files, for a disk with sectors of 512 or 4096 bytes.

    A path is `EFI/BOOT/BOOTX64.EFI`; directories are made as needed. The same arguments give the
    same bytes, hardly more than those of the files. Raises `ValueError` for what FAT cannot have.
    """

def decompress(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Unpack data, of encoding `zstd`, `gzip`, `xz` or `identity`, that fits in memory.

    Raises `RecordError` if it is damaged, or has more than `max_bytes` bytes when unpacked;
    `ValueError` for another encoding.
    """

class TransferError(EngineError):
    """A transfer failed.

    Its arguments are a sentence and the kind: `wire`, `refused`, `protocol`, `damaged`, `occupied`,
    `complete`, `busy`, `unfinished` or `writers`.
    """

@final
class TransferServer:
    """Serves offers of directories on one listening socket, in threads of its own."""

    def __new__(
        cls,
        listener: int,
        certificate: bytes,
        key: bytes,
        limits: str,
        bind: Callable[[str, str], bool],
        *,
        writers: Callable[[str, bool], str | None] | None = None,
        manifest: Callable[[str], str | None] | None = None,
        completed: Callable[[str, str], bool] | None = None,
        page_cache: Callable[[str], bytes | None] | None = None,
        record: Callable[[str], tuple[str, int] | None] | None = None,
    ) -> TransferServer:
        """Start to serve. The descriptor of the socket is owned, and closed, by the server.

        `limits` is a JSON object, which may be empty. `bind` is called from a thread with the id of
        an offer and the public key of the destination that uses its ticket first; it stores both
        and returns True, or the destination is refused. Raises `ValueError`, `OSError`.

        The other callbacks also get the id of an offer and run in threads of the server. One that
        raises refuses the destination; the exception goes to `sys.unraisablehook`.

        - `writers(offer, overrule)`: before each session that may complete a transfer. Return the
          sentence that refuses it, such as which process has which file open for writing; the
          destination gets `TransferError(sentence, "writers")`. `overrule` is the destination's
          `overrule_writers`.
        - `manifest(offer)`: all has arrived. Return a JSON object with `destination` (the record
          file to write), `journal`, `max_bytes` and `header`, or None for no manifest. It lists
          what is offered, files, directories and links, line by line what a build of the
          destination directory lists.
        - `completed(offer, outcome)`: that manifest was written. `outcome` is the JSON of a build
          with `digest` and `digest_without_owners`, SHA-256 of what a comparison of two manifests
          compares. Return True once it is stored; the destination completes only then. It may be
          called again for an offer, when a destination that was killed completes again.
        - `page_cache(offer)`: return a dump of at most 64 MiB, or None.
        - `record(offer)`: return the path of a manifest of exactly what is offered, made here, and
          the bytes of it to decompress at most; destinations are repaired by it.
        """

    def offer(self, offer: str) -> None:
        """Add an offer, or replace the one with its id. Raises `ValueError`.

        A JSON object: `id` (32 hexadecimal digits), `verifier`, `place` (`root`, `path`),
        `expires_at` (seconds since the epoch; connections are cut then), and optionally `puller`,
        `exclude`, `include_patterns`, `exclude_patterns`, `files` (a list of paths), `mounts`
        (other file systems below: `refuse`, `include` or `leave_out`), `bytes_per_second`,
        `pressure`, `digests` (a file, private to the offer, that saves the manifest from reading
        all again) and `accounts` (the directory of `passwd` and `group`, `/etc`).
        """

    def revoke(self, offer: str) -> bool:
        """Withdraw an offer by its id and cut its connections. Return False if there is none."""

    def status(self) -> str:
        """Return id, destination, open connections and bytes sent of each offer."""

    def close(self) -> None:
        """Stop to serve, and cut all connections."""

def transfer_certificate() -> tuple[bytes, bytes, str]:
    """Return a new certificate and its key, DER, and the fingerprint that tickets have."""

def transfer_secret() -> tuple[str, str]:
    """Return a new key for a ticket, and the public key that its offer stores."""

def transfer_statistics() -> str:
    """Return counters of all transfers of this process, live, as a JSON object.

    `sent_bytes` and `received_bytes` by proof (`wire`, `flushed`, `media`), `limited_seconds` by
    what limited transfers into this machine (`source-read`, `wire`, `destination-write`,
    `processor`).
    """

def save_memory(request: str, progress: Progress) -> str:
    """Save the files of a tmpfs root to a directory. Raises `OSError`, `ValueError`.

    `request` is a JSON object: `root`, `directory` (empty, on the volume), `names` (where `passwd`
    and `group` are), `header`, and optionally `leave_out`, `include`, `exclude`, `even_if_changed`
    and `bytes_per_second`. The result is a part of `SaveResult`. What a failed call has written is
    for the caller to remove.
    """

def inspect_memory_save(request: str, progress: Progress) -> str:
    """Check a save, and compare it with a root. Raises `RecordError`, `OSError`, `ValueError`.

    `request` is a JSON object: `root` and `save`. The result has `saved_root`, `needed_bytes`,
    `needed_files`, `free_bytes`, `free_files`, `memory_bytes`, `memory_limit`, and up to 20 names
    that are `present` as files or `foreign`: there as something else.
    """

def stage_memory(request: str, progress: Progress) -> str:
    """Put a save together beside the files of a root, and verify it. Raises as the inspection.

    `request` is a JSON object: `root`, `save`, `names`, and optionally `replace` and
    `bytes_per_second`. The result is a part of `RestoreResult`. Nothing is left if it fails.
    """

def commit_memory(request: str, progress: Progress) -> str:
    """Rename what was staged in `root` into place, or leave all as it was. Raises `OSError`."""

def recover_memory(request: str, progress: Progress) -> str:
    """Complete a commit in `root` that was cut off, and discard what else was staged.

    The result has `done`: `nothing`, `discarded` or `completed`. Raises as `commit_memory`.
    """

def discard_memory(request: str, progress: Progress) -> str:
    """Remove what was staged in `root`. Raises `OSError`."""

def pull_transfer(request: str, progress: Progress) -> str:
    """Fetch what a ticket offers, in passes. Raises `TransferError`, `OSError`, `ValueError`.

    `request` is a JSON object: `ticket`, `place` (`root`, `path`), `state` (a directory), and
    optionally `connections` (to begin with, 8), `most_connections` (32), `proof`,
    `bytes_per_second`, `passes`, `until_remaining`, `complete`, `overrule_writers`, `page_cache` (a
    file to write the source's dump to), `map_owners` (the same in all calls of a transfer),
    `accounts`, `manifest` (as for a source, with `exclude`) and `patience_seconds`. For a manifest
    that equals the source's, give it no patterns.

    The result has `passes`, `complete`, `manifest`, `manifest_digest`, `source_manifest` (`digest`
    and `equal`, or null) and `page_cache_bytes`. Each pass has `limited_by` and `limited_seconds`,
    `connections`, and `unmapped_owners` (`count`, `names`).
    """

def repair_transfer(request: str, progress: Progress) -> str:
    """Fetch the chunks of a destination that differ from the source's manifest.

    `request` is a JSON object: `ticket`, `place`, `state` (of the transfer, or an empty directory),
    and optionally `overwrite_written` (set back files that were written to since they were
    transferred; by default only before a transfer is complete), `bytes_per_second` and
    `patience_seconds`. The source needs the callback `record`.

    The result has `ok`, `files`, `bytes`, `differing_chunks`, `repaired_chunks`, `received_bytes`,
    `changed_on_source`, `unknown_on_source`, `left_alone`, `reconnects`, `findings_total` and
    `findings` (up to 1000: path, `offset`, `length`, `side`, `repaired`, `written_since`,
    `detail`).
    `side` is `source-disk`, `source-memory`, `wire`, `memory` (of either end),
    `destination-memory`, `destination-disk` or null. Raises as `pull_transfer` does.
    """

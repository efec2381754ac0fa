"""Documents that are answered, and long bodies that are sent. Written by generate_routes.py; do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    Members = Mapping[str, Any]


class Applied(TypedDict):
    """What was applied: every setting read back."""

    plan: str
    profile: str
    policy: str
    persist: bool
    applicable: bool
    changes: int
    settings: list[Setting]
    notes: list[str]
    written: int
    left: list[LeftSetting]


class AppliedEntry(TypedDict):
    """An apply that can be rolled back."""

    profile: str
    applied_at: str
    changes: int


class BlockDevice(TypedDict):
    """One block device."""

    name: str
    path: str
    type: str
    detail: str | None
    number: str
    size_bytes: int | None
    read_only: bool | None
    model: str | None
    serial: str | None
    wwid: str | None
    rotational: bool | None
    scheduler: str | None
    read_ahead_kb: int | None
    nr_requests: int | None
    logical_block_size: int | None
    physical_block_size: int | None
    lies_on: list[str]


class Boot(TypedDict):
    """How this machine boots, and how it would boot the imager."""

    mode: str
    loader: str | None
    kernel: str
    entry: str | None
    files: list[FileReport]


class BuildResult(TypedDict):
    """What a build recorded."""

    read_bytes: int
    hole_bytes: int
    reader: str
    reader_bytes: dict[str, int]
    reader_note: str | None
    queue_depth: int
    devices: list[Device]
    rate_wait_seconds: float
    pressure_wait_seconds: float
    entries: int
    files: int
    directories: int
    symlinks: int
    specials: int
    bytes: int
    hardlinks: int
    ok: int
    changed: int
    vanished: int
    errors: int
    manifest: str
    root: str
    path: str
    algorithm: str
    problems: list[FileProblem]
    problems_all: bool
    hashed_bytes: int
    reused_files: int
    reused_bytes: int
    resumed_bytes: int
    previous_unusable: str | None
    record_bytes: int
    skipped: dict[str, int]
    left_out: dict[str, LeftOut]


class CarriedItem(TypedDict):
    """A part of the identity, and the files that it consists of here."""

    name: str
    paths: list[str]
    problems: list[str]


class CarriedPageCache(TypedDict):
    """What came of the source's record of its page cache."""

    record_bytes: int
    requested: int
    resident: int
    problem: str | None


class CgroupMemory(TypedDict):
    """Memory of one cgroup that this process is in; null for a limit that is not set."""

    version: int
    path: str
    max_bytes: int | None
    high_bytes: int | None
    current_bytes: int | None


class Check(TypedDict):
    """One thing that has to be true of the new system."""

    name: str
    passed: bool
    detail: str


class CompareResult(TypedDict):
    """In what two manifests differ."""

    ok: bool
    left: str
    right: str
    identical: int
    differing: int
    only_left: int
    only_right: int
    moved: int
    metadata: int
    unproven: int
    differing_bytes: int
    findings: list[Finding]
    findings_all: bool


class DamagedRecord(TypedDict):
    """A stored record that cannot be used, and why."""

    id: str
    detail: str


class Device(TypedDict):
    """What files were read from."""

    device: str
    name: str | None
    width: int


class Disk(TypedDict):
    """A whole disk, and why it must not be written over."""

    name: str
    path: str
    model: str | None
    serial: str | None
    wwid: str | None
    size_bytes: int
    target: bool
    data: bool
    excluded: list[str]


class DriftedSetting(TypedDict):
    """A setting that is not as applied."""

    name: str
    subsystem: str
    target: str
    desired: str
    observed: str | None
    since: str
    contested: bool
    note: str | None


class Dump(TypedDict):
    """A stored dump, read from its record's header and trailer."""

    id: str
    latest: bool
    uploaded: bool
    created_at: str
    host: str
    boot_id: str
    roots: list[str]
    path: str | None
    page_size: int
    files: int
    bytes: int
    record_bytes: int
    hotness: bool


class DumpList(TypedDict):
    """Stored dumps, newest first."""

    dumps: list[Dump]
    damaged: list[DamagedRecord]


class DumpResult(TypedDict):
    """What a dump recorded; `partial` if files were skipped that could have pages."""

    dump: str
    roots: list[str]
    files: int
    files_scanned: int
    bytes: int
    pages: int
    page_size: int
    record_bytes: int
    skipped: dict[str, int]
    examples: list[SkippedFile]
    left_out: dict[str, LeftOut]
    method: str
    hotness: bool


class Event(TypedDict):
    """Something that happened to the settings."""

    time: str
    kind: str
    message: str
    profile: str | None
    settings: list[str]


class EvictResult(TypedDict):
    """What an eviction dropped and what stayed."""

    files: int
    resident_before: int
    evicted: int
    retained: int
    retained_files: list[RetainedFile]
    skipped: dict[str, int]
    examples: list[SkippedFile]
    left_out: dict[str, LeftOut]


class FetchedFrom(TypedDict):
    """A source that gave bytes of an image."""

    source: str
    address: str
    bytes: int


class FieldError(TypedDict):
    """What is wrong with one field of a request."""

    field: str
    message: str


class FileProblem(TypedDict):
    """A file that has no digest, and why."""

    path: str
    path_b64: str | None
    status: str
    detail: str | None


class FileReport(TypedDict):
    """A file that arming wrote, or would write."""

    path: str
    size_bytes: int | None
    sha256: str | None


class Finding(TypedDict):
    """Something that is not as it should be, or not the same in two manifests."""

    path: str
    path_b64: str | None
    finding: str
    type: str
    reason: str | None
    detail: str | None
    ranges: list[list[Any]]
    moved_to: Located | None
    fields: list[str]
    left_size: int | None
    right_size: int | None


class FleetLockReport(TypedDict):
    """The lock that this node holds, or may hold: of what was asked no answer may have arrived."""

    url: str
    id: str
    group: str
    since: str
    operation: str
    problem: str | None


class GateReport(TypedDict):
    """The answer of one gate."""

    gate: str
    passed: bool
    overridden: bool
    detail: str
    at: str


class GroupedResidency(TypedDict):
    """All files of a report in groups, those with most in memory first; sums equal its total."""

    by: str
    groups: list[ResidencyGroup]
    rest: RestOfGroups
    notes: list[str]


class Health(TypedDict):
    """The process answers."""

    status: str


class ImageSummary(TypedDict):
    """An image, as its descriptor describes it."""

    name: str
    image_version: str
    descriptor_sha256: str
    size_bytes: int
    mapped_bytes: int
    content_bytes: int
    encoding: str
    boot_modes: list[str]
    root_partition: int | None
    root_file_system: str | None
    root_volume: str | None
    signed_by: str | None
    architecture: str | None
    sector_bytes: int | None
    system: str | None
    kernels: list[str]
    holdfast: str | None
    cloud_init: bool | None
    selinux: str | None
    root_free_bytes: int | None
    root_is_mounted: bool | None
    inspected: bool
    root_is_last: bool | None


class ImagerReport(TypedDict):
    """What the imager did, as it reported to the new system."""

    finished: str
    phases: list[Phase]
    bytes_written: int
    bytes_mapped: int
    memory_peak_bytes: int
    resumed: int
    lifeboat: LifeboatRange | None
    notes: list[str]


class Instance(TypedDict):
    """The instance of EC2 that this machine is, as its metadata service reports it; for people."""

    id: str | None
    type: str | None
    zone: str | None
    launch_image: str | None


class InterlockReport(TypedDict):
    """What is asked before this machine goes down."""

    asking: str | None
    gates: list[GateReport]
    fleet_lock: FleetLockReport | None
    window_open: bool
    window_changes: str | None


class LargeFile(TypedDict):
    """One of the largest files of a manifest."""

    path: str
    path_b64: str | None
    size: int
    digest: str | None


class LeftOut(TypedDict):
    """What was left out for one reason: names, each with all that is below it."""

    count: int
    examples: list[Located]


class LeftSetting(TypedDict):
    """A setting that could not be reverted."""

    name: str
    subsystem: str
    target: str
    before: str
    observed: str | None
    reason: str
    since: str


class LifeboatRange(TypedDict):
    """A range of the disk."""

    offset_bytes: int
    length_bytes: int


class LifeboatReport(TypedDict):
    """Where the lifeboat is, or would be: what boots after a power cut while the disk is written."""

    kind: str
    offset_bytes: int | None
    length_bytes: int | None
    reason: str | None


class LoadResult(TypedDict):
    """What a load asked for and what the kernel confirmed afterwards."""

    dump: str
    requested: int
    already_resident: int
    loaded: int
    missing: int
    skipped_bytes: int
    recall: float
    budget_recall: float | None
    order: str | None
    order_detail: str | None
    dumps: list[str]
    dumps_left_out: list[UnusedDump]
    expected_hits: float | None
    files: int
    files_complete: int
    skipped: dict[str, int]
    skipped_bytes_by_reason: dict[str, int]
    left_out: dict[str, LeftOut]
    reported: list[LoadedFile]
    reported_all: bool
    budget: int
    budget_limit: str
    retried: int
    stopped: str | None


class LoadedFile(TypedDict):
    """The outcome of one file of a dump; bytes of whole pages."""

    path: str
    path_b64: str | None
    requested: int
    already_resident: int
    loaded: int
    missing: int
    skipped: int
    reason: str | None
    detail: str | None


class Located(TypedDict):
    """Something on disk."""

    path: str
    path_b64: str | None


class Manifest(TypedDict):
    """A stored manifest, read from its record."""

    entries: int
    files: int
    directories: int
    symlinks: int
    specials: int
    bytes: int
    hardlinks: int
    ok: int
    changed: int
    vanished: int
    errors: int
    id: str
    latest: bool
    uploaded: bool
    created_at: str
    host: str
    boot_id: str
    root: str
    path: str
    algorithm: str
    include: list[str]
    exclude: list[str]
    record_bytes: int


class ManifestDetails(TypedDict):
    """A stored manifest with some of its files by name."""

    entries: int
    files: int
    directories: int
    symlinks: int
    specials: int
    bytes: int
    hardlinks: int
    ok: int
    changed: int
    vanished: int
    errors: int
    id: str
    latest: bool
    uploaded: bool
    created_at: str
    host: str
    boot_id: str
    root: str
    path: str
    algorithm: str
    include: list[str]
    exclude: list[str]
    record_bytes: int
    cryptographic: bool
    largest: list[LargeFile]
    problems: list[FileProblem]
    problems_all: bool


class ManifestList(TypedDict):
    """Stored manifests, newest first."""

    manifests: list[Manifest]
    damaged: list[DamagedRecord]


class Memory(TypedDict):
    """Memory of this machine, and what its cgroups leave to this process."""

    total_bytes: int
    available_bytes: int
    cached_bytes: int
    dirty_bytes: int | None
    swap_total_bytes: int
    swap_used_bytes: int
    page_size: int
    cgroups: list[CgroupMemory]
    headroom_bytes: int | None


class MemoryRoot(TypedDict):
    """A root of `memory.roots` as it is now."""

    root: str
    problem: str | None
    size_bytes: int
    used_bytes: int


class MemorySave(TypedDict):
    """A save on the data volume."""

    id: str
    root: str
    created_at: str
    host: str
    boot_id: str
    files: int
    directories: int
    bytes: int
    data_bytes: int
    stored_bytes: int
    used_at: str | None
    used_by: str | None


class MemoryState(TypedDict):
    """The configured roots, and the saves."""

    roots: list[MemoryRoot]
    saves: list[MemorySave]
    damaged: list[str]


class NoParameters(TypedDict):
    """An empty object: there is nothing to choose here."""


class NodeReport(TypedDict):
    """Everything that is reported of this machine."""

    hostname: str
    machine_id: str | None
    boot_id: str | None
    image_id: str | None
    os_name: str | None
    kernel: str
    architecture: str
    cpus: int
    booted_at: str
    holdfast_version: str
    node_id: str | None
    cluster: str
    group: str
    labels: dict[str, str]
    instance: Instance | None
    memory: Memory
    roots: list[RootTopology]


class OfferList(TypedDict):
    """Offers of this node, newest first."""

    offers: list[TransferOffer]


class OfferMade(TypedDict):
    """A new offer, with its ticket."""

    offer: TransferOffer
    ticket: TransferTicket


class OperationList(TypedDict):
    """Operations without their results, newest first; a part of at most 1 MiB."""

    operations: list[OperationSummary]
    next: str | None


class OperationSummary(TypedDict):
    """One run of long work as lists have it: without its result."""

    id: str
    kind: str
    state: str
    outcome: str | None
    actor: str
    traceparent: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    params: dict[str, Any] | None
    progress: ProgressReport
    error: dict[str, Any] | None


class PageCacheState(TypedDict):
    """What `GET /v1/pagecache` answers: one report per root, or one for the path asked for."""

    page_size: int
    reports: list[ResidencyReport]
    unavailable: list[UnavailableRoot]


class Phase(TypedDict):
    """A part of the imager's work."""

    phase: str
    seconds: float
    bytes: int


class Plan(TypedDict):
    """What applying a profile would do."""

    plan: str
    profile: str
    policy: str
    persist: bool
    applicable: bool
    changes: int
    settings: list[Setting]
    notes: list[str]


class PressureLimit(TypedDict):
    """Give way while others wait for the device (pressure stall information, Linux 4.20)."""

    cgroup: str | None
    threshold_percent: float


class PreviousSystem(TypedDict):
    """The system that was kept before it was written over."""

    path: str
    name: str
    size_bytes: int
    when: str
    descriptor_sha256: str


class ProfileDetails(TypedDict):
    """A profile with all that it sets, inherited values included."""

    name: str
    description: str
    builtin: bool
    extends: list[str]
    policy: str | None
    applied: bool
    error: str | None
    lineage: list[str]
    variables: dict[str, str]
    values: list[ProfileValue]


class ProfileList(TypedDict):
    """The profiles of this machine."""

    profiles: list[ProfileSummary]


class ProfileSummary(TypedDict):
    """A profile that could be applied."""

    name: str
    description: str
    builtin: bool
    extends: list[str]
    policy: str | None
    applied: bool
    error: str | None


class ProfileValue(TypedDict):
    """A value as a profile states it, before this machine is inspected."""

    name: str
    subsystem: str
    target: str
    select: dict[str, list[str] | bool] | None
    value: str | int | bool | dict[str, str | int | bool] | None
    when: str | None
    only_if_present: bool
    source: str | None
    profile: str
    defined_at: str


class ProgressReport(TypedDict):
    """How far an operation has come, by what was really done; done never exceeds expected."""

    phase: str
    current: str | None
    bytes_done: int
    bytes_expected: int | None
    files_done: int
    files_expected: int | None
    bytes_per_second: int
    expected_hits: float | None
    eta_seconds: float | None


class PullParams(TypedDict):
    """What a pull was asked for; the ticket is kept apart, where no list of operations shows it."""

    path: str
    final: bool
    passes: int
    until_remaining: int
    proof: str
    connections: int | None
    bytes_per_second: int | None
    even_if_open: bool
    map_owners: bool
    page_cache: bool
    offer: str
    source: str
    source_path: str


class PullResult(TypedDict):
    """What a pull did."""

    transfer: str
    path: str
    proof: str
    complete: bool
    manifest: str | None
    manifest_digest: str | None
    source_manifest: SourceManifest | None
    page_cache: CarriedPageCache | None
    files: int
    bytes: int
    sent_bytes: int
    remaining_bytes: int
    bytes_per_second: int | None
    limited_by: str | None
    open_for_writing: list[str]
    uninspected_processes: int
    passes: list[TransferPass]


class Readiness(TypedDict):
    """The daemon can do its work."""

    status: str
    notes: list[str]


class ReimagePlan(TypedDict):
    """What re-imaging with a certain image would do."""

    target: Disk | None
    disks: list[Disk]
    boot: Boot | None
    loses: list[str]
    unknown: list[str]
    space: list[SpaceReport]
    lifeboat: LifeboatReport | None
    blocked: list[str]
    ok: bool
    image: ImageSummary | None
    mode: str
    identity: list[str]
    steps: list[str]
    trial: list[TrialRow]
    notes: list[str]


class ReimageResult(TypedDict):
    """How a re-imaging ended that came to its end."""

    ok: bool
    image: ImageSummary
    image_id: str | None
    checks: list[Check]
    imager: ImagerReport | None
    down_seconds: float | None
    confirmed_seconds: float | None


class ReimageStatus(TypedDict):
    """Where this machine is on its way to another image."""

    target: Disk | None
    disks: list[Disk]
    boot: Boot | None
    loses: list[str]
    unknown: list[str]
    space: list[SpaceReport]
    lifeboat: LifeboatReport | None
    blocked: list[str]
    state: str
    reason: str | None
    operation: str | None
    nonce: str | None
    image: ImageSummary | None
    fetched: list[FetchedFrom]
    mode: str | None
    image_id: str | None
    carried: list[CarriedItem]
    notes: list[str]
    trial: list[TrialRow]
    checks: list[Check]
    imager: ImagerReport | None
    previous: PreviousSystem | None
    rollback_of: str | None
    rollback_at: str | None
    interlock: InterlockReport | None
    history: list[Transition]


class RepairFinding(TypedDict):
    """A part of a file that differed."""

    path: str
    path_b64: str | None
    offset: int
    length: int
    side: str | None
    repaired: bool
    written_since: bool
    detail: str | None


class RepairParams(TypedDict):
    """What a repair was asked for; the ticket is kept apart."""

    path: str
    overwrite_written: bool | None
    bytes_per_second: int | None
    even_if_open: bool
    offer: str
    source: str
    source_path: str


class RepairResult(TypedDict):
    """What a repair found and healed."""

    transfer: str
    path: str
    ok: bool
    files: int
    bytes: int
    differing_chunks: int
    repaired_chunks: int
    received_bytes: int
    changed_on_source: int
    unknown_on_source: int
    left_alone: int
    reconnects: int
    findings_total: int
    findings: list[RepairFinding]


class Residency(TypedDict):
    """How much of one file, directory or root is in the page cache."""

    path: str
    path_b64: str | None
    kind: str
    files: int
    bytes: int
    resident: int
    dirty: int | None
    writeback: int | None
    evicted: int | None
    recently_evicted: int | None


class ResidencyGroup(TypedDict):
    """How much of the files that belong together in a datastore is in the page cache."""

    path: str
    path_b64: str | None
    store: str | None
    kind: str | None
    name: str | None
    name_b64: str | None
    files: int
    bytes: int
    resident: int
    dirty: int | None
    writeback: int | None
    evicted: int | None
    recently_evicted: int | None


class ResidencyHistory(TypedDict):
    """What was resident over time, the oldest first."""

    since: str
    until: str
    points: list[ResidencyPoint]


class ResidencyPoint(TypedDict):
    """What was resident when a dump of whole roots was made."""

    at: str
    roots: list[str]
    resident: int
    files: int
    dump: str
    outcome: str


class ResidencyReport(TypedDict):
    """Residency of one path: its total, its directories down to a level, its largest residents."""

    root: str
    total: Residency
    directories: list[Residency]
    files: list[Residency]
    grouped: GroupedResidency | None
    skipped: dict[str, int]
    left_out: dict[str, LeftOut]
    method: str


class RestOfGroups(TypedDict):
    """The groups that were not listed, together."""

    groups: int
    files: int
    bytes: int
    resident: int
    dirty: int | None
    writeback: int | None
    evicted: int | None
    recently_evicted: int | None


class RestoreResult(TypedDict):
    """What was restored."""

    save: str | None
    root: str
    restored: bool
    reason: str | None
    files: int
    directories: int
    bytes: int
    data_bytes: int
    reader: str | None
    unmapped_owners: Unmapped
    unset_attributes: int
    open_for_writing: list[str]
    uninspected_processes: int


class RetainedFile(TypedDict):
    """A file of which pages stayed in memory."""

    path: str
    path_b64: str | None
    retained: int
    dirty: int | None
    writeback: int | None
    reasons: list[str]


class RolledBack(TypedDict):
    """What was restored."""

    profile: str | None
    written: int
    settings: list[Setting]
    notes: list[str]
    left: list[LeftSetting]


class RootTopology(TypedDict):
    """Where a root lies: its mount, and every device from there down to the disks."""

    root: str
    exists: bool
    mount_point: str | None
    source: str | None
    file_system: str | None
    options: str | None
    size_bytes: int | None
    available_bytes: int | None
    devices: list[BlockDevice]
    note: str | None


class SaveResult(TypedDict):
    """What was saved."""

    save: str
    root: str
    files: int
    directories: int
    bytes: int
    data_bytes: int
    stored_bytes: int
    direct: bool
    left_out: dict[str, int]
    left_out_names: list[Located]
    changed: list[Located]
    open_for_writing: list[str]
    uninspected_processes: int


class Setting(TypedDict):
    """One setting of this machine: what a profile wants, and its actual value."""

    name: str
    subsystem: str
    target: str
    desired: str | None
    observed: str | None
    rounded: str | None
    previous: str | None
    action: str
    note: str | None
    source: str | None
    profile: str | None
    defined_at: str | None
    conflicts: list[str]
    needs: str | None


class SharedImage(TypedDict):
    """An image at a node, by the digest of its file."""

    sha256: str
    size_bytes: int
    state: str
    present_bytes: int
    proven_bytes: int
    node_id: str | None
    zone: str


class SkippedFile(TypedDict):
    """A file that was skipped, and why."""

    path: str
    path_b64: str | None
    reason: str
    detail: str | None


class SourceManifest(TypedDict):
    """The manifest that the source made of what it read."""

    digest: str
    equal: bool


class SpaceReport(TypedDict):
    """Space that is needed, and space that is free."""

    what: str
    needed_bytes: int
    available_bytes: int


class StageRequest(TypedDict, total=False):
    """Which image this machine is to become, and how its arrival is to be judged."""

    descriptor_sha256: str | None
    signature: str | None
    content: str | None
    mirrors: Sequence[str]
    mode: Literal["staged", "network"]
    identity: Sequence[Literal["ssh_host_keys", "machine_id", "hostname", "holdfast"]]
    manifest: str | None
    sample_percent: float | None
    confirm: Literal["auto", "manual"]
    grow_root: bool
    save_previous: bool
    allow_unprotected: bool
    rollback: Literal["never", "automatic"]
    confirm_seconds: int


class Transfer(TypedDict):
    """A transfer into this node."""

    id: str
    path: str
    offer: str
    source: str
    source_path: str
    created_at: str
    complete: bool
    manifest: str | None
    operation: str | None


class TransferList(TypedDict):
    """Transfers into this node, newest first."""

    transfers: list[Transfer]


class TransferOffer(TypedDict):
    """An offer, without its ticket."""

    id: str
    path: str
    include: list[str]
    exclude: list[str]
    files: int | None
    other_filesystems: str
    bytes_per_second: int | None
    created_at: str
    expires_at: str
    state: str
    connections: int
    sent_bytes: int
    manifest: str | None
    manifest_digest: str | None


class TransferPass(TypedDict):
    """What one pass did."""

    files: int
    bytes: int
    fetched_files: int
    sent_bytes: int
    unchanged_files: int
    removed: int
    seconds: float
    limited_by: str | None
    limited_seconds: dict[str, float]
    connections: int
    reconnects: int
    differed_on_media: int
    damaged_blocks: int
    unfinished_files: int
    unfinished: list[Unfinished]
    specials: dict[str, int]
    special_names: list[Located]
    left_out: dict[str, int]
    unset: dict[str, int]
    unmapped_owners: UnmappedOwners


class TransferTicket(TypedDict):
    """What one destination needs to fetch an offer; its bearer can fetch it, once."""

    version: int
    offer: str
    addresses: list[str]
    port: int
    fingerprint: str
    key: str
    path: str
    expires_at: int


class Transition(TypedDict):
    """A change of state."""

    at: str
    previous: str
    state: str
    why: str


class TrialRow(TypedDict):
    """One thing that was tried of the new root, before anything is written."""

    check: str
    outcome: str
    detail: str
    advice: str | None


class TuningState(TypedDict):
    """The settings in force and whether they still are as applied."""

    profile: str | None
    policy: str | None
    applied_at: str | None
    persist: bool
    profile_changed: bool
    settings: dict[str, int]
    drifted: list[DriftedSetting]
    checked_at: str | None
    history: list[AppliedEntry]
    events: list[Event]
    left: list[LeftSetting]
    problem: str | None


class UnavailableRoot(TypedDict):
    """A root that could not be inspected, and why."""

    root: str
    detail: str


class Unfinished(TypedDict):
    """A file that could not be fetched whole."""

    path: str
    path_b64: str | None
    reason: str


class Unmapped(TypedDict):
    """Owners whose names nobody has here; they keep their numbers."""

    count: int
    names: list[str]


class UnmappedOwners(TypedDict):
    """Owners without a name here; their files keep the number."""

    count: int
    names: list[str]


class UnusedDump(TypedDict):
    """An earlier dump that could not help to decide, and why."""

    dump: str
    detail: str


class VerifyParams(TypedDict):
    """What a verification was asked for."""

    bytes_per_second: int | None
    pressure: PressureLimit | None
    path: str | None
    sample_percent: float | None
    seed: int | None
    manifest: str


class VerifyResult(TypedDict):
    """The result of a verification."""

    read_bytes: int
    hole_bytes: int
    reader: str
    reader_bytes: dict[str, int]
    reader_note: str | None
    queue_depth: int
    devices: list[Device]
    rate_wait_seconds: float
    pressure_wait_seconds: float
    ok: bool
    why: str | None
    manifest: str
    path: str
    algorithm: str
    checked_files: int
    matching: int
    mismatched: int
    missing: int
    extra: int
    changed: int
    unreadable: int
    unproven: int
    mismatched_bytes: int
    findings: list[Finding]
    findings_all: bool
    bytes: int
    chunks_checked: int
    chunks_total: int
    sample_percent: float | None
    seed: int | None
    left_out: dict[str, LeftOut]


class Version(TypedDict):
    """What this holdfast can do."""

    version: str
    api_level: int
    features: list[str]

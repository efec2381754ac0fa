"""After a boot: the old system, the new one, or neither, by real files of real armings."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import Progress
from holdfast.operations.kinds import Context
from holdfast.operations.model import Operation, State, now
from holdfast.operations.store import Store
from holdfast.privileged.boot.models import OUTCOME_BYTES, OutcomeReport
from holdfast.privileged.executor import LocalExecutor
from holdfast.reimage.after_boot import boot_outcome
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.after_boot.marker import read_marker
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.kinds import describe
from holdfast.reimage.images.models import DescribeParams
from holdfast.reimage.models import StageRequest
from holdfast.reimage.service import Reimage
from holdfast.reimage.store import Job, JobStore
from tests.support.capabilities.reimage import BODY, UNCONFIRMED, Unproven, keep
from tests.support.daemon.harness import Daemon
from tests.support.disks.bootdisk import NONCE, BootDisk, boot_disk
from tests.support.disks.images import FileSystem, make_disk
from tests.support.waiting import until

SECRET = "5e" * 32
_OLDER = (
    *("version", "operation", "nonce", "request", "state", "reason", "image", "content_url"),
    *("armed", "boot_id", "rebooted_at", "booted_at", "confirmed_at", "checks", "imager"),
    "identity_problems",
)
"""What the first version remembered of an attempt."""
_MARKER = {
    "format": "holdfast-reimaged",
    "version": 1,
    "nonce": NONCE,
    "secret": SECRET,
    "operation": "01K0",
    "image": {"name": "abc", "image_version": "2", "descriptor_sha256": "00" * 32},
    "finished": "2026-01-01T00:00:00Z",
    "identity": {"carried": [], "problems": []},
}


def _rebooted(daemon: Daemon, **more: Any) -> Path:
    """Have the daemon find an attempt of before a boot that kept the old system; return that."""
    assert daemon.stop() == 0
    place = keep(daemon.state_dir)
    params = BODY | {"save_previous": True, "identity": []}
    operation = Operation(
        id="01K00000000000000000000000",
        kind="reimage",
        state=State.QUEUED,
        actor="test",
        created_at=now(),
        params=StageRequest.model_validate(params).model_dump(mode="json"),
    )
    store = Store(daemon.state_dir)
    store.insert(operation, None, None)
    assert store.begin(operation.id, now())
    store.close()
    job = UNCONFIRMED | {
        "operation": operation.id,
        "nonce": place.name,
        "secret": SECRET,
        "request": params,
        "state": "rebooting",
        "reason": None,
        "boot_id": "another-boot",
        "booted_at": None,
        "checks": [],
    }
    image = daemon.state_dir / "images" / ("00" * 32) / "image"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"staged")
    file = daemon.state_dir / "reimage" / "job.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(json.dumps(job | more))
    daemon.restart()
    return place


def _settled(daemon: Daemon) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = daemon.http.get("/v1/reimage").json()
        return found if found["state"] != "rebooting" else None

    return until(ended, seconds=30, what="the end of looking after the boot")


@pytest.mark.parametrize(
    "signs",
    [
        {},
        {"old_system": {"root_uuid": "another", "machine_id": "another", "boot_id": "b"}},
    ],
    ids=["no signs were noted", "another system"],
)
def test_what_has_the_signs_of_neither_is_unknown_and_nothing_is_deleted(
    daemon: Daemon, signs: dict[str, Any]
) -> None:
    place = _rebooted(daemon, **signs)
    staged = daemon.state_dir / "images" / ("00" * 32) / "image"
    before = (place / "descriptor.json").read_bytes()

    def nothing_is_deleted() -> None:
        assert (place / "descriptor.json").read_bytes() == before
        assert (place / "image").stat().st_size == 1 << 20
        assert staged.read_bytes() == b"staged"

    found = _settled(daemon)
    assert found["state"] == "unknown", found["reason"]
    assert found["previous"]["path"] == str(place)
    assert SECRET not in json.dumps(found)
    nothing_is_deleted()
    assert 'holdfast_reimage_state{state="unknown"} 1' in daemon.http.get("/metrics").text
    shown = daemon.cli("reimage", "show")
    assert (shown.returncode, "unknown" in shown.stdout) == (3, True), shown.stdout
    operation = daemon.http.get(f"/v1/operations/{found['operation']}").json()
    assert operation["state"] == "failed"
    assert "cannot be determined which system runs" in operation["error"]["detail"]

    # It is inspected again on request, and stays what it is.
    again = daemon.http.post("/v1/reimage/confirm")
    assert again.status_code == 202, again.text
    ended = daemon.finish(again.json())
    assert ended["state"] == "failed"
    assert _settled(daemon)["state"] == "unknown"
    # It can be rolled back, as far as this machine can be re-imaged at all.
    plan = daemon.http.post("/v1/reimage/rollback/plan")
    assert plan.status_code == 200, plan.text
    assert plan.json()["image"]["name"] == "previous-node-7"
    assert daemon.http.post("/v1/reimage/arm").status_code == 409
    nothing_is_deleted()
    # An admin's word.
    done = daemon.cli("reimage", "confirm", "--override")
    assert done.returncode == 0, done.stderr
    confirmed = daemon.http.get("/v1/reimage").json()
    assert confirmed["state"] == "confirmed"
    assert "nothing proved" in confirmed["history"][-1]["why"]
    assert place.exists()


def test_cancelled_after_a_boot_nothing_is_deleted(daemon: Daemon) -> None:
    """What waits for a helper that does not answer may be cancelled meanwhile."""
    assert daemon.stop() == 0
    # In front of the tables.
    settings = daemon.config.read_text()
    daemon.config.write_text(f'helper = "{daemon.state_dir}/no-helper"\n{settings}')
    daemon.restart()
    place = _rebooted(daemon)
    found = daemon.http.get("/v1/reimage").json()
    assert found["state"] == "rebooting"
    cancelled = daemon.http.post(f"/v1/operations/{found['operation']}/cancel")
    assert cancelled.status_code in (200, 202), cancelled.text
    found = _settled(daemon)
    assert (found["state"], place.exists()) == ("unknown", True)


@dataclass
class Armed:
    """A machine on a disk of its own that was armed, and then booted into something."""

    disk: BootDisk
    job: Job
    marker: Path

    def look(self) -> boot_outcome.Found:
        executor = LocalExecutor(lambda: self.disk.arming)
        return boot_outcome.detect(self.job, "another-boot", executor, lambda _: None)

    def leave_marker(self, **changes: Any) -> None:
        self.marker.write_text(json.dumps(_MARKER | changes))


@pytest.fixture
def armed(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Armed]:
    marker = disk_dir / "reimaged.json"
    monkeypatch.setattr(boot_outcome, "read_marker", lambda: read_marker(marker))
    with boot_disk(disk_dir) as disk:
        signs = disk.arming.outcome().system
        assert signs is not None
        assert signs.root_uuid, "the root's file system has a UUID"
        disk.arming.arm(disk.request(secret=SECRET))
        job = Job.model_validate(
            UNCONFIRMED
            | {"nonce": NONCE, "secret": SECRET, "state": "rebooting", "boot_id": signs.boot_id}
            | {"old_system": signs}
        )
        yield Armed(disk, job, marker)


def test_the_old_system_is_known_by_all_its_signs_and_disarmed(armed: Armed) -> None:
    assert armed.disk.arming.outcome().armed
    found = armed.look()
    assert isinstance(found, boot_outcome.Returned), found
    assert "left no word" in found.why
    assert not armed.disk.arming.outcome().entry
    assert not (armed.disk.boot / "holdfast").exists()


def test_the_new_system_is_known_by_the_secret_in_its_marker(armed: Armed) -> None:
    armed.leave_marker()
    assert isinstance(armed.look(), boot_outcome.Arrived)


def _another_root(armed: Armed) -> None:
    assert armed.job.old_system is not None
    signs = armed.job.old_system.model_copy(update={"root_uuid": "another"})
    armed.job = armed.job.model_copy(update={"old_system": signs})


def _another_machine_id(armed: Armed) -> None:
    (armed.disk.root / "etc/machine-id").chmod(0o644)
    (armed.disk.root / "etc/machine-id").write_text(secrets.token_hex(16))


def _nothing_in_boot(armed: Armed) -> None:
    """As in an image with the old root's UUID, into which the machine-id was carried over."""
    armed.disk.arming.disarm()


def _armed_by_another(armed: Armed) -> None:
    armed.disk.arming.disarm()
    armed.disk.arming.arm(armed.disk.request(nonce="77" * 16))


def _marker_without_proof(armed: Armed) -> None:
    armed.leave_marker(secret="00" * 32)


def _marker_of_old(armed: Armed) -> None:
    """As the imager of an earlier version leaves it, or a caller who read the number in the API."""
    armed.leave_marker(secret=None)


def _damaged_marker(armed: Armed) -> None:
    armed.marker.write_text("{")


def _no_signs(armed: Armed) -> None:
    armed.job = armed.job.model_copy(update={"old_system": None})


@pytest.mark.parametrize(
    "change",
    [
        _another_root,
        _another_machine_id,
        _nothing_in_boot,
        _armed_by_another,
        _marker_without_proof,
        _marker_of_old,
        _damaged_marker,
        _no_signs,
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_neither_is_left_alone(armed: Armed, change: Callable[[Armed], None]) -> None:
    change(armed)
    before = (armed.disk.state(), armed.disk.arming.outcome())
    found = armed.look()
    assert isinstance(found, boot_outcome.Unknown), found
    assert (armed.disk.state(), armed.disk.arming.outcome()) == before


def _of_the_image(armed: Armed) -> None:
    """The root's UUID is the image's, and the old system had another one."""
    assert armed.job.old_system is not None
    system = armed.disk.arming.outcome().system
    assert system is not None
    assert system.root_uuid is not None
    signs = armed.job.old_system.model_copy(update={"root_uuid": "another"})
    update = {"old_system": signs, "image_file_systems": [system.root_uuid]}
    armed.job = armed.job.model_copy(update=update)


@pytest.mark.parametrize("marker", [None, "77" * 16], ids=["no marker", "one of an earlier time"])
def test_without_its_marker_the_new_system_is_known_by_the_images_root(
    armed: Armed, marker: str | None
) -> None:
    _of_the_image(armed)
    armed.disk.arming.disarm()
    if marker is not None:
        armed.leave_marker(nonce=marker)
    found = armed.look()
    assert isinstance(found, boot_outcome.Recognised), found
    assert "instead of the old system's another" in found.why


def test_without_its_marker_the_new_system_is_known_by_the_partition_of_the_images_root(
    armed: Armed,
) -> None:
    """As where the image's file systems have the UUIDs of those of the old system."""
    armed.disk.arming.disarm()
    system = armed.disk.arming.outcome().system
    assert system is not None
    assert armed.job.old_system is not None
    assert system.partition_uuid is not None
    signs = armed.job.old_system.model_copy(update={"partition_uuid": "another"})
    update = {"old_system": signs, "image_root_partition": system.partition_uuid}
    armed.job = armed.job.model_copy(update=update)
    found = armed.look()
    assert isinstance(found, boot_outcome.Recognised), found
    assert f"is on the partition {system.partition_uuid} of the image" in found.why
    # Neither the image's nor the old system's.
    armed.job = armed.job.model_copy(update={"image_root_partition": "a third"})
    unknown = armed.look()
    assert isinstance(unknown, boot_outcome.Unknown), unknown
    assert f"on the partition {system.partition_uuid}, not another" in unknown.why


def test_an_attempt_of_an_older_version_ends_in_a_clear_state(armed: Armed) -> None:
    """Its record has no signs, and its marker no proof and no digests."""
    older = {name: armed.job.model_dump(mode="json")[name] for name in _OLDER}
    armed.job = Job.model_validate_json(json.dumps(older | {"layout": [], "history": []}))
    found = armed.look()
    assert isinstance(found, boot_outcome.Unknown), found
    assert "no signs were noted" in found.why
    assert armed.disk.arming.outcome().armed, "nothing was changed"
    armed.leave_marker(secret=None)
    arrived = armed.look()
    assert isinstance(arrived, boot_outcome.Arrived), arrived
    # Signs that were noted before there were those of the partition.
    system = armed.disk.arming.outcome().system
    assert system is not None
    noted = system.model_dump()
    del noted["partition_uuid"]
    armed.marker.unlink()
    armed.job = Job.model_validate_json(json.dumps(older | {"old_system": noted}))
    returned = armed.look()
    assert isinstance(returned, boot_outcome.Returned), returned


def test_a_record_of_an_older_imager_is_read(armed: Armed) -> None:
    outcome = armed.disk.boot / "holdfast/outcome"
    record = {
        "format": "holdfast-outcome",
        "version": 1,
        "nonce": NONCE,
        "started": 1,
        "state": "refused",
        "phase": "verifying",
        "reason": "The image is damaged.",
    }
    outcome.write_bytes(json.dumps(record).encode().ljust(OUTCOME_BYTES - 1) + b"\n")
    found = armed.look()
    assert isinstance(found, boot_outcome.Returned), found
    assert found.why == "The imager changed nothing while verifying: The image is damaged."


def _also_the_old_systems(armed: Armed) -> None:
    """As where the image was built from the same one: the UUID proves nothing."""
    armed.disk.arming.disarm()
    _of_the_image(armed)
    assert armed.job.old_system is not None
    root = armed.job.image_file_systems[0]
    signs = armed.job.old_system.model_copy(update={"root_uuid": root})
    armed.job = armed.job.model_copy(update={"old_system": signs})


@pytest.mark.parametrize("change", [_of_the_image, _also_the_old_systems])
def test_the_images_root_with_a_sign_of_the_old_system_is_unknown(
    armed: Armed, change: Callable[[Armed], None]
) -> None:
    change(armed)
    found = armed.look()
    assert isinstance(found, boot_outcome.Unknown), found


def test_a_system_without_a_marker_is_confirmed_by_the_root_of_its_descriptor(
    armed: Armed, tmp_path: Path
) -> None:
    """Nothing was to be carried over; the descriptor that was staged has the root's UUID."""
    armed.disk.arming.disarm()
    _of_the_image(armed)
    [root] = armed.job.image_file_systems
    made = ("mkfs.ext4", "-q", "-F", "-U", root)
    disk = make_disk(tmp_path / "disk", 12, "label: gpt\nstart=1MiB\n", [FileSystem(1, 10, made)])
    state = tmp_path / "state"
    output = state / "images" / ("00" * 32) / "descriptor.json"
    output.parent.mkdir(parents=True)
    params = DescribeParams(file=disk, output=output, name="abc", image_version="2", created=now())
    describe(params, Progress())
    request = armed.job.request.model_copy(update={"identity": []})
    changes = {"image_file_systems": [], "request": request, "checks": [], "boot_id": "old"}
    JobStore(state).save(armed.job.model_copy(update=changes))
    reimage = Reimage(
        roots=[],
        state_dir=state,
        privileged=LocalExecutor(lambda: armed.disk.arming),
        imager=tmp_path,
        ca_file=None,
        images=ImageLibrary([], state, trusted_keys=tmp_path),
        examiner=PostBootChecks(roots=[], proof=Unproven(), command=(), command_seconds=1),
        status_server=None,
        degraded=tuple,
    )
    reimage.prepare()
    kind = reimage.kinds()[0]

    result = kind.run(Context(armed.job.operation, request, Progress()))

    assert result.ok, result
    found = reimage.status()
    assert (found.state, found.imager) == ("confirmed", None)
    assert "without the marker of the imager" in found.history[-2].why
    assert root in next(check.detail for check in found.checks if check.name == "image")


def test_without_the_helper_it_is_unknown(armed: Armed, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(LocalExecutor):
        def boot_outcome(self) -> OutcomeReport:
            raise OSError(111, "the privileged helper cannot be asked")

    monkeypatch.setattr(boot_outcome, "_HELPER_SECONDS", 0.0)
    executor = Silent(lambda: armed.disk.arming)
    found = boot_outcome.detect(armed.job, "another-boot", executor, lambda _: None)
    assert isinstance(found, boot_outcome.Unknown)
    assert armed.disk.arming.outcome().armed


def test_a_boot_loader_that_cannot_be_put_back_is_told_with_the_old_system(armed: Armed) -> None:
    class Stuck(LocalExecutor):
        def disarm(self) -> Any:
            raise OSError(5, "Input/output error")

    executor = Stuck(lambda: armed.disk.arming)
    found = boot_outcome.detect(armed.job, "another-boot", executor, lambda _: None)
    assert isinstance(found, boot_outcome.Returned)
    assert found.armed_still == "Input/output error."


def test_in_the_same_boot_nothing_is_concluded(armed: Armed) -> None:
    assert armed.job.boot_id is not None
    found = boot_outcome.detect(
        armed.job, armed.job.boot_id, LocalExecutor(lambda: armed.disk.arming), lambda _: None
    )
    assert isinstance(found, boot_outcome.Untouched)
    assert armed.disk.arming.outcome().armed

"""Fetching images from servers that fail, lie and change their minds, and from files in roots."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast._engine import CancelledError, Progress
from holdfast.operations.model import OperationFailed, RequestError, Slug
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.documents import fetch_descriptor
from holdfast.reimage.images.fetch import fetch
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.retries import Patience
from holdfast.reimage.images.sources import Reach
from holdfast.reimage.models import StageRequest
from tests.support.daemon.harness import clean_environment, run_cli
from tests.support.servers.fileserver import Behaviour, serving
from tests.support.waiting import until

MIB = 1 << 20
IMPATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=0.2)
PATIENT = Patience(first_seconds=0.01, most_seconds=0.02, give_up_seconds=60)


@dataclass
class Image:
    """An image that is served, and where it is fetched to."""

    content: bytes
    descriptor: bytes
    server: Behaviour
    url: str
    directory: Path

    @property
    def image_url(self) -> str:
        return f"{self.url}/disk.raw"

    def fetch(
        self, progress: Progress | None = None, patience: Patience = IMPATIENT, url: str = ""
    ) -> Path:
        kept = self.directory / "descriptor.json"
        kept.write_bytes(self.descriptor)
        return fetch(
            url or self.image_url,
            self.directory,
            content=Descriptor.parse(self.descriptor).content,
            descriptor=kept,
            descriptor_sha256=hashlib.sha256(self.descriptor).hexdigest(),
            reach=Reach(),
            progress=progress or Progress(),
            patience=patience,
        )

    def failure(self, **arguments: str) -> OperationFailed:
        with pytest.raises(OperationFailed) as caught:
            self.fetch(**arguments)  # type: ignore[arg-type]
        assert not (self.directory / "image").exists()
        return caught.value

    def ranges(self) -> list[int]:
        """Return where the requests so far began."""
        return [int((request.range or "bytes=0-")[6:-1]) for request in self.server.asked]

    def whole(self, path: Path) -> None:
        assert path == self.directory / "image"
        assert path.read_bytes() == self.content
        names = sorted(path.name for path in self.directory.iterdir())
        assert names == ["descriptor.json", "image"]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Give an image of 3 MiB and its descriptor."""
    file = tmp_path_factory.mktemp("image") / "disk.raw"
    file.write_bytes(random.Random(1).randbytes(2 * MIB) + bytes(MIB))
    assert run_cli("image", "describe", file).returncode == 0
    return file.read_bytes(), Path(f"{file}.json").read_bytes()


@pytest.fixture
def image(described: tuple[bytes, bytes], tmp_path: Path) -> Iterator[Image]:
    content, descriptor = described
    files = {"/disk.raw": content, "/disk.json": descriptor}
    server = Behaviour(files, {"/disk.raw": '"one"'})
    with serving(server) as url:
        yield Image(content, descriptor, server, url, tmp_path)


def test_an_image_arrives_whole_and_progress_tells(image: Image) -> None:
    progress = Progress()
    image.whole(image.fetch(progress))
    assert (progress.phase, progress.bytes_done) == ("verifying", 3 * MIB)
    assert progress.bytes_expected == 3 * MIB
    # What is there already is checked and not fetched again.
    image.whole(image.fetch())
    assert len(image.server.asked) == 1


def test_a_connection_that_is_cut_again_and_again_is_gone_on_with(image: Image) -> None:
    image.server.cut_after = 400_000
    image.whole(image.fetch(patience=PATIENT))
    assert image.ranges() == list(range(0, 3 * MIB, 400_000))
    assert {request.if_range for request in image.server.asked} == {None, '"one"'}


def test_a_server_without_ranges_is_asked_for_all_of_it_until_it_is_in_vain(image: Image) -> None:
    image.server.cut_after = 400_000
    image.server.no_ranges = True
    error = image.failure()
    assert error.problem.type.endswith("unavailable")
    assert f"{image.image_url} cannot be read" in str(error)
    image.server.cut_after = None
    image.whole(image.fetch())


@pytest.mark.parametrize(
    ("status", "slug"),
    [(404, Slug.NOT_FOUND), (403, Slug.NOT_PERMITTED), (401, Slug.NOT_PERMITTED)],
)
def test_a_refusal_ends_it_at_once(image: Image, status: int, slug: Slug) -> None:
    image.server.statuses = [status]
    error = image.failure()
    assert f"{image.image_url} answers {status}" in str(error)
    assert error.problem.type.endswith(slug)
    assert len(image.server.asked) == 1


def test_trouble_passes_and_lasting_trouble_is_told(image: Image) -> None:
    image.server.statuses = [500, 503, 429]
    image.whole(image.fetch(patience=PATIENT))
    (image.directory / "image").unlink()
    image.server.statuses = [500] * 1000
    error = image.failure()
    assert "answers 500" in str(error)
    assert len(image.server.asked) > 4


def test_a_file_that_changes_in_between_is_begun_anew(image: Image) -> None:
    old = random.Random(2).randbytes(3 * MIB)
    image.server.files["/disk.raw"], image.server.etags["/disk.raw"] = old, '"old"'
    image.server.hang_after = MIB
    progress = Progress()
    with in_background(lambda: image.fetch(progress)) as outcome:
        image.server.hanging.wait()
        until(lambda: progress.bytes_done >= MIB, what="the first part")
        progress.cancel()
    assert isinstance(outcome.error, CancelledError)
    assert (image.directory / "image.partial").stat().st_size == MIB
    image.server.hang_after = None
    image.server.files["/disk.raw"], image.server.etags["/disk.raw"] = image.content, '"new"'
    image.whole(image.fetch())
    assert image.ranges() == [0, MIB]
    assert image.server.asked[1].if_range == '"old"'


def test_a_bit_that_flips_on_the_way_is_found_and_fetched_again(image: Image) -> None:
    image.server.flips = [1234]
    image.whole(image.fetch())
    assert image.ranges() == [0, 0]
    (image.directory / "image").unlink()
    image.server.flips = [1234] * 10
    error = image.failure()
    assert "not the image of its descriptor, 3 times" in str(error)
    assert "one chunk differs, at byte 0" in str(error)


def test_pieces_that_do_not_belong_together_are_found_out(image: Image) -> None:
    del image.server.etags["/disk.raw"]
    image.server.files["/disk.raw"] = random.Random(2).randbytes(3 * MIB)
    image.server.cut_after, image.server.no_ranges = MIB, True
    with pytest.raises(OperationFailed):
        image.fetch()
    image.server.files["/disk.raw"] = image.content
    image.server.cut_after, image.server.no_ranges = None, False
    image.whole(image.fetch())
    assert image.ranges()[-2:] == [MIB, 0]


@pytest.mark.parametrize("more", [-512, 512])
def test_a_file_of_another_size_is_not_fetched(image: Image, more: int) -> None:
    image.server.files["/disk.raw"] = bytes(3 * MIB + more)
    error = image.failure()
    assert f"has {3 * MIB + more} bytes, and its descriptor states {3 * MIB}" in str(error)


def test_cancelling_does_not_wait_for_a_silent_server(image: Image) -> None:
    image.server.hang_after = 1000
    progress = Progress()
    with in_background(lambda: image.fetch(progress)) as outcome:
        image.server.hanging.wait()
        progress.cancel()
    # The server still sends nothing.
    assert not image.server.release.is_set()
    assert isinstance(outcome.error, CancelledError)


def test_after_sigkill_it_goes_on_where_it_was(image: Image) -> None:
    image.server.hang_after = 2 * MIB + 777
    descriptor = image.directory.parent / f"{image.directory.name}.json"
    descriptor.write_bytes(image.descriptor)
    command = [sys.executable, "-m", "tests.support.disks.image_driver"]
    arguments = [image.image_url, str(descriptor), str(image.directory)]
    process = subprocess.Popen([*command, *arguments], env=clean_environment())
    partial = image.directory / "image.partial"
    image.server.hanging.wait()
    until(lambda: partial.exists() and partial.stat().st_size == 2 * MIB + 777, what="the bytes")
    process.kill()
    process.wait()
    image.server.hang_after = None
    done = subprocess.run(
        [*command, *arguments], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert image.ranges() == [0, 2 * MIB + 777]
    image.whole(Path(done.stdout.strip()))


def test_after_another_boot_only_flushed_bytes_are_believed(image: Image) -> None:
    image.server.cut_after = 2 * MIB
    image.server.no_ranges = True
    with pytest.raises(OperationFailed):
        image.fetch()
    state = image.directory / "image.partial.json"
    reported = json.loads(state.read_text())
    state.write_text(json.dumps(reported | {"boot_id": "another", "flushed_bytes": MIB}))
    image.server.cut_after, image.server.no_ranges = None, False
    image.server.asked.clear()
    image.whole(image.fetch())
    assert image.ranges() == [MIB]


def test_redirects_are_followed_without_credentials_for_others(image: Image) -> None:
    other = Behaviour({"/moved": image.content})
    with serving(other, "127.0.0.2") as there:
        image.server.redirects = {"/start": "/next", "/next": f"{there}/moved"}
        url = image.url.replace("http://", "http://user:secret@")
        image.whole(image.fetch(url=f"{url}/start"))
    sent = [request.authorization for request in image.server.asked]
    assert sent == ["Basic dXNlcjpzZWNyZXQ="] * 2
    assert [request.authorization for request in other.asked] == [None]


def test_redirects_end_and_lead_only_to_web_servers(image: Image) -> None:
    image.server.redirects = {"/disk.raw": "/disk.raw"}
    assert "redirects more than 5 times" in str(image.failure())
    assert len(image.server.asked) == 6
    image.server.redirects = {"/disk.raw": "file:///etc/shadow"}
    assert "redirects to where images are not fetched from" in str(image.failure())


def test_what_is_secret_in_a_url_is_not_told(image: Image) -> None:
    url = image.url.replace("http://", "http://user:secret@")
    error = image.failure(url=f"{url}/missing?signature=hidden")
    assert "/missing?… answers 404" in str(error)
    assert "secret" not in str(error)
    assert "hidden" not in str(error)


def test_a_descriptor_is_taken_only_with_its_digest(image: Image) -> None:
    url, right = f"{image.url}/disk.json", hashlib.sha256(image.descriptor).hexdigest()
    image.server.statuses = [500]
    found = fetch_descriptor(url, right, reach=Reach(), progress=Progress(), patience=PATIENT)
    assert found == image.descriptor
    with pytest.raises(OperationFailed, match=f"is {right} and not"):
        fetch_descriptor(url, "0" * 64, reach=Reach(), progress=Progress())


def test_an_image_in_a_root_and_none_elsewhere(
    described: tuple[bytes, bytes], tmp_path: Path
) -> None:
    root, state = tmp_path / "root", tmp_path / "root/.holdfast"
    (root / "images").mkdir(parents=True)
    content, descriptor = described
    (root / "images/disk.raw").write_bytes(content)
    (root / "images/disk.json").write_bytes(descriptor)
    (root / "images/link.raw").symlink_to("disk.raw")
    (tmp_path / "outside.raw").write_bytes(content)
    library = ImageLibrary([root], state, trusted_keys=tmp_path / "keys")
    sha256 = hashlib.sha256(descriptor).hexdigest()
    url = f"file://{root}/images/disk.json"
    request = StageRequest(descriptor=url, descriptor_sha256=sha256)
    library.check(request)
    found = library.obtain(request)
    assert library.summary(found).size_bytes == 3 * MIB
    where = library.content_url(request, found)
    assert where == f"file://{root}/images/disk.raw"
    target = state / "images" / sha256
    assert library.fetch(where, found, target, Progress()).read_bytes() == content
    assert library.present_bytes(target) == 3 * MIB
    assert target.stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "outside.raw", root / "images/link.raw", root / "missing", root):
        (target / "image").unlink(missing_ok=True)
        with pytest.raises(OperationFailed):
            library.fetch(f"file://{path}", found, target, Progress())
    for bad in ("ftp://host/disk.json", "data:disk.json", "file://host/disk.json", "http:///x"):
        with pytest.raises(RequestError):
            library.check(StageRequest(descriptor=bad, descriptor_sha256=sha256))


@dataclass
class Outcome:
    error: BaseException | None = None


class in_background:  # noqa: N801 - used like a function
    """Runs something in a thread; leaving waits for its end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._outcome = Outcome()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._outcome.error = error

    def __enter__(self) -> Outcome:
        self._thread.start()
        return self._outcome

    def __exit__(self, *_: object) -> None:
        self._thread.join()

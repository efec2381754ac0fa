"""Which descriptors a node takes: through the daemon, with keys that come and go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.operations.model import now
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.models import StageRequest
from holdfast.reimage.states import ReimageState
from holdfast.reimage.store import Job, JobStore
from tests.support.daemon.harness import Daemon, Tokens, run_cli, start_daemon
from tests.support.disks.images import make_disk
from tests.support.servers.fileserver import Behaviour, serving


@dataclass
class Fleet:
    """A server with a signed image, and a node that may trust it."""

    daemon: Daemon
    server: Behaviour
    url: str
    trusted: Path
    keys: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.server.files["/disk.json"]).hexdigest()

    def trust(self, name: str) -> None:
        self.trusted.mkdir(exist_ok=True)
        target = self.trusted / f"{name}.pem"
        target.write_bytes((self.keys / f"{name}.pem").read_bytes())
        target.chmod(0o644)

    def plan(self, status: int = 200, /, **body: str) -> Any:
        response = self.daemon.http.post(
            "/v1/reimage/plan", json={"descriptor": f"{self.url}/disk.json", **body}
        )
        assert response.status_code == status, response.text
        return response.json()

    def signed_by(self, **body: str) -> str | None:
        name: str | None = self.plan(200, **body)["image"]["signed_by"]
        return name

    def refused(self, why: str, **body: str) -> None:
        """The plan has no image, and reports why."""
        found = self.plan(200, **body)
        assert found["image"] is None
        assert not found["ok"]
        assert any(why in reason for reason in found["blocked"]), found["blocked"]

    def sign(self, name: str) -> None:
        self.server.files["/disk.json.sig"] = signature(self.keys, name)


def signature(keys: Path, name: str) -> bytes:
    done = run_cli("image", "sign", keys / "disk.json", "--key", keys / f"{name}.key")
    assert done.returncode == 0, done.stderr
    return (keys / "disk.json.sig").read_bytes()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with a descriptor, and the keys `old` and `new`."""
    directory = tmp_path_factory.mktemp("keys")
    disk = make_disk(directory / "disk.raw", 8, "label: gpt\nstart=1MiB, size=4MiB, type=linux", [])
    done = run_cli("image", "describe", disk, "--output", directory / "disk.json")
    assert done.returncode == 0, done.stderr
    for name in ("old", "new"):
        assert run_cli("image", "keygen", directory / name).returncode == 0
    return directory


def started(
    keys: Path, tokens: Tokens, disk_dir: Path, trusted: Path, **settings: Any
) -> Iterator[Fleet]:
    files = {name: (keys / name[1:]).read_bytes() for name in ("/disk.json", "/disk.raw")}
    server = Behaviour(files)
    reimage: dict[str, Any] = {
        "trusted_keys_dir": str(trusted),
        "imager": "/nonexistent/imager",  # so that nothing here can arm the machine of the tests
        **settings,
    }
    with serving(server) as url:
        # A plan is made from this machine only if it is listed.
        reimage["sources"] = [f"{url}/"]
        daemon = start_daemon(disk_dir, tokens, reimage=reimage)
        try:
            yield Fleet(daemon, server, url, trusted, keys)
        finally:
            daemon.close()


@pytest.fixture
def fleet(keys: Path, tokens: Tokens, disk_dir: Path, tmp_path: Path) -> Iterator[Fleet]:
    yield from started(keys, tokens, disk_dir, tmp_path / "trusted")


@pytest.fixture
def strict(keys: Path, tokens: Tokens, disk_dir: Path, tmp_path: Path) -> Iterator[Fleet]:
    yield from started(keys, tokens, disk_dir, tmp_path / "trusted", require_signature=True)


def test_without_a_digest_and_without_keys_it_is_refused(fleet: Fleet) -> None:
    for path in ("plan", "stage"):
        response = fleet.daemon.http.post(
            f"/v1/reimage/{path}", json={"descriptor": f"{fleet.url}/disk.json"}
        )
        assert response.status_code == 422, response.text
        problem = response.json()
        assert (
            "Nothing determines which descriptor to trust: set `descriptor_sha256`."
            in problem["detail"]
        )
    assert not fleet.server.asked
    assert fleet.signed_by(descriptor_sha256=fleet.sha256) is None
    found = fleet.plan(422, descriptor_sha256=fleet.sha256, signature=f"{fleet.url}/disk.json.sig")
    assert "There is no trusted key in" in found["detail"]


def test_a_signature_does_instead_of_a_digest_and_its_key_is_named(fleet: Fleet) -> None:
    fleet.trust("old")
    fleet.refused("/disk.json.sig answers 404")
    fleet.sign("new")
    fleet.refused("It is signed by none of the trusted keys (old).")
    fleet.sign("old")
    assert fleet.signed_by() == "old"
    assert "is signed by the key old" in fleet.daemon.log
    done = fleet.daemon.cli("reimage", "plan", f"{fleet.url}/disk.json")
    assert "signed by  old" in done.stdout, done.stdout + done.stderr
    # A query is that of the descriptor, and not of the signature.
    fleet.server.files["/disk.json?v=1"] = fleet.server.files["/disk.json"]
    assert fleet.plan(descriptor=f"{fleet.url}/disk.json?v=1")["image"]["signed_by"] == "old"
    # Elsewhere, if the request names it.
    fleet.server.files["/elsewhere"] = fleet.server.files.pop("/disk.json.sig")
    assert fleet.signed_by(signature=f"{fleet.url}/elsewhere") == "old"
    # With a digest nobody asked for a signature.
    assert fleet.signed_by(descriptor_sha256=fleet.sha256) is None


def test_if_both_are_given_both_have_to_hold(fleet: Fleet) -> None:
    fleet.trust("old")
    fleet.sign("new")
    url = f"{fleet.url}/disk.json.sig"
    fleet.refused("signed by none", descriptor_sha256=fleet.sha256, signature=url)
    fleet.sign("old")
    assert fleet.signed_by(descriptor_sha256=fleet.sha256, signature=url) == "old"
    fleet.refused(f"is {fleet.sha256} and not", descriptor_sha256="0" * 64, signature=url)
    fleet.server.files["/disk.json.sig"] += b"\n"
    fleet.refused("has 64 bytes, and this has 65", signature=url)


def test_keys_come_and_go_without_a_restart(fleet: Fleet) -> None:
    fleet.trust("old")
    fleet.sign("new")
    fleet.refused("trusted keys (old)")
    fleet.trust("new")
    assert fleet.signed_by() == "new"
    (fleet.trusted / "old.pem").unlink()
    fleet.sign("old")
    fleet.refused("trusted keys (new)")
    # Signed by both, in any order.
    fleet.server.files["/disk.json.sig"] += signature(fleet.keys, "new")
    assert fleet.signed_by() == "new"
    # A file that is no key does not count, and is reported.
    (fleet.trusted / "new.pem").write_text("rubbish")
    found = fleet.plan(422)
    assert "Nothing determines which descriptor to trust" in found["detail"]
    assert "new.pem is no PEM file" in found["detail"]
    fleet.trust("old")
    assert fleet.signed_by() == "old"
    assert "a key is not trusted:" in fleet.daemon.log


def test_a_signature_can_be_demanded(strict: Fleet) -> None:
    found = strict.plan(422, descriptor_sha256=strict.sha256)
    assert "There is no trusted key in" in found["detail"]
    strict.trust("old")
    strict.refused("/disk.json.sig answers 404", descriptor_sha256=strict.sha256)
    strict.sign("old")
    assert strict.signed_by(descriptor_sha256=strict.sha256) == "old"


def test_arming_checks_the_signature_again(fleet: Fleet) -> None:
    fleet.trust("old")
    fleet.sign("old")
    store = JobStore(fleet.daemon.state_dir)
    library = ImageLibrary([fleet.daemon.root], fleet.daemon.state_dir, trusted_keys=fleet.trusted)
    request = StageRequest(descriptor=f"{fleet.url}/disk.json")
    found = library.obtain(request)
    library.keep_descriptor(found, store.image_directory(found.sha256))
    fleet.daemon.stop()
    store.save(
        Job(
            operation="01JD0000000000000000000000",
            nonce="0" * 32,
            request=request,
            state=ReimageState.STAGED,
            image=library.summary(found),
            booted_at=now(),
        )
    )
    (fleet.trusted / "old.pem").unlink()
    fleet.trust("new")
    fleet.daemon.restart()
    response = fleet.daemon.http.post("/v1/reimage/arm", json={})
    assert response.status_code == 409, response.text
    reported = (
        "The descriptor is not trusted any more: It is signed by none of the trusted keys (new)."
    )
    assert response.json()["detail"] == reported
    fleet.trust("old")
    response = fleet.daemon.http.post("/v1/reimage/arm", json={})
    assert response.status_code == 409, response.text
    # Now it is the image that is missing.
    assert "stage the image again" in response.json()["detail"]
    status = json.loads(fleet.daemon.http.get("/v1/reimage").text)
    assert (status["state"], status["image"]["signed_by"]) == ("staged", "old")

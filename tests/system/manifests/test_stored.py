"""Stored manifests and reports: how they are downloaded and uploaded, kept, removed and audited."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from holdfast.operations.ids import new_id
from tests.support.capabilities.building import BUILDS, MIB, build, reached, verify
from tests.support.daemon.contract import NOTHING, check_problem
from tests.support.daemon.harness import Daemon
from tests.support.machine.disk import write_file
from tests.support.waiting import until

COMPARISONS = f"{BUILDS}/comparisons"
FORMS = {
    "native": "application/zstd",
    "jsonl": "application/jsonl",
    "xxhsum": "text/plain; charset=utf-8",
    "xxhsum_escaped": "text/plain; charset=utf-8",
}
Starter = Callable[..., Daemon]


@pytest.fixture
def manifest(daemon: Daemon) -> str:
    """Build a manifest of a small tree, and give its id."""
    for number in range(3):
        write_file(daemon.root / "db" / f"f{number}", 1000 + number, seed=number)
    return build(daemon).id


def put(daemon: Daemon, content: bytes, **headers: str) -> httpx.Response:
    return daemon.http.put(f"{BUILDS}/{new_id()}/content", content=content, headers=headers)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


class TestContent:
    @pytest.mark.parametrize("form", FORMS)
    def test_each_form(self, daemon: Daemon, manifest: str, form: str) -> None:
        url = f"{BUILDS}/{manifest}/content"
        answer = daemon.http.get(url, params={"format": form})
        assert answer.headers["content-type"] == FORMS[form]
        assert answer.headers["vary"] == "Accept"
        # What is converted is streamed: its length is not known before.
        stored = form == "native"
        assert ("content-length" in answer.headers) == stored
        assert answer.headers.get("content-length", str(len(answer.content))) == str(
            len(answer.content)
        )
        assert answer.headers["content-disposition"].startswith(f'attachment; filename="{manifest}')
        head = daemon.http.head(url, params={"format": form})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == answer.headers["etag"]
        assert head.headers.get("content-length") == answer.headers.get("content-length")
        for condition in (answer.headers["etag"], "*"):
            again = daemon.http.get(
                url, params={"format": form}, headers={"If-None-Match": condition}
            )
            assert (again.status_code, again.content) == (304, b"")
        other = daemon.http.get(url, params={"format": form}, headers={"If-None-Match": '"x"'})
        assert other.content == answer.content

    def test_each_form_has_a_tag_of_its_own(self, daemon: Daemon, manifest: str) -> None:
        url = f"{BUILDS}/{manifest}/content"
        tags = {daemon.http.get(url, params={"format": form}).headers["etag"] for form in FORMS}
        assert len(tags) == len(FORMS)

    def test_what_contradicts_itself_or_is_not_known(self, daemon: Daemon, manifest: str) -> None:
        url = f"{BUILDS}/{manifest}/content"
        problem = check_problem(
            daemon.http.get(url, params={"format": "xxhsum"}, headers={"Accept": FORMS["native"]}),
            406,
            "not-acceptable",
        )
        assert "`format=xxhsum`" in problem["detail"]
        problem = check_problem(
            daemon.http.get(url, params={"format": "tar"}), 422, "invalid-request"
        )
        assert "xxhsum_escaped" in problem["detail"]

    def test_an_upload_of_another_media_type(self, daemon: Daemon, manifest: str) -> None:
        record = daemon.http.get(f"{BUILDS}/{manifest}/content").content
        response = put(daemon, record, **{"Content-Type": "text/plain"})
        check_problem(response, 415, "unsupported-media-type")

    @pytest.mark.parametrize("announced", [True, False])
    def test_an_upload_that_is_too_large(self, start_daemon: Starter, announced: bool) -> None:
        daemon = start_daemon(max_record_bytes=1 << 16)
        pieces = [b"\0" * (1 << 15)] * 4
        body = b"".join(pieces) if announced else iter(pieces)
        response = daemon.http.put(f"{BUILDS}/{new_id()}/content", content=body)
        check_problem(response, 413, "too-large")
        assert names(daemon.state_dir / "manifests") == set()

    @pytest.mark.parametrize("wrong", ["latest", "x", "..", "a%2Fb", "01jdzzzzzzzzzzzzzzzzzzzzzz"])
    def test_an_upload_under_what_is_no_id(self, daemon: Daemon, manifest: str, wrong: str) -> None:
        record = daemon.http.get(f"{BUILDS}/{manifest}/content").content
        response = daemon.http.put(f"{BUILDS}/{wrong}/content", content=record)
        assert response.status_code in (404, 422), response.text
        assert [each["id"] for each in daemon.http.get(BUILDS).json()["manifests"]] == [manifest]

    def test_what_is_brought_says_the_same(self, daemon: Daemon, manifest: str) -> None:
        record = daemon.http.get(f"{BUILDS}/{manifest}/content").content
        uploaded = put(daemon, record)
        assert uploaded.status_code == 201, uploaded.text
        there = daemon.http.get(f"{BUILDS}/{manifest}").json()
        differ = {"id", "latest", "uploaded"}
        reported = uploaded.json()
        assert {key for key, value in there.items() if reported[key] != value} == differ
        copy = daemon.http.get(f"{BUILDS}/{reported['id']}/content")
        assert copy.content == record


class TestKept:
    def test_one_that_is_being_read_is_not_deleted(self, daemon: Daemon) -> None:
        write_file(daemon.root / "f", 8 * MIB)
        manifest = build(daemon).id
        slow = daemon.start(f"{BUILDS}/{manifest}/verifications", {"bytes_per_second": 1 << 16})
        reached(daemon, slow, 0, current="f")
        response = daemon.http.delete(f"{BUILDS}/{manifest}")
        problem = check_problem(response, 409, "conflict")
        assert "is being read" in problem["detail"]
        daemon.http.post(f"/v1/operations/{slow['id']}/cancel")
        assert daemon.finish(slow)["state"] == "cancelled"
        assert daemon.http.delete(f"{BUILDS}/{manifest}").status_code == 204
        check_problem(daemon.http.get(f"{BUILDS}/{manifest}"), 404, "not-found")

    def test_a_damaged_one_is_named_and_can_only_be_deleted(
        self, daemon: Daemon, manifest: str
    ) -> None:
        newer = build(daemon).id
        (record,) = (daemon.state_dir / "manifests").glob(f"{newer}*")
        record.write_bytes(record.read_bytes()[:-20])
        listed = daemon.http.get(BUILDS).json()
        assert [each["id"] for each in listed["manifests"]] == [manifest]
        (damaged,) = listed["damaged"]
        assert damaged["id"] == newer
        assert "torn" in damaged["detail"]
        assert daemon.http.get(f"{BUILDS}/latest").json()["id"] == manifest
        url = f"{BUILDS}/{newer}"
        for response in (
            daemon.http.get(url),
            daemon.http.get(f"{url}/content"),
            daemon.http.post(f"{url}/verifications"),
            daemon.http.post(COMPARISONS, json={"left": newer, "right": manifest}),
        ):
            check_problem(response, 422, "bad-record")
        assert daemon.http.delete(url).status_code == 204
        assert daemon.http.get(BUILDS).json()["damaged"] == []

    def test_the_oldest_reports_make_room(self, daemon: Daemon, manifest: str) -> None:
        reports = daemon.state_dir / "reports"
        body = {"left": manifest, "right": manifest}
        first = daemon.finish(daemon.start(COMPARISONS, body))["id"]
        made = reports / f"{first}.report.zst"
        # Ids are sorted by time: these are older than any that is made now.
        for number in range(120):
            (reports / f"{number:026}.report.zst").write_bytes(made.read_bytes())
        last = daemon.finish(daemon.start(COMPARISONS, body))["id"]
        assert len(names(reports)) == 100
        for kept in (first, last):
            assert daemon.http.get(f"{BUILDS}/reports/{kept}").status_code == 200
        problem = check_problem(daemon.http.get(f"{BUILDS}/reports/{0:026}"), 404, "not-found")
        assert "older than the last 100" in problem["detail"]

    def test_nothing_is_left_of_a_report_that_was_taken(
        self, daemon: Daemon, manifest: str
    ) -> None:
        operation = daemon.finish(daemon.start(f"{BUILDS}/{manifest}/verifications", {}))
        url = f"{BUILDS}/reports/{operation['id']}"
        for form in ("jsonl", "native"):
            answer = daemon.http.get(url, params={"format": form})
            assert answer.status_code == 200
            assert ("content-length" in answer.headers) == (form == "native")
            assert answer.content
        reports = daemon.state_dir / "reports"
        name = f"{operation['id']}.report.zst"
        until(lambda: names(reports) == {name}, what="the end of the export")

    @pytest.mark.parametrize("directory", ["manifests", "reports"])
    def test_what_a_crash_left_is_cleared_but_not_what_another_writes(
        self, daemon: Daemon, directory: str
    ) -> None:
        daemon.kill()
        place = daemon.state_dir / directory
        endings = ("partial", "export", "upload")
        for ending in endings:
            (place / f".left.{ending}").write_bytes(b"half")
            (place / f".live.{ending}").write_bytes(b"half")
        # A run without a daemon may be at work; the engine locks what it writes, as this does.
        files = [(place / f".live.{ending}").open("rb") for ending in endings]
        try:
            for file in files:
                fcntl.flock(file, fcntl.LOCK_EX)
            daemon.restart()
            assert names(place) == {f".live.{ending}" for ending in endings}
        finally:
            for file in files:
                file.close()
        daemon.kill()
        daemon.restart()
        assert names(place) == set()


def test_what_was_done_is_audited(daemon: Daemon, manifest: str) -> None:
    verified = daemon.finish(
        daemon.start(f"{BUILDS}/{manifest}/verifications", {"sample_percent": 50})
    )
    body = {"left": manifest, "right": "latest"}
    compared = daemon.finish(daemon.start(COMPARISONS, body))
    daemon.http.get(f"{BUILDS}/{manifest}/content")
    record = daemon.http.get(f"{BUILDS}/{manifest}/content").content
    uploaded = put(daemon, record).json()["id"]
    daemon.http.delete(f"{BUILDS}/{uploaded}")
    daemon.http.delete(f"{BUILDS}/{NOTHING}")
    daemon.http.post(BUILDS, json={"path": "/etc"})
    lines = [json.loads(line) for line in (daemon.state_dir / "audit.log").read_text().splitlines()]
    built, *others = (
        (line["route"], line["status"], line.get("operation"), line.get("manifest"))
        for line in lines
    )
    assert built == (BUILDS, 202, manifest, None)
    one = f"{BUILDS}/{{manifest_id}}"
    assert others == [
        (f"{one}/verifications", 202, verified["id"], None),
        (COMPARISONS, 202, compared["id"], None),
        (f"{one}/content", 201, None, uploaded),
        (one, 204, None, uploaded),
        (one, 404, None, NOTHING),
        (BUILDS, 422, None, None),
    ]
    assert lines[1]["params"] == {"manifest": manifest, "sample_percent": 50}
    assert lines[2]["params"] == body
    assert lines[-1]["params"] == {"path": "/etc"}


def test_what_verifications_found_is_counted(daemon: Daemon, manifest: str) -> None:
    def counted(ok: str) -> float:
        name = f'holdfast_manifest_verifications_total{{ok="{ok}",root="{daemon.root}"}} '
        (line,) = (
            line for line in daemon.http.get("/metrics").text.splitlines() if line.startswith(name)
        )
        return float(line.removeprefix(name))

    assert (counted("true"), counted("false")) == (0, 0)
    assert verify(daemon, manifest)["ok"]
    assert (counted("true"), counted("false")) == (1, 0)
    (daemon.root / "db" / "f1").unlink()
    assert not verify(daemon, manifest)["ok"]
    assert (counted("true"), counted("false")) == (1, 1)

"""The state directory made for the daemon's user, or given to them: only on proof, and once."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.namespaces import Namespaces, own_namespaces

OLD, NEW, DATASTORE = 4711, 65534, 12345
NONCE, SECRET = "0123456789abcdef" * 2, "fedcba9876543210" * 4
UDEV = 'ACTION=="add|change", RUN+="/bin/sh -c id"\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def owners(path: Path) -> set[int]:
    """Return all owners of a tree."""
    return {entry.lstat().st_uid for entry in (path, *path.rglob("*"))}


class Node:
    """A node with a data volume, whose /etc is the test's own."""

    def __init__(self, ns: Namespaces, disk_dir: Path) -> None:
        self.ns = ns
        self.root = disk_dir / "data"
        self.root.mkdir()
        self.config = disk_dir / "holdfast.toml"
        self.config.write_text(f'roots = ["{self.root}"]\n')
        self.state = self.root / ".holdfast"
        ns.run("sh", "-c", "rm -rf /etc/holdfast; mkdir -p -m 755 /etc/holdfast")
        ns.run("sh", "-c", "mount -t tmpfs -o mode=755 none /var/lib")

    def fill(self, owner: int) -> Path:
        """Have a state directory as a daemon of this user left it."""
        (self.state / "reimage").mkdir(parents=True)
        (self.state / "reimage/job.json").write_text(json.dumps({"nonce": NONCE, "secret": SECRET}))
        (self.state / "tuning").mkdir()
        (self.state / "tuning/pending.json").write_text(json.dumps({"content": UDEV}))
        (self.state / "link").symlink_to("/etc/hostname")
        for path in (self.state, *self.state.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
        self.state.chmod(0o700)
        return self.state

    def marker(self, mode: int = 0o600, /, **changes: Any) -> None:
        """Leave what the imager leaves of the arming in which this directory was noted."""
        status = self.state.stat()
        noted = {"uid": OLD, "gid": OLD, "dev": status.st_dev, "ino": status.st_ino}
        document = {
            "nonce": NONCE,
            "secret": SECRET,
            "state_dir": noted | {"file_system_uuid": None},
        } | changes
        self.write("/etc/holdfast/reimaged.json", json.dumps(document), mode)

    def write(self, path: str, content: str, mode: int = 0o600) -> None:
        script = 'printf %s "$1" > "$2"; chmod "$3" "$2"'
        self.ns.run("sh", "-c", script, "sh", content, path, f"{mode:o}")

    def prepare(self) -> subprocess.CompletedProcess[str]:
        return run_cli(
            "prepare", "--user", "nobody", "--config", self.config, wrapper=self.ns.wrapper
        )

    def refused(self, why: str) -> None:
        """The directory is not given away: nothing in it changes."""
        before = {path: path.lstat() for path in (self.state, *self.state.rglob("*"))}
        done = self.prepare()
        assert done.returncode == 1, done.stdout
        assert re.search(why, done.stderr), done.stderr
        assert "chown -R 65534: " in done.stderr
        for path, status in before.items():
            found = path.lstat()
            assert (found.st_uid, found.st_ctime_ns) == (status.st_uid, status.st_ctime_ns)


@pytest.fixture
def node(disk_dir: Path) -> Iterator[Node]:
    with own_namespaces(disk_dir / "scratch") as ns:
        yield Node(ns, disk_dir)


def test_it_is_made_for_the_daemons_user(node: Node) -> None:
    assert node.prepare().returncode == 0
    assert (node.state.stat().st_uid, node.state.stat().st_mode & 0o777) == (NEW, 0o700)
    assert [path.name for path in node.root.iterdir()] == [".holdfast"]
    assert "is there" in node.prepare().stdout


def test_a_crash_while_it_was_made_is_got_over(node: Node) -> None:
    (node.root / ".holdfast.partial").mkdir()
    assert node.prepare().returncode == 0
    assert [path.name for path in node.root.iterdir()] == [".holdfast"]


def test_a_system_written_over_the_old_one_takes_its_state_once(node: Node) -> None:
    state = node.fill(OLD)
    node.marker()
    assert "the state of the system before" in node.prepare().stdout
    assert owners(state) == {NEW}
    assert Path("/etc/hostname").stat().st_uid == 0
    assert "is there" in node.prepare().stdout
    # Put back as it was, it is not given away a second time: the proof was used.
    for path in (state, *state.rglob("*")):
        os.chown(path, OLD, OLD, follow_symlinks=False)
    node.refused("handed over once already")


class TestNotProven:
    """What is on a data volume, and what can be known of a marker, proves nothing."""

    def test_roots_own_on_a_volume_from_elsewhere(self, node: Node) -> None:
        node.fill(0)
        node.refused("belongs to user 0 .* not written by holdfast's imager")

    def test_roots_own_beside_a_marker_of_another(self, node: Node) -> None:
        node.fill(0)
        node.marker()
        node.refused("belonged to user 4711")

    def test_an_empty_one_of_roots(self, node: Node) -> None:
        node.state.mkdir(mode=0o700)
        node.refused("belongs to user 0")

    @pytest.mark.parametrize("owner", [OLD, DATASTORE])
    def test_another_directory_put_in_its_place(self, node: Node, owner: int) -> None:
        """The datastore's user owns the root, renames the directory and copies its job."""
        node.fill(OLD)
        node.marker()
        os.chown(node.root, DATASTORE, DATASTORE)
        node.state.rename(node.root / ".old")
        node.fill(owner)
        node.refused("another directory than the one")

    def test_the_same_directory_of_another_owner(self, node: Node) -> None:
        node.fill(DATASTORE)
        node.marker()
        node.refused("belonged to user 4711")

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
    def test_a_marker_that_others_can_read(self, node: Node, mode: int) -> None:
        node.fill(OLD)
        node.marker(mode)
        node.refused("can be read by others than root")

    def test_a_marker_that_is_not_roots(self, node: Node) -> None:
        node.fill(OLD)
        node.marker()
        node.ns.run("chown", str(DATASTORE), "/etc/holdfast/reimaged.json")
        node.refused(f"belongs to user {DATASTORE}")

    @pytest.mark.parametrize(
        "changes",
        [
            {"state_dir": None},
            {"state_dir": {"uid": OLD}},
            {"state_dir": {"uid": str(OLD), "dev": "x", "ino": 1}},
            {"nonce": None},
            {"nonce": "f" * 32},
            {"secret": "f" * 64},
            {"secret": None},
            {"nonce": ["0" * 32]},
        ],
    )
    def test_a_marker_without_what_proves_it(self, node: Node, changes: dict[str, Any]) -> None:
        node.fill(OLD)
        node.marker(0o600, **changes)
        node.refused("does not name the directory|no record of the re-imaging")

    def test_a_directory_without_the_job(self, node: Node) -> None:
        node.fill(OLD)
        node.marker()
        job = node.state / "reimage/job.json"
        job.unlink()
        node.refused("no record of the re-imaging")
        # Nor is a link to one followed, or a pipe waited for.
        job.symlink_to(node.config)
        node.refused("no record of the re-imaging")
        job.unlink()
        os.mkfifo(job)
        node.refused("no record of the re-imaging")


def test_a_link_in_its_place_leads_nowhere(node: Node) -> None:
    os.chown(node.root, DATASTORE, DATASTORE)
    node.state.symlink_to("/etc")
    done = node.prepare()
    assert done.returncode == 1
    assert "is a symbolic link" in done.stderr
    assert node.ns.run("stat", "-c", "%u", "/etc").strip() == "0"


def test_links_on_the_way_to_it_lead_nowhere(node: Node, disk_dir: Path) -> None:
    node.config.write_text(f'roots = ["{node.root}"]\nstate_dir = "{node.root}/a/b"\n')
    (disk_dir / "elsewhere").mkdir()
    os.chown(node.root, DATASTORE, DATASTORE)
    (node.root / "a").symlink_to(disk_dir / "elsewhere")
    assert node.prepare().returncode == 1
    assert list((disk_dir / "elsewhere").iterdir()) == []
    (node.root / "a").unlink()
    assert node.prepare().returncode == 0
    assert (node.root / "a").stat().st_uid == 0
    assert (node.root / "a/b").stat().st_uid == NEW


def test_what_is_of_others_within_it_stays_theirs(node: Node) -> None:
    state = node.fill(OLD)
    foreign = state / "tuning/foreign"
    foreign.write_text("x")
    os.chown(foreign, DATASTORE, DATASTORE)
    roots = node.root / "roots"
    roots.write_text("x")
    os.link(roots, state / "linked")
    node.marker()
    assert node.prepare().returncode == 0
    assert foreign.stat().st_uid == DATASTORE
    assert roots.stat().st_uid == 0
    assert (state / "reimage/job.json").stat().st_uid == NEW


class TestTheDaemon:
    """It starts whatever is there, keeps a minimal state, and reports what to do."""

    def test_a_directory_of_another_user_is_not_believed(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        root = disk_dir / "volume"
        root.mkdir()
        state = root / ".holdfast"
        state.mkdir(mode=0o700)
        (state / "dumps").mkdir()
        os.chown(state, OLD, OLD)
        fallback = disk_dir / "fallback"
        daemon = start_daemon(roots=[root], state_dir=None, fallback_state_dir=str(fallback))
        problem = daemon.http.get("/readyz").json()
        (reason,) = problem["reasons"]
        assert f"{state} belongs to user {OLD}" in reason
        assert f"chown -R 0: {state}" in reason
        assert f"a minimal state is kept in {fallback}" in reason
        assert (fallback / "operations.sqlite3").exists()
        assert [path.name for path in state.iterdir()] == ["dumps"]
        # Once the operator has fixed it, only a restart is missing.
        os.chown(state, 0, 0)
        (reason,) = daemon.http.get("/readyz").json()["reasons"]
        assert "restart holdfast" in reason
        daemon.stop()
        daemon.restart()
        assert daemon.http.get("/readyz").status_code == 200

    def test_who_can_exchange_it_is_named_everywhere(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        root = disk_dir / "volume"
        root.mkdir()
        os.chown(root, DATASTORE, DATASTORE)
        daemon = start_daemon(roots=[root], state_dir=None)
        reported = f"{root}/.holdfast can be moved or replaced by others than root and holdfast"
        assert reported in daemon.log
        ready = daemon.http.get("/readyz")
        assert ready.status_code == 200
        body = {"descriptor": f"file://{root}/x.json", "descriptor_sha256": "0" * 64}
        plan = daemon.http.post("/v1/reimage/plan", json=body)
        for notes in (ready.json()["notes"], plan.json()["notes"]):
            (note,) = notes
            assert reported in note
            assert f"belongs to user {DATASTORE}" in note
            assert "`chown root:root`" in note

    def test_a_directory_that_was_exchanged_is_noticed(
        self, start_daemon: Callable[..., Daemon], disk_dir: Path
    ) -> None:
        daemon = start_daemon()
        kept = daemon.state_dir.with_name("kept")
        assert daemon.http.get("/readyz").status_code == 200
        daemon.state_dir.rename(kept)
        (reason,) = daemon.http.get("/readyz").json()["reasons"]
        assert "cannot be found any more" in reason
        subprocess.run(["cp", "-a", kept, daemon.state_dir], check=True)
        (reason,) = daemon.http.get("/readyz").json()["reasons"]
        assert "is not the directory any more that was there when holdfast started" in reason
        for path in ("/v1/pagecache/dumps", "/v1/manifests"):
            done = daemon.finish(daemon.http.post(path, json={}).json())
            assert done["state"] == "failed", done
            assert "was moved or replaced" in done["error"]["detail"]
        assert list((daemon.state_dir / "dumps").iterdir()) == []
        subprocess.run(["rm", "-r", daemon.state_dir], check=True)
        kept.rename(daemon.state_dir)
        assert daemon.http.get("/readyz").status_code == 200
        assert daemon.http.get("/v1/pagecache/dumps").status_code == 200

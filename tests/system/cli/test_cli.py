"""The command line against a real daemon, in a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.oracles.residency import pinned
from tests.support.command_line.cli import as_json, one_line, running, start_cli
from tests.support.daemon.harness import HOLDFAST, Daemon, clean_environment, run_cli
from tests.support.machine.disk import drop, read_all, write_file
from tests.support.waiting import until

MIB = 1 << 20


@pytest.fixture
def tree(daemon: Daemon) -> Daemon:
    """Give a daemon with three files in memory, one of them in a directory."""
    for name in ("a.db", "b.db", "below/c.db"):
        read_all(write_file(daemon.root / name, 4 * MIB))
    return daemon


def test_dump_evict_load_in_words(tree: Daemon) -> None:
    shown = tree.cli("pagecache", "show")
    assert shown.returncode == 0, shown.stderr
    assert str(tree.root) in shown.stdout
    assert "12.0 MiB of 12.0 MiB in memory, 100 %" in shown.stdout
    assert "below" in shown.stdout

    dumped = tree.cli("pagecache", "dump")
    assert dumped.returncode == 0, dumped.stderr
    assert "dumped 12.0 MiB resident in 3 files" in dumped.stdout

    evicted = tree.cli("pagecache", "evict", tree.root)
    assert evicted.returncode == 0, evicted.stderr
    assert "evicted 12.0 MiB of 12.0 MiB in 3 files" in evicted.stdout
    assert "0 B of 12.0 MiB in memory" in tree.cli("pagecache", "show").stdout

    loaded = tree.cli("pagecache", "load")
    assert loaded.returncode == 0, loaded.stderr
    assert "loaded 12.0 MiB" in loaded.stdout
    assert "100 % of the 12.0 MiB" in loaded.stdout
    assert "3 of 3 files complete" in loaded.stdout


def test_dump_evict_load_in_json(tree: Daemon) -> None:
    before = as_json(tree.cli("pagecache", "show", "--json"))
    assert before["reports"][0]["total"]["resident"] == 12 * MIB
    dump = as_json(tree.cli("pagecache", "dump", "--json"))
    assert dump["state"] == "succeeded"
    assert dump["result"]["bytes"] == 12 * MIB
    evicted = as_json(tree.cli("--json", "pagecache", "evict", tree.root))["result"]
    assert evicted["evicted"] == 12 * MIB
    load = as_json(tree.cli("pagecache", "load", dump["result"]["dump"], "--json"))
    assert load["result"]["loaded"] == 12 * MIB
    assert load["result"]["recall"] == 1.0


def test_show_of_one_file(tree: Daemon) -> None:
    drop(tree.root / "a.db")
    answer = as_json(tree.cli("pagecache", "show", tree.root / "a.db", "--json"))
    assert [report["total"]["resident"] for report in answer["reports"]] == [0]


def test_stored_dumps(tree: Daemon) -> None:
    assert tree.cli("pagecache", "list").stdout == "no dumps yet\n"
    ids = [as_json(tree.cli("pagecache", "dump", "--json"))["result"]["dump"] for _ in range(2)]
    listed = tree.cli("pagecache", "list").stdout
    assert listed.index(ids[1]) < listed.index(ids[0])
    assert "latest" in listed.splitlines()[1]
    assert as_json(tree.cli("pagecache", "delete", ids[0], "--json")) == {"deleted": [ids[0]]}
    dumps = as_json(tree.cli("pagecache", "list", "--json"))["dumps"]
    assert [dump["id"] for dump in dumps] == [ids[1]]
    assert ids[0] in one_line(tree.cli("pagecache", "delete", ids[0]))


@pytest.mark.parametrize("form", ["native", "happycache"])
def test_a_dump_is_carried_to_another_node(
    tree: Daemon, start_daemon: Callable[..., Daemon], tmp_path: Path, form: str
) -> None:
    other = start_daemon()
    for name in ("a.db", "b.db", "below/c.db"):
        drop(write_file(other.root / name, 4 * MIB))
    dumped = tree.cli("pagecache", "dump")
    assert dumped.returncode == 0, dumped.stderr
    file = tmp_path / "dump"
    exported = tree.cli("pagecache", "export", "latest", "--format", form, "--output", file)
    assert exported.returncode == 0, exported.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]

    stored = as_json(other.cli("pagecache", "import", file, "--json"))
    assert stored["uploaded"] is True
    loaded = as_json(other.cli("pagecache", "load", stored["id"], "--into", other.root, "--json"))
    assert loaded["result"]["loaded"] == 12 * MIB


def test_a_dump_goes_through_a_pipe(tree: Daemon) -> None:
    assert tree.cli("pagecache", "dump").returncode == 0
    environment = clean_environment(HOLDFAST_SOCKET=str(tree.socket))
    command = '"$0" -m holdfast pagecache export | "$0" -m holdfast pagecache import - --json'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", HOLDFAST[0]],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == 12 * MIB


def test_a_damaged_dump_is_refused(tree: Daemon, tmp_path: Path) -> None:
    assert tree.cli("pagecache", "dump").returncode == 0
    file = tmp_path / "dump"
    assert tree.cli("pagecache", "export", "-o", file).returncode == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    one_line(tree.cli("pagecache", "import", file))
    assert len(as_json(tree.cli("pagecache", "list", "--json"))["dumps"]) == 1


def test_no_wait_answers_an_id_that_can_be_watched(tree: Daemon) -> None:
    started = tree.cli("pagecache", "dump", "--no-wait")
    assert started.returncode == 0, started.stderr
    (operation,) = started.stdout.split()
    watched = tree.cli("op", "watch", operation)
    assert watched.returncode == 0, watched.stderr
    assert "dumped 12.0 MiB" in watched.stdout

    updates = tree.cli("op", "watch", operation, "--json").stdout.splitlines()
    assert json.loads(updates[-1])["state"] == "succeeded"
    shown = tree.cli("op", "show", operation)
    assert "pagecache.dump" in shown.stdout
    assert "succeeded" in shown.stdout
    assert operation in tree.cli("op", "list", "--kind", "pagecache.dump").stdout
    assert as_json(tree.cli("op", "list", "--state", "failed", "--json"))["operations"] == []
    assert as_json(tree.cli("op", "show", operation, "--json"))["id"] == operation
    # Asking to cancel what has ended is no error, and changes nothing.
    assert as_json(tree.cli("op", "cancel", operation, "--json"))["state"] == "succeeded"


def slow_load(daemon: Daemon) -> None:
    """Prepare a load that takes a minute at 1 MiB/s."""
    with ExitStack() as pins:
        for number in range(16):
            pins.enter_context(pinned(write_file(daemon.root / f"{number}.db", 4 * MIB)))
        assert daemon.cli("pagecache", "dump").returncode == 0
    assert daemon.cli("pagecache", "evict", daemon.root).returncode == 0


def test_progress_is_plain_lines_and_cancel_ends_it(daemon: Daemon) -> None:
    slow_load(daemon)
    with start_cli(daemon, "pagecache", "load", "--rate", "1MiB") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "iB/s" in line)
        assert line.startswith("load: ")
        assert "of 64.0 MiB" in line
        assert "\x1b" not in line
        operation = running(daemon)
        cancelled = daemon.cli("op", "cancel", operation["id"])
        assert cancelled.returncode == 0, cancelled.stderr
        rest = process.stderr.read()
        assert process.wait(10) == 1
    assert "was cancelled" in rest
    assert daemon.http.get(f"/v1/operations/{operation['id']}").json()["state"] == "cancelled"


def test_an_interrupt_in_a_pipe_cancels_what_the_command_started(daemon: Daemon) -> None:
    slow_load(daemon)
    with start_cli(daemon, "pagecache", "load", "--rate", "1MiB", "--json") as process:
        operation = until(lambda: running(daemon), what="a running load")
        assert process.stderr is not None
        process.stderr.readline()  # by then it follows the operation
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    assert process.returncode == 1
    assert f"cancelling operation {operation['id']}" in err
    assert json.loads(out)["state"] == "cancelled"
    assert running(daemon) is None


def test_an_interrupt_only_stops_the_watching(daemon: Daemon) -> None:
    slow_load(daemon)
    started = daemon.cli("pagecache", "load", "--rate", "1MiB", "--no-wait")
    operation = started.stdout.strip()
    with start_cli(daemon, "op", "watch", operation) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=15)
    assert process.returncode == 4
    assert "continues" in err
    assert running(daemon)["id"] == operation
    assert daemon.cli("op", "cancel", operation).returncode == 0


def test_a_restart_of_the_daemon_is_survived(daemon: Daemon) -> None:
    slow_load(daemon)
    with start_cli(daemon, "pagecache", "load", "--rate", "16MiB", "--json") as process:
        until(lambda: running(daemon), what="a running load")
        assert process.stderr is not None
        process.stderr.readline()
        daemon.kill()
        daemon.restart()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["result"]["missing"] == 0


def test_local_work_needs_no_daemon(disk_dir: Path) -> None:
    root, state = disk_dir / "data", disk_dir / "state"
    write_file(root / "a.db", 4 * MIB)
    local = ("--local", "--root", root, "--state-dir", state, "--socket", "/nowhere")
    assert "4.00 MiB of 4.00 MiB in memory" in run_cli("pagecache", "show", *local).stdout
    dump = as_json(run_cli("pagecache", "dump", *local, "--json"))
    assert dump["state"] == "succeeded"
    assert as_json(run_cli("pagecache", "evict", root, *local, "--json"))["result"]["retained"] == 0
    loaded = run_cli("pagecache", "load", *local)
    assert loaded.returncode == 0, loaded.stderr
    assert "loaded 4.00 MiB" in loaded.stdout
    listed = as_json(run_cli("pagecache", "list", *local, "--json"))
    assert [entry["id"] for entry in listed["dumps"]] == [dump["result"]["dump"]]
    file = disk_dir / "carried"
    assert run_cli("pagecache", "export", *local, "-o", file).returncode == 0
    assert as_json(run_cli("pagecache", "import", file, *local, "--json"))["uploaded"] is True
    gone = run_cli("pagecache", "delete", dump["result"]["dump"], *local)
    assert gone.returncode == 0, gone.stderr
    assert "nope" in one_line(run_cli("pagecache", "load", "nope", *local))
    assert "/etc" in one_line(run_cli("pagecache", "evict", "/etc", *local))


def test_a_unit_that_is_stopped_ends_its_local_work(disk_dir: Path) -> None:
    root = disk_dir / "data"
    for number in range(16):
        write_file(root / f"{number}.db", 4 * MIB)
    local = ("--local", "--root", str(root), "--state-dir", str(disk_dir / "state"))
    assert run_cli("pagecache", "dump", *local).returncode == 0
    assert run_cli("pagecache", "evict", root, *local).returncode == 0
    with subprocess.Popen(
        [*HOLDFAST, "pagecache", "load", "--rate", "1MiB", *local],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "was cancelled" in err


def test_names_that_are_not_utf8(daemon: Daemon) -> None:
    name = b"caf\xe9 \xff\n.db"
    path = os.fsencode(daemon.root) + b"/" + name
    with open(path, "wb") as file:  # noqa: PTH123 - pathlib takes no bytes
        file.write(bytes(MIB))
        os.fsync(file.fileno())
    shown = daemon.cli("pagecache", "show")
    assert shown.returncode == 0, shown.stderr
    assert r"caf\xe9 \xff\n.db" in shown.stdout
    as_json(daemon.cli("pagecache", "show", "--json"))
    assert daemon.cli("pagecache", "show", LC_ALL="C", PYTHONUTF8="0").returncode == 0
    evicted = as_json(daemon.cli("pagecache", "evict", daemon.root, "--json"))
    assert evicted["result"]["evicted"] == MIB
    assert "is not UTF-8" in one_line(daemon.cli("pagecache", "evict", path), 2)


def test_a_closed_pipe_is_no_error_to_talk_about(tree: Daemon) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m holdfast pagecache show --json | head -c 1', HOLDFAST[0]],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(HOLDFAST_SOCKET=str(tree.socket)),
    )
    assert done.stdout == "{"
    assert done.stderr == ""


def test_the_node(shared_daemon: Daemon) -> None:
    machine = as_json(shared_daemon.cli("node", "--json"))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in json.dumps(machine)
    shown = shared_daemon.cli("node")
    assert shown.returncode == 0, shown.stderr
    assert boot in shown.stdout
    assert os.uname().release in shown.stdout
    assert str(shared_daemon.root) in shown.stdout


def test_over_tcp_with_a_token(shared_daemon: Daemon, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(shared_daemon.tokens.secrets["read"] + "\n")
    token.chmod(0o600)
    remote = ("--url", shared_daemon.url)
    assert run_cli("op", "list", *remote, "--token-file", token).returncode == 0
    secret = shared_daemon.tokens.secrets["read"]
    assert run_cli("op", "list", *remote, HOLDFAST_TOKEN=secret).returncode == 0
    refused = one_line(run_cli("op", "list", *remote))
    assert "--token-file" in refused
    forbidden = one_line(run_cli("pagecache", "dump", *remote, "--token-file", token))
    assert "operate" in forbidden
    token.write_text("hf_wrong\n")
    one_line(run_cli("op", "list", *remote, "--token-file", token))
    one_line(run_cli("op", "list", *remote, "--token-file", tmp_path / "none"), 2)


def test_completion_knows_commands_and_ids(shared_daemon: Daemon) -> None:
    def complete(words: str) -> list[str]:
        done = run_cli(
            _HOLDFAST_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split(" ")) - 1),
            HOLDFAST_SOCKET=str(shared_daemon.socket),
        )
        return done.stdout.split()

    assert complete("holdfast pagec") == ["pagecache"]
    assert {"show", "load"} <= set(complete("holdfast pagecache "))
    operation = shared_daemon.finish(shared_daemon.start("/v1/pagecache/dumps", {}))
    assert operation["id"] in complete("holdfast op show ")
    assert {"latest", operation["result"]["dump"]} <= set(complete("holdfast pagecache load "))
    script = run_cli("--show-completion", "bash")
    assert script.returncode == 0, script.stderr

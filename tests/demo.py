"""`make demo`: a page cache is dumped, thrown away and brought back, and a flipped byte is found.

All through a real daemon. Prints every command before it runs it, so that the output reads as a
session in a shell: what is shown can be typed. Ends with 1 if any step fell short, and leaves
neither process nor file behind.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from tests.disk import drop, real_directory, write_file
from tests.system.harness import dying_with_parent, free_port
from tests.waiting import until

MIB = 1 << 20
CHUNK = 64 * MIB  # what a verification tells apart in a large file
DIFFERENCES = 3  # the exit code of a check that found some
FLIPPED, FLIPPED_AT = "tables/large-1.db", 100_000_000
REQUIRED_RECALL = 0.99
FREE_BYTES = 2 << 30
ROOM_MESSAGE = "the demo needs 2 GiB free in {}; set HOLDFAST_TEST_DIR to another directory"

# Sizes as on a database server: a few large tables, many middling ones, very many small files.
SAMPLE = (
    *((f"tables/large-{n}.db", 256 * MIB) for n in range(3)),
    *((f"tables/medium-{n:02}.db", 16 * MIB) for n in range(16)),
    *((f"index/segment-{n:03}.idx", 768 * 1024) for n in range(64)),
    *((f"small/{n % 16:02}/{n:04}.meta", 500 + 37 * n) for n in range(1024)),
    ("small/empty", 0),
)


class FellShortError(Exception):
    """A step did not do what it should have."""


class Demo:
    """One run: a daemon with a root, a state directory and a socket of its own."""

    def __init__(self, work: Path, root: Path) -> None:
        self.root = root
        self.work = work
        self.socket = work / "holdfast.sock"
        self.port = free_port()
        self.shortfalls: list[str] = []
        virtual = Path(sys.executable).parent
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")},
            "PATH": f"{virtual}:{os.environ['PATH']}",
            "HOLDFAST_SOCKET": str(self.socket),
        }
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://localhost",
            timeout=60,
            trust_env=False,
        )

    def title(self, text: str) -> None:
        """Say what comes next."""
        bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"\n{bold}# {text}{plain}", flush=True)

    def run(self, command: str, *, codes: Sequence[int] = (0,)) -> int:
        """Print a command line and run it in a shell; its output goes where ours goes.

        Answers its exit code, which must be one of `codes`.
        """
        green, plain = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"{green}$ {command}{plain}", flush=True)
        # A broken pipe in `… | head` is no failure, so no pipefail; curl -f tells of its own.
        done = subprocess.run(["bash", "-c", command], env=self.environment, check=False)
        if done.returncode not in codes:
            raise FellShortError(f"`{command}` ended with {done.returncode}")
        return done.returncode

    def curl(self, path: str, arguments: str = "", *, then: str = "") -> None:
        """Call the HTTP API over the unix socket, as anyone could."""
        options = f" {arguments}" if arguments else ""
        self.run(
            f'curl -fsS --unix-socket "$HOLDFAST_SOCKET"{options} http://localhost{path}{then}'
        )

    def expect(self, condition: bool, shortfall: str) -> None:
        """Remember a shortfall and go on: the rest is worth seeing too."""
        if not condition:
            self.shortfalls.append(shortfall)
            print(f"FELL SHORT: {shortfall}", flush=True)

    def last(self, kind: str) -> dict[str, Any]:
        """Answer the result of the newest operation of a kind, which must have succeeded."""
        answer = self.http.get("/v1/operations", params={"kind": kind, "limit": 1}).json()
        newest = answer["operations"][0]["id"]
        operation: dict[str, Any] = self.http.get(f"/v1/operations/{newest}").json()
        if operation["state"] != "succeeded":
            raise FellShortError(f"{kind} {operation['state']}: {operation['error']}")
        result: dict[str, Any] = operation["result"]
        return result

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Run the daemon for as long as the block takes."""
        token = f"{self.work}/token"
        self.run(
            f"holdfast token create demo --scope operate --tokens-file {self.work}/tokens.json "
            f"> {token}"
        )
        command = [
            "holdfast",
            "serve",
            "--config",
            str(self.work / "holdfast.toml"),
        ]
        print(f"$ {shlex.join(command)} &", flush=True)
        with (self.work / "log").open("wb") as log:
            process = subprocess.Popen(
                dying_with_parent([str(Path(sys.executable).parent / "holdfast"), *command[1:]]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                process_group=0,  # Ctrl-C is for the demo, which then ends the daemon itself
            )
        try:
            until(lambda: self._answers(process), seconds=60, what="an answer of the daemon")
            yield
            self.title("stop the daemon")
            print(f"$ kill {process.pid}")
            process.terminate()
            code = process.wait(10)
            self.expect(code == 0, f"the daemon ended with {code} after SIGTERM")
            print("the daemon has ended")
        finally:
            self.http.close()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            log = (self.work / "log").read_text(errors="replace")
            raise FellShortError(f"the daemon ended at its start:\n{log}")
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


def show_session(demo: Demo, *, ours: bool) -> None:
    """Dump, evict and load, and look at the page cache between."""
    root = shlex.quote(str(demo.root))
    demo.title("what is in memory now")
    demo.curl("/", then=" | head -n 40")
    demo.run("holdfast pagecache show")

    demo.title("dump: record which pages are in memory, over plain HTTP")
    demo.curl(
        "/v1/pagecache/dumps",
        "-X POST -H 'Content-Type: application/json' -H 'Idempotency-Key: demo-dump' -d '{}'",
    )
    newest = demo.http.get("/v1/operations", params={"limit": 1}).json()["operations"][0]["id"]
    demo.curl(f"/v1/operations/{newest}/events", "-N -H 'Accept: text/plain'")
    dumped = demo.last("pagecache.dump")
    demo.run("holdfast pagecache list")
    demo.expect(dumped["pages"] > 0, f"nothing of {demo.root} was in memory: read some of it first")

    demo.title("evict: throw it away, as a reboot would")
    demo.run(f"holdfast pagecache evict --sync {root}")
    evicted = demo.last("pagecache.evict")
    demo.run("holdfast pagecache show --depth 0 --top 0")
    if ours:
        demo.expect(
            evicted["retained"] <= 0.01 * evicted["resident_before"],
            f"{evicted['retained']} of {evicted['resident_before']} bytes stayed in memory",
        )

    demo.title("load: bring it back")
    demo.run("holdfast pagecache load latest")
    loaded = demo.last("pagecache.load")
    demo.run("holdfast pagecache show")

    # What counts is what the load found when it asked the kernel at its end: later the machine may
    # reclaim pages that nobody uses, as hosts of virtual machines like to do.
    there = loaded["loaded"] + loaded["already_resident"]
    recall = there / dumped["bytes"] if dumped["bytes"] else 0.0
    print(f"\nrecall: {100 * recall:.3f} % of the {dumped['pages']:,} dumped pages are back")
    demo.expect(
        recall >= REQUIRED_RECALL,
        f"a recall of {100 * recall:.2f} % is under {100 * REQUIRED_RECALL:.0f} %: "
        f"missing {loaded['missing']}, skipped {loaded['skipped_bytes_by_reason']}, "
        f"stopped by {loaded['stopped']}",
    )

    demo.title("what a monitoring system sees, over TCP")
    address = f"http://127.0.0.1:{demo.port}"
    # Residency is sampled in the background once somebody scrapes.
    until(
        lambda: "holdfast_pagecache_resident_bytes{" in demo.http.get("/metrics").text,
        seconds=20,
        what="a sample of residency in the metrics",
    )
    shown = "(build_info|pagecache_resident|read_bytes|operation_(expected|progress)_bytes"
    demo.run(
        f"curl -fsS {address}/metrics | "
        f"grep -E '^holdfast_{shown}|operation_last_duration|operations_finished.*succeeded)'"
    )
    demo.run(
        f'curl -fsS -H "Authorization: Bearer $(cat {demo.work}/token)" '
        f"'{address}/v1/operations?state=succeeded&limit=1'"
    )


def show_manifests(demo: Demo, *, ours: bool) -> None:
    """Record all files with their digests, and find out whether they are still the same."""
    demo.title("manifest: record every file with its digest")
    demo.run("holdfast manifest build")
    built = demo.last("manifest.build")
    demo.run("holdfast manifest show")

    demo.title("verify: read everything and compare")
    if not ours:
        # Somebody may be writing to these files.
        if demo.run("holdfast manifest verify", codes=(0, DIFFERENCES)) == DIFFERENCES:
            print("\nfiles were changed meanwhile, or could not be read")
        return
    demo.expect(built["ok"] == len(SAMPLE), f"{built['ok']} of {len(SAMPLE)} files have a digest")
    demo.run("holdfast manifest verify")

    demo.title("one byte in a large file goes bad")
    path = demo.root / FLIPPED
    with path.open("rb") as file:
        file.seek(FLIPPED_AT)
        (byte,) = file.read(1)
    write = f"dd of={shlex.quote(str(path))} bs=1 seek={FLIPPED_AT} conv=notrunc status=none"
    demo.run(f"printf '\\x{byte ^ 1:02x}' | {write}")
    code = demo.run("holdfast manifest verify", codes=(0, DIFFERENCES))
    print(f"\nexit code {code}: {'files differ' if code else 'all is well'}")
    found = [(each["path"], each["ranges"]) for each in demo.last("manifest.verify")["findings"]]
    begin = FLIPPED_AT // CHUNK * CHUNK
    demo.expect(
        code == DIFFERENCES and found == [(FLIPPED, [[begin, begin + CHUNK]])],
        f"the verification ended with {code} and found {found}",
    )

    demo.title("repaired")
    demo.run(f"printf '\\x{byte:02x}' | {write}")
    demo.run("holdfast manifest verify")


def make_sample(root: Path) -> None:
    """Write the sample tree, and leave a part of it out of memory, as on a busy server."""
    total = sum(size for _, size in SAMPLE)
    print(f"writing {len(SAMPLE):,} files, {total / (1 << 30):.2f} GiB, to {root}", flush=True)
    chance = random.Random(2018)
    for seed, (name, size) in enumerate(SAMPLE):
        path = write_file(root / name, size, seed=seed)
        if size and chance.random() < 0.2:
            drop(path)


def consent(data: Path) -> bool:
    """Say what will happen to a person's own files, and ask if there is someone to ask."""
    print(
        f"The demo will write out and drop the pages of all files below {data} from memory,\n"
        "and load them again; then read all files twice, past the page cache, to build a manifest\n"
        "and to verify it. No file is changed, but whoever reads them meanwhile waits for the disk."
    )
    if not sys.stdin.isatty():
        return True
    return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}


def configure(demo: Demo) -> None:
    """Write the daemon's settings: everything of its own below the working directory."""
    (demo.work / "holdfast.toml").write_text(
        f'roots = ["{demo.root}"]\n'
        f'state_dir = "{demo.work / "state"}"\n'
        f'socket = "{demo.socket}"\n'
        f'listen = "127.0.0.1:{demo.port}"\n'
        f'tokens_file = "{demo.work / "tokens.json"}"\n'
        '[pagecache]\nreserve_bytes = "128MiB"\n'
    )


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo and answer its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="show it on these files, not on a sample")
    data: Path | None = parser.parse_args().data
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    if shutil.which("curl") is None:
        print("the demo needs curl; on Debian: apt-get install curl", file=sys.stderr)
        return 1
    if data is not None and not data.is_dir():
        print(f"DATA={data} is not a directory", file=sys.stderr)
        return 2
    if data is not None and not consent(data):
        return 1
    base = real_directory()
    if data is None and shutil.disk_usage(base).free < FREE_BYTES:
        print(ROOM_MESSAGE.format(base), file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="holdfast-demo-", dir=base))
    demo = Demo(work, (data or work / "data").absolute())
    try:
        if data is None:
            make_sample(demo.root)
        configure(demo)
        demo.title(f"a daemon for {demo.root}")
        print(f"$ export HOLDFAST_SOCKET={demo.socket}")
        with demo.daemon():
            show_session(demo, ours=data is None)
            show_manifests(demo, ours=data is None)
    except FellShortError as problem:
        demo.shortfalls.append(str(problem))
        print(f"FELL SHORT: {problem}", flush=True)
    except KeyboardInterrupt:
        demo.shortfalls.append("interrupted")
    finally:
        shutil.rmtree(work)
    if demo.shortfalls:
        print(f"\nthe demo fell short: {'; '.join(demo.shortfalls)}", file=sys.stderr)
        return 1
    told = "everything that was dumped is back"
    if data is None:
        told += ", the flipped byte was found"
    print(f"\nthe demo is done: {told}, and nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())

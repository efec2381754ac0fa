"""`make demo`: a page cache is dumped, dropped and loaded, a flipped byte is found, a plan is made.

All through a real daemon. Prints every command before it runs it, so that the output reads as a
session in a shell: what is shown can be typed. Ends with 1 if any step fell short, and leaves
neither process nor file behind.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from demo.sample import make_sample
from demo.shell import Demo, FellShortError
from demo.steps import show_manifests, show_session, show_tuning
from tests.support.machine.disk import real_directory

FREE_BYTES = 2 << 30
SPACE_MESSAGE = "the demo needs 2 GiB free in {}; set HOLDFAST_TEST_DIR to another directory"


def consent(data: Path) -> bool:
    """Explain what will happen to a person's own files, and ask on a terminal."""
    print(
        f"The demo will write out and drop the pages of all files below {data} from memory,\n"
        "and load them again; then read all files twice, past the page cache, to build a manifest\n"
        "and to verify it. No file is changed, but what reads them meanwhile waits for the disk."
    )
    if not sys.stdin.isatty():
        return True
    return input("Continue? [y/N] ").strip().lower() in {"y", "yes"}


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
    """Run the demo and return its exit code."""
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
        print(SPACE_MESSAGE.format(base), file=sys.stderr)
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
            show_tuning(demo)
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
    shown = "everything that was dumped is back"
    if data is None:
        shown += ", the flipped byte was found"
    print(f"\nthe demo is done: {shown}, and nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Log lines as the journal reads them, and notifications as systemd receives them."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.process.logs import notify

PROGRAM = """
import logging
from holdfast.process.logs import configure
configure("info")
log = logging.getLogger("holdfast.test")
log.debug("nothing")
log.info("fine")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("bad")
logging.getLogger("uvicorn.error").info("chatter")
"""


def lines(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_terminal_gets_the_time_and_the_level() -> None:
    first, second, *_ = lines()
    assert first[4] == "-"
    assert first.endswith("INFO     holdfast.test: fine")
    assert second.endswith("ERROR    holdfast.test: bad")


def test_the_journal_gets_a_priority_on_every_line() -> None:
    first, *others = lines(JOURNAL_STREAM="8:1")
    assert first == "<6>holdfast.test: fine"
    assert others[0] == "<3>holdfast.test: bad"
    assert others[-1] == "<3>ZeroDivisionError: division by zero"
    assert all(line.startswith("<3>") for line in others)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@holdfast-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name[1:]}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert receiver.recv(64) == b"READY=1"


def test_without_systemd_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

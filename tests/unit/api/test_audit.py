from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from holdfast.api.http.callers.audit import AuditLog, summary


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.record({"n": 1})
    log.close()
    log.record({"n": 2, "name": "caf\udce9"})
    log.close()
    file = tmp_path / "audit.log"
    assert lines(file) == [{"n": 1}, {"n": 2, "name": "caf\ufffd"}]
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=100, kept=3)
    for number in range(100):
        log.record({"n": number})
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["audit.log", "audit.log.1", "audit.log.2"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    kept = [
        entry["n"]
        for name in ("audit.log.2", "audit.log.1", "audit.log")
        for entry in lines(tmp_path / name)
    ]
    assert kept == list(range(100 - len(kept), 100))


def test_writers_do_not_mix(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)

    def write(name: int) -> None:
        for number in range(50):
            log.record({"who": name, "n": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(lines(tmp_path / "audit.log")) == 200


def test_strangers_only_reach_the_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "holdfast.audit")
    log = AuditLog(tmp_path)
    log.record({"who": "unknown"}, to_file=False)
    assert not (tmp_path / "audit.log").exists()
    assert caplog.messages == ['{"who": "unknown"}']


def test_a_link_in_its_place_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    AuditLog(tmp_path).record({"n": 1})
    assert not (tmp_path / "elsewhere").exists()
    assert "cannot be written" in caplog.text


def test_long_parameters_are_cut() -> None:
    short = summary({"paths": ["x" * 600] * 12, "n": 1, "none": None})
    assert len(short["paths"]) == 11
    assert short["paths"][-1] == "… 2 more"
    assert len(short["paths"][0]) == 513
    assert (short["n"], short["none"]) == (1, None)

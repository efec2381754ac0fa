"""What keeps the daemon from starting is reported in one sentence, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon.harness import Daemon

Starter = Callable[..., Daemon]


def refused(start_daemon: Starter, **settings: Any) -> str:
    """Start a daemon that ought to refuse, and return the last line of its log."""
    daemon = start_daemon(wait=False, **settings)
    assert daemon.process.wait(20) not in {0, None}
    assert not daemon.socket.exists()
    return daemon.log.splitlines()[-1]


def test_beyond_loopback_it_needs_tls(start_daemon: Starter) -> None:
    said = refused(start_daemon, listen="0.0.0.0:0")
    assert "`listen` = '0.0.0.0:0' reaches beyond this machine, which needs TLS and tokens" in said


@pytest.mark.parametrize("content", [None, json.dumps({"version": 1, "tokens": []})])
def test_beyond_loopback_it_needs_tokens(
    start_daemon: Starter, tmp_path: Path, content: str | None
) -> None:
    for name in ("certificate", "key"):
        (tmp_path / name).touch()
    tokens = tmp_path / "tokens.json"
    if content is not None:
        tokens.write_text(content)
        tokens.chmod(0o600)
    said = refused(
        start_daemon,
        listen="0.0.0.0:0",
        tokens_file=str(tokens),
        tls={"certificate": str(tmp_path / "certificate"), "key": str(tmp_path / "key")},
    )
    assert "reaches beyond this machine, which needs tokens" in said
    assert str(tokens) in said
    assert "holdfast token create" in said


def test_trust_without_tokens_is_only_for_loopback(start_daemon: Starter) -> None:
    said = refused(start_daemon, listen="0.0.0.0:0", loopback_trusted=True)
    assert "`loopback_trusted` is only for loopback addresses" in said


def test_an_unknown_setting_is_named(start_daemon: Starter) -> None:
    said = refused(start_daemon, operations={"max_runing": 3})
    assert "holdfast.toml: `operations.max_runing` is no setting of holdfast" in said
    assert "did you mean operations.max_running?" in said


def test_an_unsafe_state_directory_is_refused(start_daemon: Starter, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    assert "is writable by other users (mode 0777)" in refused(start_daemon, state_dir=str(state))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "is a symbolic link" in refused(start_daemon, state_dir=str(link))


def test_an_address_that_is_taken_is_named(
    start_daemon: Starter,
) -> None:
    first = start_daemon()
    said = refused(start_daemon, listen=f"127.0.0.1:{first.port}")
    assert f"127.0.0.1:{first.port}" in said
    assert "in use" in said
    assert first.http.get("/healthz").status_code == 200

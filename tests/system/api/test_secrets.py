"""A token is known to who sends it, and is found nowhere else."""

from __future__ import annotations

import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon.harness import (
    HOLDFAST,
    Daemon,
    Tokens,
    clean_environment,
    dying_with_parent,
)

UNITS = Path(__file__).parents[3] / "systemd"


@pytest.fixture
def talkative(start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon(log_level="debug")


def test_tokens_are_found_nowhere(talkative: Daemon, disk_dir: Path) -> None:
    secrets = talkative.tokens.secrets
    answers = used_well_and_badly(talkative, secrets["operate"])
    file = disk_dir / "token"
    file.write_text(secrets["admin"])
    talkative.cli("--url", talkative.url, "--token-file", file, "pagecache", "dump")
    talkative.cli("--url", talkative.url, "node", HOLDFAST_TOKEN=secrets["read"] + "x")

    process = Path(f"/proc/{talkative.pid}")
    places = {
        "its log": talkative.log.encode(),
        "its command line": (process / "cmdline").read_bytes(),
        "its environment": (process / "environ").read_bytes(),
        "the metrics": talkative.http.get("/metrics").content,
        "the operations": talkative.http.get("/v1/operations").content,
        "the token file": talkative.tokens.file.read_bytes(),
        **{f"an answer to {what}": answer for what, answer in answers.items()},
    }
    kept = [path for path in talkative.state_dir.rglob("*") if path.is_file()]
    places |= {str(path): path.read_bytes() for path in kept}
    assert talkative.state_dir / "audit.log" in kept
    assert b"test-operate" in places[str(talkative.state_dir / "audit.log")]
    for where, content in places.items():
        for scope, secret in secrets.items():
            # Not even most of it.
            assert secret[3:23].encode() not in content, f"the {scope} token is in {where}"
    mode = stat.S_IMODE(talkative.tokens.file.stat().st_mode)
    assert mode == 0o600


def used_well_and_badly(daemon: Daemon, secret: str) -> dict[str, bytes]:
    """Send a token in its place and in others; return the responses."""
    sent: dict[str, dict[str, Any]] = {
        "its proper place": {"headers": {"Authorization": f"Bearer {secret}"}},
        "a typing error": {"headers": {"Authorization": f"Bearer {secret}x"}},
        "another scheme": {"headers": {"Authorization": f"Basic {secret}"}},
        "no scheme": {"headers": {"Authorization": secret}},
        "a password": {"auth": ("user", secret)},
        "a header of another name": {"headers": {"X-Token": secret}},
        "a cookie": {"headers": {"Cookie": f"token={secret}"}},
        "a parameter": {"params": {"access_token": secret}},
    }
    answers = {}
    with httpx.Client(base_url=daemon.url, trust_env=False) as http:
        for what, options in sent.items():
            for method, path in (("GET", "/v1/node"), ("POST", "/v1/pagecache/dumps")):
                response = http.request(method, path, **options)
                answers[f"{what}, {method}"] = response.content
        # Let in, and sent in the wrong places.
        known = {"Authorization": f"Bearer {secret}"}
        path, kind = "/v1/pagecache/dumps", {"Content-Type": "application/json"}
        for what, answered in {
            "an unknown field": http.post(path, headers=known, json={"token": secret}),
            "an unknown parameter": http.post(path, headers=known, params={"token": secret}),
            "a wrong field": http.post(path, headers=known, json={"on_denied": secret}),
            "no JSON": http.post(path, headers=known | kind, content=secret),
        }.items():
            assert answered.status_code == 422
            answers[what] = answered.content
    assert b"test-operate" not in answers["a typing error, GET"]
    return answers


def test_the_command_line_shows_no_token_to_others(tokens: Tokens, disk_dir: Path) -> None:
    """`ps` shows command lines to everybody, and an environment to its owner alone."""
    secret = tokens.secrets["read"]
    file = disk_dir / "token"
    file.write_text(secret)
    ways: tuple[tuple[list[str], dict[str, str]], ...] = (
        (["--token-file", str(file)], {}),
        ([], {"HOLDFAST_TOKEN": secret}),
    )
    for options, environment in ways:
        # One that takes a connection and never answers: the command stays there to be inspected.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            command = dying_with_parent([*HOLDFAST, "--url", url, *options, "node"])
            process = subprocess.Popen(
                command, env=clean_environment(**environment), stderr=subprocess.DEVNULL
            )
            try:
                listener.settimeout(30)
                with listener.accept()[0] as connection:
                    asked = connection.recv(65536)
                    assert f"Bearer {secret}".encode() in asked
                    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            finally:
                process.kill()
                process.wait()
        assert b"node" in shown
        assert secret[3:23].encode() not in shown


@pytest.mark.parametrize("unit", ["holdfast.service", "holdfast-helper.service"])
def test_units_leave_no_core_behind(unit: str) -> None:
    """A core would have the token of the client that was just asking."""
    assert "\nLimitCORE=0\n" in (UNITS / unit).read_text()

"""The imager's own status server, in the place of a daemon that has ended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.daemon.harness import dying_with_parent
from tests.support.machine.ground import CHECKOUT, in_ci
from tests.support.servers.certificates import Issued

_EXAMPLE = "imager_status"
_BUILD = ("build", "--locked", "--quiet", "--workspace", "--exclude", "holdfast-binding")


@cache
def _program() -> Path:
    """Build it, which is done already where the engine's tests ran."""
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
    if not os.access(cargo, os.X_OK):
        reason = "needs cargo, to build the imager's status server"
        if in_ci():
            pytest.fail(reason)
        pytest.skip(reason)
    subprocess.run([cargo, *_BUILD, "--example", _EXAMPLE], cwd=CHECKOUT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
    return target / "debug" / "examples" / _EXAMPLE


def build_imager_status() -> None:
    """Have it built before anything is timed."""
    _program()


@contextmanager
def imager_status(
    directory: Path, listen: str, *, issued: Issued, tokens: Path, client_ca: Path | None = None
) -> Iterator[None]:
    """Answer on an address with the daemon's own files, laid out as an armed machine has them."""
    tls = directory / "tls"
    tls.mkdir()
    shutil.copy(issued.certificate, tls / "certificate.pem")
    shutil.copy(issued.key, tls / "key.pem")
    shutil.copy(tokens, directory / "tokens.json")
    options = ["tls", "tokens"]
    if client_ca is not None:
        shutil.copy(client_ca, tls / "client-ca.pem")
        options.append("client-ca")
    with subprocess.Popen(
        dying_with_parent([_program(), listen, directory, *options]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == listen
        yield
        process.kill()

"""The command line speaks TLS to a daemon elsewhere, and reports what is wrong when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.command_line.cli import as_json, one_line
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.servers.certificates import Authority


def test_over_tls_with_a_client_certificate(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    servers, clients = Authority(tmp_path, "servers"), Authority(tmp_path, "clients")
    own, client = servers.issue("server"), clients.issue("client")
    daemon = start_daemon(
        tls={
            "certificate": str(own.certificate),
            "key": str(own.key),
            "client_ca": str(clients.file),
        }
    )
    url = f"https://127.0.0.1:{daemon.port}"
    secret = daemon.tokens.secrets["read"]
    certificate = ("--client-cert", client.certificate, "--client-key", client.key)
    trusted = ("op", "list", "--url", url, "--ca-file", servers.file)

    listed = run_cli(*trusted, *certificate, "--json", HOLDFAST_TOKEN=secret)
    assert as_json(listed) == {"operations": [], "next": None}

    unknown = one_line(run_cli("op", "list", "--url", url, *certificate, HOLDFAST_TOKEN=secret))
    assert "--ca-file" in unknown
    without = one_line(run_cli(*trusted, HOLDFAST_TOKEN=secret))
    assert "--client-cert" in without
    one_line(run_cli(*trusted, *certificate))
    plain = one_line(run_cli("op", "list", "--url", url.replace("https", "http")))
    assert "speaks TLS" in plain
    assert plain.endswith(f"write --url {url}")
    nowhere = one_line(run_cli("op", "list", "--url", url, "--ca-file", "/nowhere"), 2)
    assert "--ca-file" in nowhere

"""Messages about typing errors, over HTTP and on the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.support.command_line.cli import one_line
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.machine.disk import write_file

MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("/v1/pagecach", "did you mean /v1/pagecache?"),
        ("/v1/pagecache/", "without the slash at the end: /v1/pagecache."),
        ("/v1/operations/abcd/", "without the slash at the end: /v1/operations/abcd."),
        ("/pagecache", "paths begin with /v1: /v1/pagecache."),
        ("/pagecache/dumps/", "paths begin with /v1: /v1/pagecache/dumps."),
        ("/V1/Node", "in lower case: /v1/node."),
        ("//v1//node", "single slashes: /v1/node."),
        ("/v1/manifests/latest/verification", "/v1/manifests/latest/verifications?"),
        ("/v1/operation/01M8F6S1ZD5S0V6Y3N2B7C9XEF", "/v1/operations/01M8F6S1ZD5S0V6Y3N2B7C9XEF?"),
        ("/v1/tunning", "did you mean /v1/tuning?"),
        ("/reaydz", "did you mean /readyz?"),
        ("/something/else", "GET / lists what is."),
        ("/" + "a/" * 500, "GET / lists what is."),
    ],
)
def test_a_path_that_leads_nowhere(shared_daemon: Daemon, path: str, reported: str) -> None:
    answer = shared_daemon.http.get(f"http://holdfast{path}")
    assert answer.status_code == 404
    assert answer.json()["detail"].endswith(reported)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/pagecache/loads", {"budget_bytes": "500MiB"}, "in bytes: 524288000 for 500MiB"),
        ("/v1/pagecache/loads", {"reserve_bytes": "2GB"}, "in bytes: 2000000000 for 2GB"),
        ("/v1/manifests", {"bytes_per_second": "1 GiB"}, "in bytes: 1073741824 for 1 GiB"),
        ("/v1/manifests", {"bytes_per_second": "quick"}, "must be a whole number, in bytes"),
        ("/v1/manifests/latest/verifications", {"seed": "x"}, "must be a whole number"),
    ],
)
def test_sizes_are_in_bytes(
    shared_daemon: Daemon, path: str, body: dict[str, str], message: str
) -> None:
    answer = shared_daemon.http.post(path, json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["message"].endswith(message)


def test_no_words_of_the_library_over_http(shared_daemon: Daemon) -> None:
    bad = {"descriptor": "nowhere", "descriptor_sha256": "bogus", "mode": "lax", "identity": 1}
    answer = shared_daemon.http.post("/v1/reimage/plan", json=bad)
    assert answer.status_code == 422
    reported = answer.text
    assert "64 hexadecimal digits" in reported
    for words in ("should", "pattern", "Value error", "Input"):
        assert words not in reported


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["pagecache", "load", "--budget", "lots"], "--budget"),
        (["pagecache", "load", "--reserve", "lots"], "--reserve"),
        (["pagecache", "load", "--rate", "lots"], "--rate"),
        (["pagecache", "load", "--until", "200"], "--until"),
        (["pagecache", "load", "--deadline", "soon"], "--deadline"),
        (["manifest", "build", "--rate", "lots"], "--rate"),
        (["manifest", "verify", "--rate", "lots"], "--rate"),
    ],
)
def test_a_bad_size_names_its_option(arguments: list[str], option: str) -> None:
    assert f"'{option}'" in one_line(run_cli(*arguments), 2)


def test_local_work_says_what_is_wrong_as_the_daemon_does(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    local = ("--local", "--root", tmp_path / "data", "--state-dir", tmp_path / "state")
    reported = one_line(run_cli("manifest", "build", tmp_path / "data" / ("x" * 5000), *local), 2)
    assert "must have at most 4096 characters" in reported


def test_errors_of_a_program_are_problem_documents(shared_daemon: Daemon, tmp_path: Path) -> None:
    """With --json: on standard error, on one line, and standard output stays empty."""
    of_the_daemon = shared_daemon.cli("manifest", "show", "01M8F6S1ZD5S0V6Y3N2B7C9XEF", "--json")
    no_daemon = run_cli("--json", "op", "list", "--socket", tmp_path / "none.sock")
    usage = run_cli("op", "list", "--json", "--bogus")
    export = shared_daemon.cli("pagecache", "export", "--json")
    watch = shared_daemon.cli("op", "watch", "nope", "--json")
    for done, code in ((of_the_daemon, 1), (no_daemon, 1), (usage, 2), (export, 2), (watch, 1)):
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        problem = json.loads(line)
        assert problem["exit_code"] == code
        assert problem["title"]
        assert problem["detail"]
        assert problem["type"]
    assert json.loads(of_the_daemon.stderr)["status"] == 404
    assert json.loads(of_the_daemon.stderr)["type"] == "/problems/not-found"
    assert "--json" not in run_cli("op", "list", "--bogus", "--", "--json").stderr.partition(";")[0]


def test_a_failed_operation_in_json(shared_daemon: Daemon, tmp_path: Path) -> None:
    bad = tmp_path / "bad.raw"
    bad.write_bytes(b"nothing that boots")
    done = run_cli("image", "describe", bad, "--json", "--quiet")
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["exit_code"] == 1


def test_the_scheme_of_a_url(shared_daemon: Daemon) -> None:
    reported = one_line(
        run_cli("op", "list", "--url", shared_daemon.url.replace("http:", "https:"))
    )
    assert "speaks plain HTTP, not TLS" in reported
    assert reported.endswith(f"write --url {shared_daemon.url}")


def test_a_token_goes_to_a_file_of_its_owner_alone(shared_daemon: Daemon, tmp_path: Path) -> None:
    tokens, output = tmp_path / "tokens.json", tmp_path / "token"
    create = ("token", "create", "--tokens-file", tokens, "--output", output)
    done = run_cli(*create, "deploy")
    assert done.returncode == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    secret = output.read_text(encoding="ascii").strip()
    assert secret.startswith("hf_")
    assert secret not in done.stdout + done.stderr

    assert "exists already" in one_line(run_cli(*create, "other"))
    assert output.read_text(encoding="ascii").strip() == secret
    listed = json.loads(run_cli("token", "list", "--tokens-file", tokens, "--json").stdout)
    assert [token["name"] for token in listed["tokens"]] == ["deploy"]

    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    one_line(run_cli("token", "create", "x", "--tokens-file", tokens, "--output", link))
    assert not (tmp_path / "elsewhere").exists()
    second = tmp_path / "second"
    again = ("token", "create", "deploy", "--tokens-file", tokens, "--output", second, "--json")
    assert run_cli(*again).returncode == 1
    assert not second.exists(), "left behind although no token was made"


def test_a_disk_that_has_the_system_is_not_said_to_have_none(shared_daemon: Daemon) -> None:
    disks = shared_daemon.http.get("/v1/reimage").json()["disks"]
    whole = [
        disk["excluded"] for disk in disks if any("use: / (" in why for why in disk["excluded"])
    ]
    if not whole:
        pytest.skip("the file system of / is not on a whole disk here")
    for reasons in whole:
        assert "The system that runs is not on it." not in reasons


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_token_that_others_can_read(
    shared_daemon: Daemon, tmp_path: Path, mode: int, warned: bool
) -> None:
    file = tmp_path / "token"
    file.write_text(shared_daemon.tokens.secrets["read"], encoding="ascii")
    file.chmod(mode)
    done = run_cli("op", "list", "--url", shared_daemon.url, "--token-file", file)
    assert done.returncode == 0
    assert (f"chmod 0600 {file}" in done.stderr) == warned


def test_help_is_a_command_too() -> None:
    for words in ([], ["op"], ["pagecache", "load"]):
        asked = run_cli("help", *words)
        assert asked.returncode == 0
        assert asked.stdout == run_cli(*words, "--help").stdout
    assert "did you mean 'list'" in one_line(run_cli("help", "op", "lst"), 2).lower()


def test_help_is_short_and_shows_flags_as_flags() -> None:
    shown = run_cli("op", "list", "--help").stdout
    assert "<bool>" not in shown
    assert "--client-cert" not in shown
    assert "holdfast --help" in shown
    assert "--client-cert" in run_cli("--help").stdout
    assert "<bool>" not in run_cli("serve", "--help").stdout


def test_the_beginning_of_an_id(daemon: Daemon) -> None:
    write_file(daemon.root / "a.db", MIB)
    made = [daemon.run("/v1/manifests", {"full": True})["manifest"] for _ in range(2)]
    shared = next(n for n in range(26) if made[0][: n + 1] != made[1][: n + 1])
    short = made[0][: max(shared + 1, 4)]

    shown = daemon.http.get(f"/v1/manifests/{short.lower()}")
    assert shown.json()["id"] == made[0]
    verified = daemon.run(f"/v1/manifests/{short}/verifications", {})
    assert verified["manifest"] == made[0]
    compared = daemon.cli("manifest", "diff", short, "latest")
    assert compared.returncode == 0, compared.stderr

    several = daemon.http.get(f"/v1/manifests/{made[0][:4]}")
    assert several.status_code == 409
    assert all(id_ in several.json()["detail"] for id_ in made)
    assert all(id_ in one_line(daemon.cli("manifest", "delete", made[0][:4])) for id_ in made)
    unknown = daemon.http.get("/v1/manifests/0000")
    assert unknown.status_code == 404

    staged = {
        "descriptor": "https://images.example/a.json",
        "descriptor_sha256": "0" * 64,
        "manifest": short,
    }
    refused = daemon.http.post("/v1/reimage/stage", json=staged)
    assert refused.status_code in (409, 422)

    assert daemon.cli("manifest", "delete", short).returncode == 0
    assert daemon.http.get(f"/v1/manifests/{made[0]}").status_code == 404
    latest = daemon.http.delete("/v1/manifests/latest")
    assert latest.status_code == 422
    assert made[1] in latest.json()["detail"]


def test_the_beginning_of_the_id_of_a_dump_or_an_operation(daemon: Daemon) -> None:
    write_file(daemon.root / "a.db", 8 * MIB)
    dump = daemon.run("/v1/pagecache/dumps", {})["dump"]
    assert daemon.http.get(f"/v1/pagecache/dumps/{dump[:6]}").json()["id"] == dump
    assert daemon.run("/v1/pagecache/loads", {"dump": dump[:12]})["dump"] == dump

    slow = daemon.start("/v1/manifests", {"bytes_per_second": MIB})
    operations = daemon.http.get("/v1/operations").json()["operations"]
    ids = [operation["id"] for operation in operations]
    length = next(n for n in range(4, 27) if sum(known[:n] == slow["id"][:n] for known in ids) == 1)
    short = slow["id"][:length]
    several = daemon.http.post(f"/v1/operations/{ids[0][:4]}/cancel")
    assert several.status_code == 409
    assert slow["id"] in several.json()["detail"]
    assert daemon.http.post(f"/v1/operations/{short}/cancel").json()["id"] == slow["id"]
    daemon.finish(slow)
    events = daemon.http.get(f"/v1/operations/{short}/events", headers={"Accept": "text/plain"})
    assert "cancelled" in events.text
    assert slow["id"] in daemon.cli("op", "show", "latest").stdout

    assert daemon.cli("pagecache", "delete", dump[:6]).returncode == 0
    audit = daemon.http.get("/v1/pagecache/dumps").json()["dumps"]
    assert audit == []

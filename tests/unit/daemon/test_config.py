"""Settings from file, environment and flags: what wins, and how mistakes are reported."""

# ruff: noqa: E501 -- a mistake and what is said of it stand on one line
from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import (
    ConfigError,
    Settings,
    StateDirError,
    explain,
    load_settings,
    prepare_state_dir,
)
from holdfast.config.statedir import locate_state_dir

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Give a function that loads settings from TOML text, variables and flags."""

    def load(toml: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
        file = tmp_path / "holdfast.toml"
        file.write_text(toml)
        return load_settings(file, flags, environ=environ or {})

    return load


def test_defaults_are_those_documented(load: Load) -> None:
    settings = load()
    assert settings.roots == [Path("/mnt/data")]
    assert settings.state_dir is None
    assert settings.listen_address == ("127.0.0.1", 9918)
    assert settings.socket == Path("/run/holdfast/holdfast.sock")
    assert settings.socket_mode == 0o660
    assert settings.tokens_file == Path("/etc/holdfast/tokens.json")
    assert not settings.loopback_trusted
    assert settings.max_body_bytes == 1 << 20
    assert settings.max_record_bytes == 1 << 30
    assert (settings.operations.max_running, settings.operations.keep) == (4, 1000)
    assert settings.operations.keep_days == 90
    assert (settings.pagecache.dumps_kept, settings.pagecache.reserve_bytes) == (6, 1 << 30)
    assert set(settings.sources().values()) == {"default"}


def test_flags_win_over_the_environment_and_that_over_the_file(load: Load, tmp_path: Path) -> None:
    settings = load(
        'roots = ["/a"]\nlisten = "127.0.0.1:1"\n[operations]\nkeep = 1\nmax_running = 1\n',
        {"HOLDFAST_LISTEN": "127.0.0.1:2", "HOLDFAST_OPERATIONS__KEEP": "2"},
        listen="127.0.0.1:3",
        state_dir=None,
    )
    assert settings.listen == "127.0.0.1:3"
    assert (settings.operations.keep, settings.operations.max_running) == (2, 1)
    sources = settings.sources()
    assert sources["listen"] == "flag"
    assert sources["operations.keep"] == "HOLDFAST_OPERATIONS__KEEP"
    assert sources["operations.max_running"] == str(tmp_path / "holdfast.toml")
    assert sources["roots"] == str(tmp_path / "holdfast.toml")
    assert sources["state_dir"] == "default"
    assert sources["operations.keep_days"] == "default"


def test_the_environment_writes_lists_and_sizes_and_modes_as_shells_do(load: Load) -> None:
    settings = load(
        environ={
            "HOLDFAST_ROOTS": "/a:/b/../c",
            "HOLDFAST_PAGECACHE__RESERVE_BYTES": "2GiB",
            "HOLDFAST_SOCKET_MODE": "0600",
            "HOLDFAST_SOCKET": "",
            "HOLDFAST_LOOPBACK_TRUSTED": "true",
            "HOLDFAST_TOKEN": "for the command line",
        }
    )
    assert settings.roots == [Path("/a"), Path("/c")]
    assert settings.pagecache.reserve_bytes == 2 << 30
    assert settings.socket_mode == 0o600
    assert settings.socket is None
    assert settings.loopback_trusted


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9918", ("::1", 9918)),
        ("localhost:0", ("localhost", 0)),
        ("", None),
    ],
)
def test_addresses(load: Load, listen: str, address: tuple[str, int] | None) -> None:
    settings = load(f'listen = "{listen}"\n[tls]\ncertificate = "/c"\nkey = "/k"')
    assert settings.listen_address == address
    assert settings.listens_beyond_loopback == (listen == "0.0.0.0:1")


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("rots = []", "{file}: `rots` is no setting of holdfast (did you mean roots?)."),
        ("[operations]\nkepe = 1", "{file}: `operations.kepe` is no setting of holdfast (did you mean operations.keep?)."),
        ("operations = 3", "{file}: `operations` should be a table; it is 3."),
        ("[operations]\nkeep = true", "{file}: `operations.keep` should be a number, not true."),
        ("[operations]\nkeep = 0", "{file}: `operations.keep` should be greater than or equal to 1; it is 0."),
        ("[operations]\nmax_running = 1.5", "{file}: `operations.max_running` should be a valid integer, got a number with a fractional part; it is 1.5."),
        ("roots = 3", "{file}: `roots` should be a valid list; it is 3."),
        ("roots = []", "{file}: `roots` should have at least one entry; it is []."),
        ('roots = ["/a", 3]', "{file}: `roots` entry 2 should be a path; it is 3."),
        ('roots = ["data"]', "{file}: `roots` should be an absolute path, not 'data'."),
        ('roots = ["/a", "/a/b"]', "{file}: `roots` should not contain one another: '/a' and '/a/b'."),
        ('roots = ["/a", "/b", "/a/"]', "{file}: `roots` should not name '/a' twice."),
        ('state_dir = "here"', "{file}: `state_dir` should be an absolute path, not 'here'."),
        ('listen = "example.org:80"', "{file}: `listen` should begin with an IPv4 address, an IPv6 address in brackets or localhost, not 'example.org:80'."),
        ('listen = "127.0.0.1"', "{file}: `listen` should be ADDRESS:PORT with a port up to 65535, for example 127.0.0.1:9918, not '127.0.0.1'."),
        ('listen = "127.0.0.1:65536"', "{file}: `listen` should be ADDRESS:PORT with a port up to 65535, for example 127.0.0.1:9918, not '127.0.0.1:65536'."),
        ('listen = "::1:80"', "{file}: `listen` should begin with an IPv4 address, an IPv6 address in brackets or localhost, not '::1:80'."),
        ('listen = "0.0.0.0:9918"', "`listen` = '0.0.0.0:9918' reaches beyond this machine, which needs TLS and tokens; set `tls.certificate` and `tls.key`, or listen on 127.0.0.1."),
        ('listen = "10.0.0.1:1"\nloopback_trusted = true', "`loopback_trusted` is only for loopback addresses, and `listen` is '10.0.0.1:1'; turn it off and make tokens, or listen on 127.0.0.1."),
        ('listen = ""\nsocket = ""', "`listen` and `socket` are both off, so nobody could reach the daemon; set one of them."),
        ("socket_mode = 660", "{file}: `socket_mode` should be an octal mode that lets the owner read and write, such as 0o660, not 0o1224."),
        ("socket_mode = 0o666", "{file}: `socket_mode` should not be 0o666: a user who may write to the socket may do everything, so it cannot be open to all users."),
        ('socket_mode = "0880"', "{file}: `socket_mode` should be an octal mode such as 0660, not '0880'."),
        ('max_body_bytes = "lots"', "{file}: `max_body_bytes` should be a number of bytes or a size such as 64MiB; it is 'lots'."),
        ("max_body_bytes = -1", "{file}: `max_body_bytes` should be a number of bytes or a size such as 64MiB; it is -1."),
        ('log_level = "loud"', "{file}: `log_level` should be 'debug', 'info', 'warning' or 'error'; it is 'loud'."),
        ('[tls]\ncertificate = "/c"', "`tls.certificate` and `tls.key` go together; set tls.key too."),
        ('[tls]\nclient_ca = "/c"', "`tls.client_ca` needs `tls.certificate` and `tls.key` as well."),
        ("roots = ", "{file} is not valid TOML: Invalid value (at end of document)."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_sentence(
    load: Load, tmp_path: Path, toml: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        load(toml)
    assert wrong.value.messages == [sentence.format(file=tmp_path / "holdfast.toml")]


def test_a_mistake_names_the_variable_or_the_flag(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"^Environment variable HOLDFAST_OPERATIONS__KEEP should"
    ):
        load(environ={"HOLDFAST_OPERATIONS__KEEP": "many"})
    with pytest.raises(ConfigError, match=r"^Flag --listen should be ADDRESS:PORT"):
        load(environ={"HOLDFAST_LISTEN": "127.0.0.1:1"}, listen="9918")
    with pytest.raises(ConfigError, match=r"^Flag --root should be an absolute path"):
        load('roots = ["/a"]', roots=["b"])


@pytest.mark.parametrize(
    "name", ["HOLDFAST_LISEN", "HOLDFAST_OPERATIONS__KEPT", "HOLDFAST_OPERATIONS"]
)
def test_a_variable_that_means_nothing_is_refused(load: Load, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^Environment variable {name} is no setting"):
        load(environ={name: "1"})


def test_all_mistakes_are_told_at_once(load: Load) -> None:
    with pytest.raises(ConfigError) as wrong:
        load("[operations]\nkeep = 0\nmax_running = 0\n")
    assert len(wrong.value.messages) == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=f"settings file {missing} does not exist"):
        load_settings(missing, environ={})
    with pytest.raises(ConfigError, match=f"settings file {tmp_path} cannot be read: Is a dir"):
        load_settings(tmp_path, environ={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml is not UTF-8"):
        load_settings(tmp_path / "binary.toml", environ={})


def test_the_check_compares_with_the_machine(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tokens = tmp_path / "tokens.json"
    flags: dict[str, Any] = {"roots": [root], "tokens_file": tokens}
    file = tmp_path / "holdfast.toml"
    file.write_text("")

    def findings() -> list[tuple[str, str]]:
        return [(finding.level, finding.message) for finding in explain(file, flags, environ={})]

    (first, second) = findings()
    assert first[0] == "warning"
    assert f"Root {root} does not exist; state would be kept in /var/lib/holdfast" in first[1]
    assert second[0] == "warning"
    assert f"`tokens_file` = {tokens} cannot be read (No such file" in second[1]
    root.mkdir()
    tokens.write_text("{}")
    assert findings() == []
    flags |= {
        "listen": "0.0.0.0:9918",
        "tls": {"certificate": tmp_path / "c.pem", "key": tmp_path / "k.pem"},
    }
    assert [level for level, _ in findings()] == ["error", "error"]
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch()
    assert findings() == []
    tokens.unlink()
    ((level, message),) = findings()
    assert level == "error"
    assert "needs tokens" in message
    file.write_text("x = 1")
    ((level, message),) = findings()
    assert (level, message) == ("error", f"{file}: `x` is no setting of holdfast.")


def test_the_state_directory_is_made_for_its_owner_only(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    state = prepare_state_dir(load(roots=[root]))
    try:
        assert state.path == root / ".holdfast"
        assert state.degraded is None
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    finally:
        state.release()


@pytest.mark.parametrize("named", [False, True])
def test_a_missing_root_leads_to_the_fallback_and_is_never_made(
    load: Load, tmp_path: Path, named: bool
) -> None:
    root, fallback = tmp_path / "volume", tmp_path / "fallback"
    state_dir = root / "sub" / "state" if named else None
    settings = load(roots=[root], fallback_state_dir=fallback, state_dir=state_dir)
    state = prepare_state_dir(settings)
    state.release()
    assert state.path == fallback
    assert state.degraded is not None
    assert f"Root {root} does not exist" in state.degraded
    assert not root.exists()


def test_a_state_directory_elsewhere_does_not_depend_on_the_roots(
    load: Load, tmp_path: Path
) -> None:
    settings = load(roots=[tmp_path / "missing"], state_dir=tmp_path / "state")
    assert locate_state_dir(settings) == (tmp_path / "state", None)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_state_directory_that_others_may_write_is_refused(
    load: Load, tmp_path: Path, mode: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    with pytest.raises(StateDirError, match="writable by other users"):
        prepare_state_dir(load(state_dir=state))


def test_a_state_directory_that_is_a_link_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to("elsewhere")
    with pytest.raises(StateDirError, match="is a symbolic link"):
        prepare_state_dir(load(state_dir=tmp_path / "state"))


def test_a_state_directory_that_is_a_file_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StateDirError, match="is not a directory"):
        prepare_state_dir(load(state_dir=tmp_path / "state"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_of_somebody_else_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 65534, 65534)
    with pytest.raises(StateDirError, match="belongs to user 65534"):
        prepare_state_dir(load(state_dir=tmp_path / "state"))


def test_one_daemon_at_a_time_and_a_killed_one_leaves_no_lock(load: Load, tmp_path: Path) -> None:
    settings = load(state_dir=tmp_path / "state")
    program = (
        "import sys; from pathlib import Path; from holdfast.config import *\n"
        f"prepare_state_dir(Settings(state_dir=Path({str(tmp_path / 'state')!r})))\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(StateDirError, match=rf"Another holdfast \(process {holder.pid}\)"):
            prepare_state_dir(settings)
        holder.kill()
        holder.wait()
    state = prepare_state_dir(settings)
    with pytest.raises(StateDirError, match=f"process {os.getpid()}"):
        prepare_state_dir(settings)
    state.release()
    prepare_state_dir(settings).release()


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
        ("https://collector.example/otlp", "https://collector.example/otlp/v1/traces"),
        ("https://collector.example/v1/traces", "https://collector.example/v1/traces"),
        ("localhost:4318", None),
        ("ftp://collector.example", None),
        ("http://user:secret@collector.example", None),
        ("https://collector.example/?token=secret", None),
    ],
)
def test_a_collector_has_an_address_without_secrets(
    load: Load, endpoint: str, url: str | None
) -> None:
    text = f'[telemetry]\nendpoint = "{endpoint}"\n'
    if url is not None:
        assert load(text).telemetry.url == url
        return
    with pytest.raises(ConfigError, match="without user, query or fragment"):
        load(text)


@pytest.mark.parametrize(
    ("endpoint", "sent"),
    [
        ("https://collector.example", True),
        ("http://127.0.0.1:4318", True),
        ("http://localhost", True),
        ("http://10.0.0.7:4318", False),
        ("http://127.0.0.1.example:4318", False),
        ("http://localhost.example", False),
    ],
)
def test_headers_of_a_collector_are_not_sent_in_the_clear(
    load: Load, endpoint: str, sent: bool
) -> None:
    text = f'[telemetry]\nendpoint = "{endpoint}"\nheaders_file = "/etc/holdfast/headers"\n'
    if sent:
        assert load(text).telemetry.endpoint == endpoint
        return
    with pytest.raises(ConfigError, match="in the clear"):
        load(text)

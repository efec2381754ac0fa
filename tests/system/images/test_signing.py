"""Keys and signatures of descriptors: ours and those of openssl are the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon.harness import run_cli
from tests.support.disks.images import run

PREFIX = b"holdfast image descriptor v1\n"


@pytest.fixture
def disk(disk_dir: Path) -> Path:
    """Give a described image."""
    disk = disk_dir / "disk.raw"
    disk.write_bytes(b"x" * 4096)
    assert run_cli("image", "describe", disk).returncode == 0
    return disk


def keygen(name: Path) -> tuple[Path, Path]:
    done = run_cli("image", "keygen", name, "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    return Path(reported["private"]), Path(reported["public"])


def verify(disk: Path, key: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return run_cli("image", "verify", disk, f"{disk}.json", "--key", key, *more)


def message(disk: Path) -> Path:
    """Write down what is signed."""
    path = disk.with_name("message")
    path.write_bytes(PREFIX + Path(f"{disk}.json").read_bytes())
    return path


def test_openssl_understands_our_keys_and_signatures(disk: Path) -> None:
    private, public = keygen(disk.with_name("release"))
    assert private.stat().st_mode & 0o777 == 0o600
    assert run("openssl", "pkey", "-in", private, "-pubout") == public.read_text()
    assert run_cli("image", "sign", f"{disk}.json", "--key", private).returncode == 0
    signature = Path(f"{disk}.json.sig")
    assert signature.stat().st_size == 64
    run("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in",
        message(disk), "-sigfile", signature)  # fmt: skip
    done = verify(disk, public)
    assert done.returncode == 0, done.stderr
    assert "signed by release" in done.stdout
    # Nothing is written over.
    again = run_cli("image", "keygen", disk.with_name("release"))
    assert (again.returncode, "exists" in again.stderr) == (1, True), again.stderr


def test_we_understand_keys_and_signatures_of_openssl(disk: Path) -> None:
    private, public = disk.with_name("o.key"), disk.with_name("o.pem")
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
    run("openssl", "pkey", "-in", private, "-pubout", "-out", public)
    run("openssl", "pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", message(disk),
        "-out", f"{disk}.json.sig")  # fmt: skip
    theirs = Path(f"{disk}.json.sig").read_bytes()
    assert verify(disk, public).returncode == 0
    assert run_cli("image", "sign", f"{disk}.json", "--key", private).returncode == 0
    assert Path(f"{disk}.json.sig").read_bytes() == theirs  # Ed25519 is deterministic


def test_what_is_signed_by_another_or_not_or_changed_is_refused(disk: Path) -> None:
    private, public = keygen(disk.with_name("release"))
    _, other = keygen(disk.with_name("other"))
    signature, descriptor = Path(f"{disk}.json.sig"), Path(f"{disk}.json")

    def refused(key: Path, why: str) -> None:
        done = verify(disk, key)
        assert (done.returncode, why in done.stderr) == (1, True), (done.stdout, done.stderr)

    refused(public, "No such file")
    assert run_cli("image", "sign", descriptor, "--key", private).returncode == 0
    refused(other, "signed by none of the trusted keys (other)")
    good = signature.read_bytes()
    signature.write_bytes(good[:-1])
    refused(public, "has 64 bytes, and this has 63")
    signature.write_bytes(bytes(64) + good)  # one of several is enough
    assert verify(disk, public).returncode == 0
    signature.write_bytes(good)
    descriptor.write_text(descriptor.read_text() + " ")
    refused(public, "signed by none of the trusted keys (release)")
    # A signature of the bare file is none of a descriptor.
    run("openssl", "pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", descriptor,
        "-out", signature)  # fmt: skip
    refused(public, "signed by none")


def test_keys_in_a_directory_that_change_count_at_once(disk: Path) -> None:
    keys = disk.with_name("keys")
    keys.mkdir()
    private, public = keygen(disk.with_name("old"))
    new, new_public = keygen(disk.with_name("new"))
    for key in (public, new_public):
        (keys / key.name).write_bytes(key.read_bytes())
    (keys / "notes.txt").write_text("no key")
    assert run_cli("image", "sign", f"{disk}.json", "--key", private).returncode == 0
    sha256 = hashlib.sha256(Path(f"{disk}.json").read_bytes()).hexdigest()
    assert json.loads(verify(disk, keys, "--json").stdout)["signed_by"] == "old"
    assert verify(disk, keys, "--sha256", sha256).returncode == 0
    done = verify(disk, keys, "--sha256", "0" * 64)
    assert (done.returncode, f"and not {'0' * 64}" in done.stderr) == (1, True)
    (keys / "old.pem").unlink()
    assert "trusted keys (new)" in verify(disk, keys).stderr
    assert run_cli("image", "sign", f"{disk}.json", "--key", new).returncode == 0
    assert json.loads(verify(disk, keys, "--json").stdout)["signed_by"] == "new"
    (keys / "new.pem").chmod(0o664)
    done = verify(disk, keys)
    assert done.returncode == 1
    assert "can be written by others than its owner" in done.stderr
    assert "There is no trusted key in" in done.stderr


def test_a_file_that_is_no_such_key_is_told_what_it_is(disk: Path) -> None:
    private, public = keygen(disk.with_name("release"))
    rsa, locked = disk.with_name("rsa.key"), disk.with_name("locked.key")
    run("openssl", "genpkey", "-quiet", "-algorithm", "ec", "-pkeyopt",
        "ec_paramgen_curve:P-256", "-out", rsa)  # fmt: skip
    run("openssl", "pkey", "-in", private, "-aes256", "-passout", "pass:x", "-out", locked)
    for file, why in (
        (rsa, "is not an Ed25519 key"),
        (locked, "take the passphrase off first"),
        (public, "has a PUBLIC KEY and not a PRIVATE KEY"),
        (disk, "is no PEM file"),
    ):
        done = run_cli("image", "sign", f"{disk}.json", "--key", file)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert run_cli("image", "sign", f"{disk}.json", "--key", private).returncode == 0
    done = verify(disk, private)
    assert "has a PRIVATE KEY and not a PUBLIC KEY" in done.stderr
    # Only a descriptor is signed.
    done = run_cli("image", "sign", disk, "--key", private)
    assert (done.returncode, "not an image descriptor" in done.stderr) == (1, True), done.stderr
    assert not Path(f"{disk}.sig").exists()

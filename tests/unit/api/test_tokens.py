from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.api.http.callers.tokens import (
    Scope,
    TokenError,
    TokenStore,
    create,
    list_tokens,
    revoke,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "made" / "tokens.json"


def test_a_token_is_found_by_its_secret_alone(file: Path) -> None:
    secret = create(file, "ci", Scope.OPERATE)
    store = TokenStore(file)
    found = store.find(secret)
    assert found is not None
    assert (found.name, found.scope, found.expires_at) == ("ci", Scope.OPERATE, None)
    assert store.find(secret[:-1]) is None
    assert store.find("") is None
    assert store.find(found.sha256) is None


def test_the_file_has_no_secret_and_is_private(file: Path) -> None:
    secrets = [create(file, name, Scope.READ) for name in ("a", "b")]
    text = file.read_text()
    assert all(secret not in text and secret.removeprefix("hf_") not in text for secret in secrets)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [token.name for token in list_tokens(file)] == ["a", "b"]
    assert list(file.parent.iterdir()) == [file]


def test_tokens_are_long_and_differ(file: Path) -> None:
    secrets = {create(file, str(number), Scope.READ) for number in range(20)}
    assert len(secrets) == 20
    assert all(len(secret.removeprefix("hf_")) >= 43 for secret in secrets)


@pytest.mark.parametrize("name", ["", " x", "x\n", "x" * 65, "x\x00y"])
def test_names_that_would_confuse_are_refused(file: Path, name: str) -> None:
    with pytest.raises(TokenError, match="1 to 64 printable"):
        create(file, name, Scope.READ)
    assert not file.exists()


def test_a_name_is_used_once(file: Path) -> None:
    create(file, "ci", Scope.READ)
    with pytest.raises(TokenError, match="already a token named 'ci'"):
        create(file, "ci", Scope.ADMIN)
    assert len(list_tokens(file)) == 1


def test_revoking(file: Path) -> None:
    secret, other = create(file, "ci", Scope.READ), create(file, "x", Scope.READ)
    store = TokenStore(file)
    assert store.find(secret) is not None
    assert revoke(file, "ci").name == "ci"
    assert store.find(secret) is None
    assert store.find(other) is not None
    with pytest.raises(TokenError, match="no token named 'ci'; there is 'x'"):
        revoke(file, "ci")


def test_expiry(file: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    secret = create(file, "ci", Scope.READ, soon)
    found = TokenStore(file).find(secret)
    assert found is not None
    assert not found.expired()
    assert found.expired(soon)
    with pytest.raises(TokenError, match="expired already"):
        create(file, "late", Scope.READ, datetime.now(UTC) - timedelta(seconds=1))


def test_a_time_without_zone_is_utc(file: Path) -> None:
    create(file, "ci", Scope.READ, datetime(2999, 1, 1))
    assert list_tokens(file)[0].expires_at == datetime(2999, 1, 1, tzinfo=UTC)


def test_the_store_reads_again_only_when_the_file_changed(file: Path) -> None:
    secret = create(file, "ci", Scope.READ)
    store = TokenStore(file)
    assert store.find(secret) is not None
    file.unlink()
    assert store.find(secret) is None
    second = create(file, "again", Scope.ADMIN)
    assert store.find(secret) is None
    found = store.find(second)
    assert found is not None
    assert found.scope is Scope.ADMIN


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"version": 2, "tokens": []}', '{"version": 1, "tokens": [{"name": "x"}]}', "[]"],
)
def test_a_damaged_file_lets_nobody_in_and_says_so(file: Path, text: str) -> None:
    secret = create(file, "ci", Scope.READ)
    store = TokenStore(file)
    file.write_text(text)
    for _ in range(2):
        with pytest.raises(TokenError, match="is damaged"):
            store.find(secret)
    with pytest.raises(TokenError, match="is damaged"):
        create(file, "new", Scope.READ)
    assert file.read_text() == text


def test_a_file_that_others_can_write_is_not_trusted(file: Path) -> None:
    secret = create(file, "ci", Scope.READ)
    file.chmod(0o620)
    with pytest.raises(TokenError, match="writable by other users"):
        TokenStore(file).find(secret)


def test_tokens_made_at_the_same_time_are_all_kept(file: Path) -> None:
    names = [f"t{number}" for number in range(12)]
    threads = [threading.Thread(target=create, args=(file, name, Scope.READ)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in list_tokens(file)) == sorted(names)


def test_scopes_include_the_lesser_ones() -> None:
    allowed = {(have, need) for have in Scope for need in Scope if have.includes(need)}
    assert allowed == {
        (Scope.READ, Scope.READ),
        (Scope.OPERATE, Scope.READ),
        (Scope.OPERATE, Scope.OPERATE),
        (Scope.ADMIN, Scope.READ),
        (Scope.ADMIN, Scope.OPERATE),
        (Scope.ADMIN, Scope.ADMIN),
        (Scope.ADMIN, Scope.IMAGES),
        (Scope.IMAGES, Scope.IMAGES),
    }


def test_the_file_is_documented_json(file: Path) -> None:
    create(file, "ci", Scope.READ)
    content = json.loads(file.read_text())
    assert content["version"] == 1
    assert set(content["tokens"][0]) == {"name", "scope", "sha256", "created_at", "expires_at"}

"""The examples of the page on the client are run, in order, as they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast_client import client, errors
from holdfast_client.routes.table import TABLE
from holdfast_client.testing import FakeNode, Reimaging
from tests.support.machine.ground import CHECKOUT
from tests.support.servers.certificates import Authority

PAGE = CHECKOUT / "docs" / "client.md"


def test_each_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text().replace("/etc/ssl/fleet.pem", str(Authority(tmp_path, "fleet").file))
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {}
    with FakeNode() as fake:
        monkeypatch.setattr(client, "SOCKET", fake.socket)
        fake.reimaging = Reimaging(down=0.05, imaging=0.05)
        for number, block in enumerate(blocks):
            exec(compile(ast.parse(block), f"client.md, block {number}", "exec"), names)
        assert names["done"].kind == "reimage"
        assert names["done"].state == "succeeded"
        names["node"].close()


def test_groups_and_exceptions_are_named() -> None:
    page = PAGE.read_text()
    assert all(f"`{group}`" in page for group in {name.partition(".")[0] for *_, name, _ in TABLE})
    made = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, errors.HoldfastError)
        and (value is errors.ProblemError or not issubclass(value, errors.ProblemError))
    }
    assert all(f"`{name}`" in page for name in made - {"OperationError"})

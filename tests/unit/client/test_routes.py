"""The client has a method for every route, and an exception for every problem."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import generate_routes as generate
from holdfast import __version__
from holdfast.operations.model import Slug
from holdfast_client import AsyncClient, Client, errors
from holdfast_client.routes.table import TABLE
from holdfast_client.testing.script import problem
from tests.support.daemon.api import served

CLIENT = Path(__file__).parents[3] / "client"
PACKAGE = CLIENT / "holdfast_client"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with served(tmp_path_factory.mktemp("routes")) as server, server.http() as http:
        found: dict[str, Any] = http.get("/openapi.json").json()
        return found


@pytest.fixture(scope="module")
def routes(document: dict[str, Any]) -> list[generate.Route]:
    return list(generate.routes(document))


def test_what_is_generated_is_that_of_the_document(
    document: dict[str, Any], tmp_path: Path
) -> None:
    generate.write(document, tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (PACKAGE / "routes" / file.name).read_text(), (
            f"run `make client-routes`: {file.name}"
        )


def test_every_route_has_a_method_with_its_parameters(routes: list[generate.Route]) -> None:
    known = {(method, path): name for method, path, name, _ in TABLE}
    missing = {(route.method, route.path) for route in routes} ^ set(known)
    assert not missing, f"run `make client-routes`: {missing}"
    with Client(socket="/nowhere") as blocking:
        waiting = AsyncClient(socket="/nowhere")
        for route in routes:
            group, _, name = known[route.method, route.path].partition(".")
            expected = {*route.ids, *(each.name for each in (*route.query, *route.body))}
            for client in (blocking, waiting):
                method = getattr(getattr(client, group), name)
                taken = inspect.signature(method).parameters
                assert expected <= set(taken), f"run `make client-routes`: {route.path}"
                assert ("idempotency_key" in taken) == (route.method == "POST"), route.path


def test_both_clients_have_one_surface() -> None:
    def surface(client: Client | AsyncClient) -> dict[str, Any]:
        return {
            f"{group}.{name}": list(inspect.signature(method).parameters)
            for group, routes in vars(client).items()
            if not group.startswith("_")
            for name, method in inspect.getmembers(routes, callable)
            if not name.startswith("_")
        }

    with Client(socket="/nowhere") as client:
        assert surface(client) == surface(AsyncClient(socket="/nowhere"))


def test_every_problem_has_an_exception() -> None:
    assert set(errors.BY_SLUG) - {""} == {slug.value for slug in Slug}
    for slug in Slug:
        assert problem(slug.value, "x")["status"] == slug.status
        assert type(errors.problem_error(slug.status, problem(slug.value, "x"))).slug == slug.value
    unknown = errors.problem_error(418, {"type": "/problems/newer", "detail": "It is newer."})
    assert type(unknown) is errors.ProblemError
    assert str(unknown) == "It is newer."


def test_it_imports_nothing_of_the_agent() -> None:
    allowed = {"holdfast_client", "httpx", "httpcore", "typing_extensions"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, (path, name)


def test_the_wheel_is_small_pure_and_typed(tmp_path: Path) -> None:
    pytest.importorskip("flit_core", reason="flit_core is not installed")
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert project["requires-python"] == ">=3.10"
    command = [sys.executable, "-m", "flit_core.wheel", "--outdir", str(tmp_path), str(CLIENT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / f"holdfast_client-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= 150 << 10
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"holdfast_client/py.typed", "holdfast_client/testing/node.py"} <= names
    assert not any(name.startswith("generate") for name in names)

"""The OpenAPI document, as validators and generators of clients read it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.api.app import ROUTERS
from holdfast.api.contract.routing import fixed_parts
from holdfast.operations.kinds import Registry
from tests.support.daemon.api import served


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Registry]:
    with served(tmp_path_factory.mktemp("contract")) as server, server.http() as client:
        return client.get("/openapi.json").json(), server.services.operations.registry


@pytest.fixture(scope="module")
def document(contract: tuple[dict[str, Any], Registry]) -> dict[str, Any]:
    return contract[0]


@pytest.fixture(scope="module")
def kinds(contract: tuple[dict[str, Any], Registry]) -> Registry:
    return contract[1]


@pytest.fixture(scope="module")
def file(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(document))
    return path


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from walk(member)
    elif isinstance(value, list):
        for member in value:
            yield from walk(member)


@pytest.mark.skipif(
    importlib.util.find_spec("openapi_spec_validator") is None,
    reason="openapi-spec-validator is not installed",
)
def test_it_is_valid_by_an_independent_validator(file: Path) -> None:
    command = [sys.executable, "-m", "openapi_spec_validator", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which("openapi-python-client") is None, reason="openapi-python-client is not installed"
)
def test_a_client_is_generated_from_all_of_it(
    document: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "client"
    command = ["openapi-python-client", "generate", "--path", str(file), "--meta", "none"]
    done = subprocess.run(
        [*command, "--output-path", str(output), "--fail-on-warning"],
        capture_output=True,
        text=True,
        check=False,
    )
    reported = done.stdout + done.stderr
    assert "WARNING" not in reported, reported
    assert "Unable to parse" not in reported, reported
    made = {path.stem for path in output.glob("api/*/*.py")} - {"__init__"}
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    named = {
        re.sub(r"(?<!^)(?=[A-Z])", "_", operation["operationId"]).lower()
        for operation in operations
    }
    assert made == named


def test_every_schema_has_a_name_and_a_title_of_its_own(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert all(re.fullmatch(r"[A-Za-z0-9]+", name) for name in schemas)
    titles = Counter(schema["title"] for schema in schemas.values())
    assert [title for title, count in titles.items() if count > 1] == []
    assert {"TuningRollbackRequest", "ReimageRollbackRequest"} <= set(schemas)
    referred = {node["$ref"] for node in walk(document) if isinstance(node.get("$ref"), str)}
    assert referred <= {f"#/components/schemas/{name}" for name in schemas}


def test_parameters_and_results_are_typed_by_the_kind(
    document: dict[str, Any], kinds: Registry
) -> None:
    schemas = document["components"]["schemas"]
    mapping = schemas["Operation"]["discriminator"]["mapping"]
    assert "pagecache.dump" in mapping
    assert set(mapping) == set(kinds.names()) == set(schemas["OperationKind"]["enum"])
    assert [variant["$ref"] for variant in schemas["Operation"]["oneOf"]] == list(mapping.values())
    for kind, reference in mapping.items():
        members = schemas[reference.rpartition("/")[2]]["properties"]
        assert members["kind"]["const"] == kind
        params, result = (
            schemas[schema["$ref"].rpartition("/")[2]]
            for schema in (members["params"], members["result"]["anyOf"][0])
        )
        assert set(params["properties"]) == set(kinds.get(kind).params.model_fields)
        assert set(result["properties"]) == set(kinds.get(kind).result.model_fields)
        for name, member in result["properties"].items():
            assert "description" in member or "$ref" in member, (kind, name)
    summary = schemas["OperationSummary"]["properties"]
    assert summary["kind"] == {"$ref": "#/components/schemas/OperationKind"}
    assert "result" not in summary


def test_times_are_times_and_paths_begin_with_a_slash(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ManifestVerifyOperation", "OperationSummary", "TuningState", "Transition"):
        for member, schema in schemas[name]["properties"].items():
            if member.endswith("_at") or member == "at":
                found = [schema, *schema.get("anyOf", ())]
                assert any(schema_.get("format") == "date-time" for schema_ in found), (
                    name,
                    member,
                )
    for name, member in (
        ("BuildRequest", "path"),
        ("DumpRequest", "root"),
        ("EvictRequest", "paths"),
    ):
        assert "^/" in {node.get("pattern") for node in walk(schemas[name]["properties"][member])}


def test_uploads_have_a_body_of_bytes(document: dict[str, Any]) -> None:
    for path in ("/v1/manifests/{manifest_id}/content", "/v1/pagecache/dumps/{dump_id}/content"):
        body = document["paths"][path]["put"]["requestBody"]
        assert body["content"] == {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
        }
        assert "application/zstd" in body["description"]


def test_only_parts_that_stand_beside_an_id_are_no_ids() -> None:
    paths = [path for router in ROUTERS for path in router.paths]
    assert fixed_parts("/v1/manifests/{manifest_id}", paths) == {"comparisons", "reports"}
    assert fixed_parts("/v1/tuning/profiles/{name}", paths) == set()

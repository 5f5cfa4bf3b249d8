"""The API does what its own OpenAPI document says, whatever it is asked."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from ingestion_dagster.api.app import create_app
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.asking import answering
from ingestion_dagster_tests.api.catalog_scene import Scene, database, module_database

__all__ = ["database", "module_database"]

CHECKED = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
"""What is left out needs more than one request, or takes every body that fits the schema for one that must be done."""

EXAMPLES = 25
OPERATIONS = {
    ("GET", "/"), ("GET", "/task"), ("POST", "/task"), ("GET", "/task/{task_id}"), ("GET", "/stat/{name}"), ("DELETE", "/state"),
    ("POST", "/worker_finished"),
}  # fmt: skip


@pytest.fixture
def url(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An API with an index and an alias, that takes as many requests as come."""
    monkeypatch.setenv("INGESTION_CATALOG_UPSTREAM_URL", database.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_CATALOG_API_DATABASE_URL", database.sqlalchemy_url)
    monkeypatch.setenv("INGESTION_API_REQUESTS_PER_SECOND", "100000")
    scene = Scene(current())
    scene.index("image-a", "image")
    with answering(create_app(scene.settings, catalog_desk=scene.desk())) as client:
        yield f"http://127.0.0.1:{client.port}"
    scene.launcher.join()


def operations(url: str) -> dict[tuple[str, str], Any]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    made: list[Any] = list(schema.get_all_operations())
    return {key: each.ok() for each in made if (key := (each.ok().method.upper(), each.ok().path)) in OPERATIONS}


def asked(operation: Any, mode: GenerationMode, url: str, checks: list[Any]) -> set[int]:
    """Ask what the document allows, or what it does not; the statuses of the answers."""
    statuses: set[int] = set()

    @hypothesis_settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=url)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    ask()
    return statuses


def test_every_answer_is_one_that_the_document_tells_of(url: str):
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ in CHECKED]
    assert len(checks) == len(CHECKED)
    found = operations(url)
    assert set(found) == OPERATIONS
    statuses = {key: asked(operation, GenerationMode.POSITIVE, url, checks) for key, operation in found.items()}
    for key in (("POST", "/task"), ("GET", "/")):
        statuses[key] |= asked(found[key], GenerationMode.NEGATIVE, url, checks)
    assert statuses["POST", "/task"] >= {202, 400, 422}
    assert statuses["GET", "/"] == {200, 400}
    assert statuses["GET", "/stat/{name}"] == {200}
    assert statuses["GET", "/task/{task_id}"] == {404}
    assert statuses["POST", "/worker_finished"] == {410}

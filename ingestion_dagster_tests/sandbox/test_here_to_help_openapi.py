"""The OpenAPI document says what the server does: no route without a description, none described that is not there."""

from typing import Any

import pytest

from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.sandbox.here_to_help_openapi import document
from ingestion_dagster_tests.sandbox.asking import Answer, Client

jsonschema = pytest.importorskip("jsonschema", reason="comes with moto")
METHODS = {"get", "post", "patch", "put", "delete"}
PERSON = {"FirstName": "Testy", "NhsNumber": "9990000115", "HelpNeeded": "Shielding", "Metadata": {"nsss_id": "1"}, "CaseNotes": "n"}

# Method, path as described, path as asked, body.
CALLS: list[tuple[str, str, str, dict[str, Any] | None]] = [
    ("GET", "/api/v3/healthcheck/ping", "", None),
    ("POST", "/api/v3/help-requests", "", PERSON),
    ("POST", "/api/v3/help-requests", "", {"FirstName": 5}),
    ("POST", "/api/v3/help-requests", "", {"NhsCtasId": "1"}),
    ("GET", "/api/v3/help-requests/{id}", "/api/v3/help-requests/1", None),
    ("GET", "/api/v3/help-requests/{id}", "/api/v3/help-requests/9", None),
    ("PATCH", "/api/v3/help-requests/{id}", "/api/v3/help-requests/1", {"FirstName": "New"}),
    ("GET", "/api/v4/residents", "", None),
    ("POST", "/api/v4/residents", "", {"NhsNumber": "9990000115"}),
    ("GET", "/api/v4/residents/{rid}", "/api/v4/residents/1", None),
    ("GET", "/api/v4/residents/{rid}", "/api/v4/residents/9", None),
    ("PATCH", "/api/v4/residents/{rid}", "/api/v4/residents/1", {"LastName": "New"}),
    ("GET", "/api/v4/residents/{rid}/case-notes", "/api/v4/residents/1/case-notes", None),
    ("GET", "/api/v4/residents/{rid}/help-requests", "/api/v4/residents/1/help-requests", None),
    ("POST", "/api/v4/residents/{rid}/help-requests", "/api/v4/residents/1/help-requests", {"HelpNeeded": "EUSS"}),
    ("POST", "/api/v4/residents/{rid}/help-requests", "/api/v4/residents/9/help-requests", {}),
    ("GET", "/api/v4/residents/{rid}/help-requests/{hid}", "/api/v4/residents/1/help-requests/1", None),
    ("GET", "/api/v4/residents/{rid}/help-requests/{hid}", "/api/v4/residents/9/help-requests/1", None),
    ("GET", "/api/v4/residents/{rid}/help-requests/{hid}/case-notes", "/api/v4/residents/1/help-requests/1/case-notes", None),
    ("POST", "/api/v4/residents/{rid}/help-requests/{hid}/case-notes", "/api/v4/residents/1/help-requests/1/case-notes", {"CaseNote": "n"}),
]


def described() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, calls in document()["paths"].items() for method in calls if method in METHODS}


def fits(answer: Answer, method: str, path: str) -> None:
    """Raises for an answer that is not described, or not as it is described."""
    whole = document()
    response = whole["paths"][path][method.lower()]["responses"][str(answer.status)]
    if "$ref" in response:
        response = whole["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if "content" not in response:
        assert answer.body == b""
        return
    schema = response["content"][answer.headers["Content-Type"].partition(";")[0]]["schema"]
    jsonschema.Draft202012Validator(schema | {"components": whole["components"]}).validate(answer.json)


def test_every_route_is_described_and_the_other_way_round(api: HereToHelp):
    there = {
        (route.method, route.resource.canonical)
        for route in api.app().router.routes()
        if route.resource and route.resource.canonical.startswith("/api/")
    }
    assert there == described()


def test_every_call_that_is_described_is_tried_here():
    assert {(method, path) for method, path, _, _ in CALLS} == described()


@pytest.mark.parametrize("path", ["/swagger/v1/swagger.json", "/openapi.json"])
def test_it_is_served_and_all_its_references_lead_somewhere(client: Client, path: str):
    served = client.get(path)
    assert served == document()
    assert served["openapi"].startswith("3.")

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for each in value.values() for found in references(each)]
        return [found for each in value for found in references(each)] if isinstance(value, list) else []

    for reference in references(served):
        _, _, section, name = reference.split("/")
        assert name in served["components"][section]
    for schema in served["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_answers_are_as_described(client: Client):
    for method, path, asked, body in CALLS:
        fits(client.ask(method, asked or path, body), method, path)
    for method, path, asked, body in CALLS:
        fits(client.ask(method, asked or path, body, key="wrong"), method, path)
    client.set(rate=0.001, burst=0)
    for method, path, asked, body in CALLS:
        fits(client.ask(method, asked or path, body), method, path)


def test_an_answer_that_is_not_as_described_is_found_out():
    answer = Answer(201, {"Content-Type": "application/json"}, b'{"Id": "1"}')
    with pytest.raises(jsonschema.ValidationError):
        fits(answer, "POST", "/api/v3/help-requests")

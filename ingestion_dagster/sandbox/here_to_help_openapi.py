"""The OpenAPI document of the sandbox's Here to Help API, by which a client can be written or checked."""

from typing import Any

from ingestion_dagster.sandbox.here_to_help_schema import ADD_REQUEST, ANYTHING, BOOLEAN, CREATE, DATE_TIME, NOTE, REQUEST, RESIDENT, SEARCH

Json = dict[str, Any]

_INTEGER: Json = {"type": "integer", "format": "int32"}
_TEXT: Json = {"type": ["string", "null"]}
_TYPES: dict[str, Json] = {
    BOOLEAN: {"type": ["boolean", "null"]},
    DATE_TIME: {"type": ["string", "null"], "format": "date-time"},
    ANYTHING: {},
}
_SHOWN: dict[str, Json] = {
    "CaseNotes": {
        "type": "string",
        "description": "The notes as they are stored, joined by a comma and a blank between brackets: JSON only if each of them is.",
    },
    "AssignedTo": _TEXT,
    "Metadata": {"type": ["string", "null"], "description": "JSON as text."},
    "HelpRequestCalls": {"type": "array", "items": {"type": "object"}},
}
_IDS = {"Id": _INTEGER, "ResidentId": _INTEGER}


def document() -> Json:
    """The document: OpenAPI 3.1, whose schemas are JSON Schema."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Here to Help API (sandbox)", "version": "3.0"},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
            "schemas": _schemas(),
            "responses": {
                "Malformed": _response("The body or an id cannot be read.", "Problem", "application/problem+json"),
                "Forbidden": _response("The key is missing or wrong.", "Message"),
                "NotFound": _response("There is no such thing.", "Problem", "application/problem+json"),
                "Throttled": _response("More calls than the usage plan allows.", "Message"),
                "Failed": {"description": "What it is about does not exist, or it cannot be kept."},
            },
        },
    }


def _paths() -> Json:
    resident, request = _path_id("rid"), _path_id("hid")
    shown = {"name": "includeType", "in": "query", "schema": {"enum": ["EUSS"]}, "description": "Also requests of this kind."}
    searched = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in SEARCH]
    created = {"description": "The id of the request that was created, or of the one that it is found to be.", **_content("Created")}
    place = {"Location": {"schema": {"type": "string"}}}
    flat = {"200": _response("The request and the person.", "HelpRequest"), "404": _reference("responses", "NotFound")}
    unknown = {"404": _response("There is no such person.", "Text")}
    failed = {"500": _reference("responses", "Failed")}
    not_kept = {
        "400": _response("It could not be read (problem) or not be kept (text).", "Text", also=("application/problem+json", "Problem"))
    }
    one = "/api/v4/residents/{rid}"
    return {
        "/api/v3/healthcheck/ping": {"get": _call("Whether it is there", {"200": _response("It is.", "Ping")})},
        "/api/v3/help-requests": {
            "post": _call("A request, and the person it is of", {"201": {**created, "headers": place}} | not_kept, body="CreateHelpRequest")
        },
        "/api/v3/help-requests/{id}": {
            "parameters": [_path_id("id")],
            "get": _call("A request with the person", flat),
            "patch": _call("Overwrite what is not null", flat | not_kept, body="CreateHelpRequest"),
        },
        "/api/v4/residents": {
            "get": _call("Those who have all that is asked for", {"200": _list_of("Resident")}, parameters=searched),
            "post": _call("A person, unless known", {"201": _response("The person.", "Resident")} | failed, body="ResidentFields"),
        },
        one: {
            "parameters": [resident],
            "get": _call("A person", {"200": _response("The person.", "Resident")} | unknown),
            "patch": _call(
                "Overwrite what is not null", {"200": _response("The person.", "Resident")} | unknown | failed, body="ResidentFields"
            ),
        },
        f"{one}/case-notes": {
            "parameters": [resident],
            "get": _call("The notes on a person's requests", {"200": _list_of("CaseNote")}, parameters=[shown]),
        },
        f"{one}/help-requests": {
            "parameters": [resident],
            "get": _call("A person's requests", {"200": _list_of("ResidentHelpRequest")}, parameters=[shown]),
            "post": _call(
                "A request more, whatever there is", {"201": _response("Its id.", "Number")} | failed, body="CreateResidentHelpRequest"
            ),
        },
        f"{one}/help-requests/{{hid}}": {
            "parameters": [resident, request],
            "get": _call("A request of a person; an empty one if it is another's", {"200": _response("It.", "ResidentHelpRequest")}),
        },
        f"{one}/help-requests/{{hid}}/case-notes": {
            "parameters": [resident, request],
            "get": _call("The notes on a request", {"200": _list_of("CaseNote")}),
            "post": _call("A note more", {"201": _response("The note.", "CreatedCaseNote")} | failed, body="CreateCaseNote"),
        },
    }


def _schemas() -> Json:
    note: Json = {"Id": _INTEGER, "ResidentId": _INTEGER, "HelpRequestId": _INTEGER, "CaseNote": _TEXT}
    nothing = {"CaseNotes": _TEXT, "HelpRequestCalls": {"type": ["array", "null"], "items": {"type": "object"}}}
    return {
        "Text": {"type": "string"},
        "Number": _INTEGER,
        "Ping": _whole({"success": {"type": "boolean"}}),
        "Message": _whole({"message": {"type": "string"}}),
        "Problem": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": _INTEGER, "errors": {"type": "object"}},
            "required": ["title", "status"],
        },
        "Created": _whole({"Id": _INTEGER}),
        "CreateHelpRequest": _given(CREATE),
        "CreateResidentHelpRequest": _given(ADD_REQUEST),
        "CreateCaseNote": _given(NOTE),
        "ResidentFields": _given(RESIDENT),
        "Resident": _whole({"Id": _INTEGER, **_fields(RESIDENT)}),
        "HelpRequest": _whole({**_IDS, **_fields(RESIDENT), **_fields(REQUEST), **_SHOWN}),
        "ResidentHelpRequest": _whole({**_IDS, **_fields(REQUEST), **_SHOWN, **nothing}),
        "CaseNote": _whole(note),
        "CreatedCaseNote": _whole({**note, "HelpNeeded": _TEXT}),
    }


def _fields(fields: dict[str, str]) -> Json:
    return {name: _TYPES.get(kind, _TEXT) for name, kind in fields.items()}


def _given(fields: dict[str, str]) -> Json:
    """A body: whatever of the fields; names in any case, and others are passed over."""
    return {"type": "object", "properties": _fields(fields)}


def _whole(properties: Json) -> Json:
    """An answer: all of the fields, and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _reference(section: str, name: str) -> Json:
    return {"$ref": f"#/components/{section}/{name}"}


def _content(schema: str, media: str = "application/json", also: tuple[str, str] | None = None) -> Json:
    content = {media: {"schema": _reference("schemas", schema)}}
    if also:
        content[also[0]] = {"schema": _reference("schemas", also[1])}
    return {"content": content}


def _response(description: str, schema: str, media: str = "application/json", also: tuple[str, str] | None = None) -> Json:
    return {"description": description, **_content(schema, media, also)}


def _list_of(schema: str) -> Json:
    items = {"type": "array", "items": _reference("schemas", schema)}
    return {"description": "In the order of ids.", "content": {"application/json": {"schema": items}}}


def _path_id(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _INTEGER}


def _call(summary: str, responses: Json, body: str | None = None, parameters: list[Json] | None = None) -> Json:
    common = {
        "400": _reference("responses", "Malformed"),
        "403": _reference("responses", "Forbidden"),
        "429": _reference("responses", "Throttled"),
    }
    call: Json = {"summary": summary, "responses": common | responses}
    if body:
        call["requestBody"] = {"required": True, **_content(body)}
    if parameters:
        call["parameters"] = parameters
    return call

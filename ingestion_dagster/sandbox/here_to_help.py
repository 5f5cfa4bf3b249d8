"""The Here to Help API of the sandbox: an HTTP server that keeps residents, help requests and case notes as the real one was observed to.

What is below /api/ takes a key and is limited by a usage plan; what is below /admin takes neither: it makes the rest slow, scarce or
faulty, and tells what was asked and what is kept. State outlives the process, in a file beside the address file.
"""

import asyncio
import hmac
from dataclasses import dataclass, field

from aiohttp import web

from ingestion_dagster.sandbox import serving
from ingestion_dagster.sandbox.faults import UNTOLD, Faults
from ingestion_dagster.sandbox.here_to_help_answers import (
    Answered,
    as_json,
    body_of,
    malformed,
    not_saved,
    path_id,
    problem,
    words,
)
from ingestion_dagster.sandbox.here_to_help_openapi import document
from ingestion_dagster.sandbox.here_to_help_schema import ADD_REQUEST, CREATE, NOTE, REQUEST, RESIDENT, SEARCH, Body, Malformed
from ingestion_dagster.sandbox.here_to_help_store import NotKept, Store
from ingestion_dagster.sandbox.serving import Handler
from ingestion_dagster.sandbox.switchboard import Switchboard
from ingestion_dagster.sandbox.usage import Settings

KEY = "sandbox-here-to-help"
_NOBODYS = {"Id": 0, "ResidentId": 0, **dict.fromkeys((*REQUEST, "CaseNotes", "AssignedTo", "Metadata")), "HelpRequestCalls": None}
"""A request that is not that resident's: an empty one, and no error."""

_KINDS = UNTOLD | {"429", "500", "503", "403", "lost", "slow_then_ok", "bad_json"}
KINDS = {
    **dict.fromkeys(("get", "notes", "note", "list", "add_request", "search", "resident", "patch", "ping"), _KINDS),
    "create": _KINDS | {"partial"},
}
"""Which faults there are, by operation. `partial` keeps the resident of a create call and fails at the request."""


@dataclass
class HereToHelp:
    """The state of the server: what it keeps, how it is set, and what is to go wrong."""

    store: Store = field(default_factory=Store)
    settings: Settings = field(default_factory=Settings)
    faults: Faults = field(default_factory=lambda: Faults(KINDS, words))
    token: str = ""
    switchboard: Switchboard = field(init=False)

    def __post_init__(self) -> None:
        self.switchboard = Switchboard(self.faults, self.settings)
        self.calls = self.switchboard.calls

    def routes(self) -> list[tuple[str, str, str, Handler]]:
        """The calls below /api/: method, path, the operation that faults and counts know it by, and what answers."""
        residents, requests = "/api/v4/residents", "/api/v4/residents/{rid}/help-requests"
        return [
            ("GET", "/api/v3/healthcheck/ping", "ping", self._ping),
            ("POST", "/api/v3/help-requests", "create", self._create),
            ("GET", "/api/v3/help-requests/{id}", "get", self._get),
            ("PATCH", "/api/v3/help-requests/{id}", "patch", self._patch),
            ("GET", residents, "search", self._search),
            ("POST", residents, "resident", self._create_resident),
            ("GET", f"{residents}/{{rid}}", "resident", self._get_resident),
            ("PATCH", f"{residents}/{{rid}}", "resident", self._patch_resident),
            ("GET", f"{residents}/{{rid}}/case-notes", "notes", self._notes_of_resident),
            ("GET", requests, "list", self._list),
            ("POST", requests, "add_request", self._add_request),
            ("GET", f"{requests}/{{hid}}", "list", self._get_of_resident),
            ("GET", f"{requests}/{{hid}}/case-notes", "notes", self._notes),
            ("POST", f"{requests}/{{hid}}/case-notes", "note", self._add_note),
        ]

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(middlewares=[self._api])
        for method, path, operation, handler in self.routes():
            app.router.add_route(method, path, self._gate(operation, handler))
        app.router.add_get("/healthz", self._health)
        for path in ("/swagger/v1/swagger.json", "/openapi.json"):
            app.router.add_get(path, self._openapi)
        app.router.add_get("/admin/counts", self._admin_counts)
        app.router.add_get("/admin/dump", self._admin_dump)
        app.router.add_post("/admin/reset", self._admin_reset)
        for method, path, handler in self.switchboard.routes():
            app.router.add_route(method, f"/admin/{path}", handler)
        return app

    @web.middleware
    async def _api(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The key before all else, even before what there is no route for."""
        if not request.path.startswith("/api/"):
            return await handler(request)
        if not hmac.compare_digest(request.headers.get("x-api-key", "").encode(errors="surrogateescape"), KEY.encode()):
            self.calls.came()
            self.calls.went("any", "403")
            return as_json({"message": "Forbidden"}, 403)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return problem(404, "Not Found")
        except web.HTTPMethodNotAllowed:
            return problem(405, "Method Not Allowed")

    def _gate(self, operation: str, handler: Handler) -> Handler:
        own = {"partial": _answered(self._half_create)} if operation == "create" else {}
        return self.switchboard.gate(operation, _answered(handler), own)

    async def _race(self) -> None:
        """The gap between looking and doing, in which another call may do the same."""
        if self.settings.race_ms:
            await asyncio.sleep(self.settings.race_ms / 1000)

    async def _ping(self, _request: web.Request) -> web.Response:
        return as_json({"success": True})

    async def _create(self, request: web.Request) -> web.Response:
        body = await body_of(request, CREATE)
        try:
            resident_id = await self._merged(body)
            request_id = self.store.find_request(resident_id, body)
            await self._race()
            if request_id is None:
                request_id = self.store.create_request(resident_id, body)
            if body.get("CaseNotes") is not None:
                self.store.add_note(resident_id, request_id, body["CaseNotes"])
        except NotKept:
            return not_saved("Record not created")
        return as_json({"Id": request_id}, 201, f"api/v3/help-requests/{request_id}")

    async def _half_create(self, request: web.Request) -> web.Response:
        """A create call that fails between person and request."""
        await self._merged(await body_of(request, CREATE))
        return web.Response(status=500)

    async def _merged(self, body: Body) -> int:
        """The person that a body is about, patched with it if known, else new."""
        resident_id = self.store.find_resident(body)
        await self._race()
        if resident_id is None:
            return self.store.create_resident(body)
        self.store.patch_resident(resident_id, body, append_phones=True)
        return resident_id

    async def _get(self, request: web.Request) -> web.Response:
        return as_json(self._flat(path_id(request, "id")))

    def _flat(self, request_id: int) -> Body:
        found = self.store.request(request_id)
        if found is None:
            raise Answered(problem(404, "Not Found"))
        resident = self.store.resident(found["ResidentId"]) or {}
        return {"Id": found["Id"], "ResidentId": found["ResidentId"], **resident, **found}

    async def _patch(self, request: web.Request) -> web.Response:
        request_id = path_id(request, "id")
        body = await body_of(request, CREATE)
        resident_id = self._flat(request_id)["ResidentId"]
        try:
            self.store.patch_resident(resident_id, body, append_phones=False)
            self.store.patch_request(request_id, body)
            if body.get("CaseNotes") is not None:
                self.store.patch_first_note(resident_id, request_id, body["CaseNotes"])
        except NotKept:
            return not_saved("Record not updated")
        return as_json(self._flat(request_id))

    async def _search(self, request: web.Request) -> web.Response:
        names = {name.lower(): name for name in SEARCH}
        query = {names[key.lower()]: value for key, value in request.query.items() if key.lower() in names}
        return as_json(self.store.search(query))

    async def _create_resident(self, request: web.Request) -> web.Response:
        body = await body_of(request, RESIDENT)
        try:
            resident_id = await self._merged(body)
        except NotKept:
            return web.Response(status=500)
        return as_json(self._resident(resident_id), 201, f"api/v4/residents/{resident_id}")

    async def _get_resident(self, request: web.Request) -> web.Response:
        return as_json(self._resident(path_id(request, "rid")))

    def _resident(self, resident_id: int) -> Body:
        found = self.store.resident(resident_id)
        if found is None:
            raise Answered(as_json("Resident not found", 404))
        return {"Id": resident_id, **found}

    async def _patch_resident(self, request: web.Request) -> web.Response:
        resident_id = path_id(request, "rid")
        body = await body_of(request, RESIDENT)
        self._resident(resident_id)
        try:
            self.store.patch_resident(resident_id, body, append_phones=False)
        except NotKept:
            return web.Response(status=500)
        return as_json(self._resident(resident_id))

    async def _list(self, request: web.Request) -> web.Response:
        shown = request.query.get("includeType") == "EUSS"
        found = self.store.requests_of(path_id(request, "rid"))
        return as_json([each for each in found if shown or each["HelpNeeded"] != "EUSS"])

    async def _get_of_resident(self, request: web.Request) -> web.Response:
        found = self.store.request(path_id(request, "hid"))
        if found is None or found["ResidentId"] != path_id(request, "rid"):
            return as_json(_NOBODYS)
        return as_json(found)

    async def _add_request(self, request: web.Request) -> web.Response:
        resident_id = path_id(request, "rid")
        body = await body_of(request, ADD_REQUEST)
        try:
            request_id = self.store.create_request(resident_id, body)
        except NotKept:
            return web.Response(status=500)
        return as_json(request_id, 201, f"api/v4/residents/{resident_id}/help-requests/{request_id}")

    async def _notes(self, request: web.Request) -> web.Response:
        resident_id = path_id(request, "rid")
        found = self.store.notes_of_request(path_id(request, "hid"))
        return as_json([each for each in found if each["ResidentId"] == resident_id])

    async def _notes_of_resident(self, request: web.Request) -> web.Response:
        shown = request.query.get("includeType") == "EUSS"
        found = self.store.notes_of_resident(path_id(request, "rid"))
        return as_json([each for each in found if shown or self.store.help_needed(each["HelpRequestId"]) != "EUSS"])

    async def _add_note(self, request: web.Request) -> web.Response:
        resident_id, request_id = path_id(request, "rid"), path_id(request, "hid")
        note = (await body_of(request, NOTE)).get("CaseNote")
        try:
            note_id = self.store.add_note(resident_id, request_id, note)
        except NotKept:
            return web.Response(status=500)
        kept = {"Id": note_id, "ResidentId": resident_id, "HelpRequestId": request_id, "CaseNote": note}
        place = f"api/v4/residents/{resident_id}/help-requests/{request_id}/case-notes/{note_id}"
        return as_json({**kept, "HelpNeeded": self.store.help_needed(request_id)}, 201, place)

    async def _health(self, _request: web.Request) -> web.Response:
        return as_json({"name": "here_to_help", "token": self.token})

    async def _openapi(self, _request: web.Request) -> web.Response:
        return as_json(document())

    async def _admin_counts(self, _request: web.Request) -> web.Response:
        return as_json(self.store.counts())

    async def _admin_dump(self, _request: web.Request) -> web.Response:
        return as_json(self.store.dump())

    async def _admin_reset(self, _request: web.Request) -> web.Response:
        self.store.reset()
        self.switchboard.reset()
        return as_json({})


def _answered(handler: Handler) -> Handler:
    """What a handler answers, or what it ends with in the API's words."""

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Answered as early:
            return early.answer
        except Malformed as error:
            return malformed(error)

    return answered


BASE = "/api/"
"""Where the API begins on its server."""


def main() -> None:
    """Serve until SIGTERM; where it answers stands in the address file from the moment on when it does."""
    parser = serving.arguments(__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--burst", type=int, default=200)
    asked = parser.parse_args()
    store = Store(asked.address_file.with_suffix(".sqlite3"))
    try:
        settings = Settings(latency_ms=asked.latency_ms, rate=asked.rate, burst=asked.burst)
        serving.run(HereToHelp(store, settings, token=asked.token).app(), asked, BASE)
    finally:
        store.close()


if __name__ == "__main__":
    main()

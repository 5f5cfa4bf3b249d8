"""The DMAP feeds of the sandbox: an HTTP server that lists and hands out datasets as the real one was observed to, faults and all.

A listing takes `last_updated` (a day), `limit` (100 at most take effect) and `offset`, and a key in the header `apikey`; it shows times
without a zone and links that expire. What is below /admin makes it misbehave, and shows what it was asked.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ingestion_dagster.sandbox import serving
from ingestion_dagster.sandbox.dmap_data import COLUMNS, DAYS, Dataset, daily, path_of
from ingestion_dagster.sandbox.faults import UNTOLD, Fault, Faults

KEYS = {"public": "sandbox-public", "controlled": "sandbox-controlled"}
MOST = 100
_FAMILY = {"datasetpublicusersapi": "public", "datasetcontrolleduserapi": "controlled"}
_EXPIRED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>'

_STATUSES = frozenset({"500", "503", "429", "403"})
KINDS = {
    "list": UNTOLD | _STATUSES | {"not_json", "success_false", "repeat"},
    "file": UNTOLD | _STATUSES | {"404", "302", "truncated", "wrong_length", "corrupt", "chunked"},
}
"""Which faults there are, of a listing and of a file; a fault is of one type or dataset, or of any."""


@dataclass
class Asked:
    """A request that came in: never what its headers hold, but which there were."""

    path: str
    query: str
    headers: list[str]


@dataclass
class DmapFeed:
    """The state of the server: what it lists, how long its links live, and what is to go wrong."""

    keys: dict[str, str] = field(default_factory=lambda: dict(KEYS))
    link_seconds: float = 3600.0
    clock: Callable[[], float] = time.time
    datasets: dict[str, dict[str, Dataset]] = field(
        default_factory=lambda: {kind: {each.dataset_id: each for each in daily(kind, DAYS)} for kind in COLUMNS}
    )
    records: dict[str, list[Any]] = field(default_factory=dict)
    """By type, records that are listed as they stand, behind the others."""
    faults: Faults = field(default_factory=lambda: Faults(KINDS, words))
    asked: list[Asked] = field(default_factory=list)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    token: str = ""

    def put(self, *datasets: Dataset) -> None:
        """List these, in place of issues of them that are listed."""
        for each in datasets:
            self.datasets.setdefault(each.type, {})[each.dataset_id] = each

    def reissue(self, kind: str, dataset_id: str) -> Dataset:
        """Issue a dataset anew."""
        again = self.datasets[kind][dataset_id].again()
        self.put(again)
        return again

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(middlewares=[self._record])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/files/{type}/{name}", self._file)
        for family in ("/datasetpublicusersapi/{section}/{type}", "/datasetcontrolleduserapi/{section}/{type}"):
            app.router.add_get(family, self._listing)
        app.router.add_post("/admin/datasets", self._admin_datasets)
        app.router.add_post("/admin/reissue", self._admin_reissue)
        app.router.add_post("/admin/records", self._admin_records)
        app.router.add_post("/admin/links", self._admin_links)
        app.router.add_get("/admin/requests", self._admin_requests)
        for method, path, handler in self.faults.routes():
            app.router.add_route(method, f"/admin/{path}", handler)
        return app

    @web.middleware
    async def _record(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if not request.path.startswith(("/admin", "/healthz")):
            self.asked.append(Asked(request.path, request.rel_url.raw_query_string, sorted(name.lower() for name in request.headers)))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": "dmap", "token": self.token})

    async def _listing(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("apikey")
        if key is None:
            return web.json_response({"success": False, "message": "no key"}, status=401)
        if not hmac.compare_digest(key.encode(), self.keys[_FAMILY[request.path.split("/")[1]]].encode()):
            return web.json_response({"success": False, "message": "wrong key"}, status=403)
        kind = request.match_info["type"]
        if kind not in self.datasets or request.path != path_of(kind):
            return web.json_response({"success": False, "message": "no such feed"}, status=404)
        try:
            since = date.fromisoformat(asked) if (asked := request.query.get("last_updated")) else None
            limit = min(MOST, max(1, int(request.query.get("limit", MOST))))
            offset = max(0, int(request.query.get("offset", 0)))
        except ValueError:
            return web.json_response({"success": False, "message": "last_updated is a day; limit and offset are numbers"}, status=400)
        fault = self.faults.take("list", kind)
        if fault and (answer := await self.faults.answer(request, "list", fault)):
            return answer
        listed = [self._shown(request, each) for each in self.datasets[kind].values() if since is None or each.last_updated.date() >= since]
        listed += self.records.get(kind, [])
        first = 0 if fault and fault.kind == "repeat" else offset
        return web.json_response({"success": not (fault and fault.kind == "success_false"), "results": listed[first : first + limit]})

    def _shown(self, request: web.Request, dataset: Dataset) -> dict[str, str]:
        path = f"/files/{dataset.type}/{quote(dataset.dataset_id)}.csv.gz"
        query = f"expires={int((self.clock() + self.link_seconds) * 1000)}&revision={dataset.revision}"
        # Base64 with its + / = is what re-quoting an address breaks.
        return {
            "id": dataset.type,
            "dataset_id": dataset.dataset_id,
            "url": f"{request.url.origin()}{path}?{query}&signature={self._signature(path, query)}",
            "start_date": dataset.day.isoformat(),
            "end_date": dataset.day.isoformat(),
            "last_updated": dataset.last_updated.isoformat(),
        }

    def _signature(self, path: str, query: str) -> str:
        digest = hmac.new(self.secret, f"{path}?{query}".encode(), hashlib.sha256).digest()
        return quote(base64.b64encode(b"\xfb\xef\xff" + digest).decode(), safe="")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        query, _, signature = request.rel_url.raw_query_string.rpartition("&signature=")
        path = request.rel_url.raw_path
        expires = request.query.get("expires", "")
        genuine = hmac.compare_digest(signature.encode(), self._signature(path, query).encode())
        if not genuine or not expires.isdigit() or int(expires) <= self.clock() * 1000:
            return web.Response(body=_EXPIRED, status=403, content_type="application/xml")
        kind = request.match_info["type"]
        dataset = self.datasets.get(kind, {}).get(request.match_info["name"].removesuffix(".csv.gz"))
        if dataset is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml")
        fault = self.faults.take("file", kind, dataset.dataset_id)
        content = dataset.content()
        if fault:
            if answer := await self.faults.answer(request, "file", fault):
                return answer
            return await _damaged(request, fault, content)
        return web.Response(body=content, content_type="binary/octet-stream")

    async def _admin_datasets(self, request: web.Request) -> web.Response:
        body = await request.json()
        first = date.fromisoformat(body.get("first", "2026-02-01"))
        made = daily(body["type"], int(body["count"]), first)
        self.put(*made)
        return web.json_response({"dataset_ids": [each.dataset_id for each in made]})

    async def _admin_reissue(self, request: web.Request) -> web.Response:
        body = await request.json()
        again = self.reissue(body["type"], body["dataset_id"])
        return web.json_response({"last_updated": again.last_updated.isoformat()})

    async def _admin_records(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.records.setdefault(body["type"], []).append(body["record"])
        return web.json_response({})

    async def _admin_links(self, request: web.Request) -> web.Response:
        self.link_seconds = float((await request.json())["seconds"])
        return web.json_response({})

    async def _admin_requests(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(each) for each in self.asked])


def words(_operation: str, kind: str) -> web.Response | None:
    """The answer in place of the right one; None for a fault that is a fault of the answer itself."""
    match kind:
        case "not_json":
            return web.Response(text='{"success": true, "results": [', content_type="application/json")
        case "302":
            return web.Response(status=302, headers={"Location": "/healthz"})
        case "403":
            return web.Response(body=_EXPIRED, status=403, content_type="application/xml")
        case kind if kind.isdigit():
            return web.Response(status=int(kind), text="<html>busy</html>", content_type="text/html")
    return None


async def _damaged(request: web.Request, fault: Fault, content: bytes) -> web.StreamResponse:
    """A file with one thing wrong with it."""
    answer = web.StreamResponse(headers={"Content-Type": "binary/octet-stream"})
    sent = content
    match fault.kind:
        case "truncated":
            answer.content_length = len(content)
            sent = content[: len(content) // 2]
        case "wrong_length":
            answer.content_length = len(content) - 5
            sent = content[:-5]
        case "corrupt":
            answer.content_length = len(content)
            sent = content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]
        case "chunked":
            sent = content[:-1]
    await answer.prepare(request)
    await answer.write(sent)
    if fault.kind == "truncated":
        assert request.transport is not None
        request.transport.close()
        return answer
    await answer.write_eof()
    return answer


def main() -> None:
    """Serve until SIGTERM; where it answers stands in the address file from the moment on when it does."""
    parser = serving.arguments(__doc__)
    parser.add_argument("--link-seconds", type=float, default=3600.0)
    asked = parser.parse_args()
    serving.run(DmapFeed(link_seconds=asked.link_seconds, token=asked.token).app(), asked)


if __name__ == "__main__":
    main()

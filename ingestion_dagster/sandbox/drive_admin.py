"""What people do on Drive, and what tests do to it: the calls below /admin of the sandbox's Google Drive."""

import base64
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from ingestion_dagster.sandbox.drive_files import DriveFile, Files, not_found
from ingestion_dagster.sandbox.faults import Faults


class Admin:
    """Calls that change the server's state without asking who makes them."""

    def __init__(
        self, files: Files, faults: Faults, calls: Counter[str], tokens: set[str], new_account: Callable[[str], dict[str, str]]
    ) -> None:
        self._files = files
        self._faults = faults
        self._calls_seen = calls
        self._tokens = tokens
        self._new_account = new_account

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Have them answered."""
        router.add_get("/admin/files", self._list)
        router.add_post("/admin/files", self._put)
        router.add_patch("/admin/files/{id}", self._change)
        router.add_delete("/admin/files/{id}", self._delete)
        router.add_get("/admin/files/{id}/content", self._content)
        router.add_post("/admin/accounts", self._account)
        router.add_post("/admin/tokens/expire", self._expire)
        router.add_post("/admin/roles", self._role)
        router.add_get("/admin/calls", self._calls)
        for method, path, handler in self._faults.routes():
            router.add_route(method, f"/admin/{path}", handler)

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response([each.shown() for each in self._files.files.values()])

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.json()
        made = self._files.put(
            body["name"],
            base64.b64decode(body.get("content", "")),
            parent=body.get("parent"),
            mime_type=body.get("mimeType", "text/csv"),
            modified=_moment(body.get("modified")),
            created=_moment(body.get("created")),
            drive_id=body.get("driveId"),
        )
        return web.json_response(made.shown())

    async def _change(self, request: web.Request) -> web.Response:
        """Rename it, move it to another `parent`, put it into the bin, write another `content`; a file that is moved keeps its times."""
        body = await request.json()
        file = self._file(request)
        file.name, file.trashed = body.get("name", file.name), body.get("trashed", file.trashed)
        if "parent" in body:
            self._files.move(file, body["parent"])
        if "content" in body:
            self._files.change(file, base64.b64decode(body["content"]))
        file.modified = _moment(body.get("modified")) or file.modified
        return web.json_response(file.shown())

    async def _delete(self, request: web.Request) -> web.Response:
        del self._files.files[self._file(request).id]
        return web.json_response({})

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._file(request).content)

    async def _account(self, request: web.Request) -> web.Response:
        return web.json_response(self._new_account(str(request.url.origin())))

    async def _expire(self, _request: web.Request) -> web.Response:
        self._tokens.clear()
        return web.json_response({})

    async def _role(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._files.roles[body["id"]] = body["role"]
        return web.json_response({})

    async def _calls(self, _request: web.Request) -> web.Response:
        return web.json_response(self._calls_seen)

    def _file(self, request: web.Request) -> DriveFile:
        try:
            return self._files.files[request.match_info["id"]]
        except KeyError:
            raise not_found(request.match_info["id"]) from None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None

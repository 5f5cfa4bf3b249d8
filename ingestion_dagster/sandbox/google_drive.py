"""Google Drive in the sandbox: an HTTP server that speaks the calls of the Drive API (v3) that a drop folder needs, faults and all.

A service account gets a token for a signed assertion; files are searched for, read, exported, uploaded (in one piece or in many) and
changed. Two files may have one name. What is below /admin makes it misbehave, and does what people do on Drive.
"""

import argparse
import asyncio
import base64
import json
import re
import secrets
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from ingestion_dagster.sandbox.dmap_feed import serve, write_address
from ingestion_dagster.sandbox.drive_files import FOLDER, SHEET, DriveFile, Files, Refusal, not_found
from ingestion_dagster.sandbox.drive_query import condition

AT = frozenset({"token", "list", "get", "media", "export", "create", "update", "piece", "status"})
KINDS = frozenset({"429", "403", "500", "503", "hang", "reset", "html", "quota", "forbidden", "truncated", "corrupt"})
LOST = frozenset({"lost", "lost_503", "lost_session"})
"""Faults of the last piece of an upload: it is done, but the answer breaks off, or is 503, which is all that ever comes of it."""

_REFUSALS = {
    "403": Refusal(403, "userRateLimitExceeded", "User Rate Limit Exceeded"),
    "429": Refusal(429, "rateLimitExceeded", "Too many requests"),
    "500": Refusal(500, "internalError", "Internal Error"),
    "503": Refusal(503, "backendError", "Backend Error"),
    "quota": Refusal(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded."),
    "forbidden": Refusal(403, "cannotDownloadFile", "This file cannot be downloaded by the user."),
}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_CHANGES = {"name": "name", "trashed": "trashed", "appProperties": "app_properties"}


@dataclass
class Fault:
    """What is to go wrong: `at` one kind of call, so many `times`, after `skip` that go well."""

    at: str
    kind: str
    times: int = 1
    skip: int = 0
    retry_after: str | None = None

    def __post_init__(self) -> None:
        if self.at not in AT or self.kind not in (KINDS | LOST if self.at == "piece" else KINDS):
            raise ValueError(f"no fault of this kind: {self.at} {self.kind}")


@dataclass
class Upload:
    """A resumable upload: what it is to make or to change, and what has arrived of it."""

    body: dict[str, Any]
    kind: str
    size: int
    file_id: str | None
    all_drives: bool
    fields: str
    content: bytes = b""
    done: DriveFile | None = None


@dataclass
class GoogleDrive(Files):
    """The state of the server: the files, who may use it, and what is to go wrong."""

    accounts: dict[str, str] = field(default_factory=dict, repr=False)
    """Public keys of service accounts, by mail address."""
    tokens: set[str] = field(default_factory=set, repr=False)
    uploads: dict[str, Upload] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    largest_page: int = 1000
    empty_first_page: bool = False
    """Whether a search begins with a page without files, as it may."""
    token: str = ""

    def new_account(self, url: str, email: str = "drop-folder@sandbox.example.invalid") -> dict[str, str]:
        """What is in the key file of a new service account, for the server at that URL."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.accounts[email] = public.decode()
        return {
            "type": "service_account",
            "project_id": "sandbox",
            "private_key_id": secrets.token_hex(20),
            "private_key": private.decode(),
            "client_email": email,
            "client_id": "0",
            "token_uri": f"{url}/token",
        }

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 30)
        router = app.router
        router.add_get("/healthz", self._health)
        router.add_post("/token", self._grant)
        router.add_get("/drive/v3/files", self._list)
        router.add_get("/drive/v3/files/{id}", self._get)
        router.add_get("/drive/v3/files/{id}/export", self._export)
        router.add_post("/drive/v3/files", self._create)
        router.add_patch("/drive/v3/files/{id}", self._patch)
        for prefix in ("/upload", "/resumable/upload"):
            router.add_post(f"{prefix}/drive/v3/files", self._upload)
            router.add_patch(f"{prefix}/drive/v3/files/{{id}}", self._upload)
            router.add_put(f"{prefix}/drive/v3/files", self._piece)
        router.add_get("/admin/files", self._admin_list)
        router.add_post("/admin/files", self._admin_put)
        router.add_patch("/admin/files/{id}", self._admin_change)
        router.add_delete("/admin/files/{id}", self._admin_delete)
        router.add_get("/admin/files/{id}/content", self._admin_content)
        router.add_post("/admin/accounts", self._admin_account)
        router.add_post("/admin/tokens/expire", self._admin_expire)
        router.add_post("/admin/roles", self._admin_role)
        router.add_post("/admin/faults", self._admin_fault)
        router.add_delete("/admin/faults", self._admin_no_faults)
        router.add_get("/admin/calls", self._admin_calls)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        try:
            if not request.path.startswith(("/admin", "/healthz", "/token")):
                scheme, _, token = request.headers.get("Authorization", "").partition(" ")
                if scheme != "Bearer" or token not in self.tokens:
                    raise Refusal(401, "authError", "Invalid Credentials")
            answer: web.StreamResponse = await handler(request)
        except Refusal as refusal:
            return _refused(refusal)
        return answer

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": "google_drive", "token": self.token})

    async def _grant(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._misbehaves(request, "token"):
            return answer
        from google.auth import jwt
        from google.auth.exceptions import GoogleAuthError

        asked = await request.post()
        assertion = str(asked.get("assertion", ""))
        try:
            claims = jwt.decode(assertion, verify=False)  # type: ignore[no-untyped-call]
            claims = jwt.decode(assertion, certs=self.accounts[claims["iss"]], audience=f"{request.url.origin()}/token")  # type: ignore[no-untyped-call]
        except (GoogleAuthError, ValueError, KeyError):
            return web.json_response({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, status=400)
        if asked.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" or not claims.get("scope"):
            return web.json_response({"error": "invalid_scope"}, status=400)
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._misbehaves(request, "list"):
            return answer
        asked = request.query
        try:
            holds, folders = condition(asked.get("q", "trashed = false"))
            page_size, start = int(asked.get("pageSize", 100)), int(base64.b64decode(asked.get("pageToken", "")) or 0)
        except ValueError:
            raise Refusal(400, "invalid", "Invalid Value") from None
        corpora, drive_id = asked.get("corpora", "user"), asked.get("driveId")
        if (corpora == "drive") != bool(drive_id) or not 1 <= page_size <= 1000:
            raise Refusal(400, "invalid", "Invalid Value")
        all_drives = _all_drives(request) and asked.get("includeItemsFromAllDrives") == "true"
        for folder in folders:
            self.readable(folder, all_drives=_all_drives(request))
        found = [
            each
            for each in self.files.values()
            if self.is_shown(each) and (all_drives or not each.drive_id) and drive_id in (None, each.drive_id) and holds(each.shown())
        ]
        # A token says how many files have been shown, plus one: a page may be empty without being the last.
        shown = max(0, start - 1)
        end = shown if self.empty_first_page and not start else min(shown + min(page_size, self.largest_page), len(found))
        page = {"files": [_chosen(each, _fields_of_files(asked.get("fields", ""))) for each in found[shown:end]]}
        more = {"nextPageToken": base64.b64encode(str(end + 1).encode()).decode()} if end < len(found) else {}
        return web.json_response({"kind": "drive#fileList", "incompleteSearch": False, **more, **page})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        is_media = request.query.get("alt") == "media"
        fault = await self._misbehaves(request, "media" if is_media else "get", ("truncated", "corrupt"))
        if isinstance(fault, web.StreamResponse):
            return fault
        file = self.readable(request.match_info["id"], all_drives=_all_drives(request))
        if not is_media:
            return web.json_response(_chosen(file, request.query.get("fields", "")))
        if file.is_native:
            raise Refusal(403, "fileNotDownloadable", "Only files with binary content can be downloaded.")
        return await _sent(request, file.content, fault.kind if fault else "")

    async def _export(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._misbehaves(request, "export"):
            return answer
        file = self.readable(request.match_info["id"], all_drives=True)
        if file.mime_type != SHEET or request.query.get("mimeType") != "text/csv":
            raise Refusal(403, "fileNotExportable", "Export only supports Docs Editors files.")
        content = file.exported()
        if len(content) > self.export_limit:
            raise Refusal(403, "exportSizeLimitExceeded", "This file is too large to be exported.")
        return web.Response(body=content, content_type="text/csv")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._misbehaves(request, "create"):
            return answer
        made = self._made(await request.json(), b"", "application/octet-stream", None, _all_drives(request))
        return web.json_response(_chosen(made, request.query.get("fields", "")))

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        if answer := await self._misbehaves(request, "update"):
            return answer
        file = self.writable(request.match_info["id"], all_drives=_all_drives(request))
        self._apply(file, await request.json())
        moved = {name: request.query.get(name, "").split(",") for name in ("addParents", "removeParents")}
        file.parents = [each for each in (*file.parents, *filter(None, moved["addParents"])) if each not in moved["removeParents"]]
        return web.json_response(_chosen(file, request.query.get("fields", "")))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        file_id = request.match_info.get("id")
        if answer := await self._misbehaves(request, "update" if file_id else "create"):
            return answer
        asked = request.query
        if asked.get("uploadType") == "multipart":
            reader = await request.multipart()
            parts = [(part.headers.get("Content-Type", ""), bytes(await part.read())) async for part in reader]  # type: ignore[union-attr]
            done = self._made(json.loads(parts[0][1]), parts[1][1], parts[1][0], file_id, _all_drives(request))
            return web.json_response(_chosen(done, asked.get("fields", "")))
        if asked.get("uploadType") != "resumable":
            raise Refusal(400, "badRequest", "uploadType is multipart or resumable")
        body = await request.json() if request.can_read_body else {}
        size, kind = int(request.headers["X-Upload-Content-Length"]), request.headers["X-Upload-Content-Type"]
        upload = Upload(body, kind, size, file_id, _all_drives(request), asked.get("fields", ""))
        self._allowed(upload.body, file_id, upload.all_drives)
        number = secrets.token_urlsafe(16)
        self.uploads[number] = upload
        return web.Response(headers={"Location": f"{request.url.origin()}/upload/drive/v3/files?uploadType=resumable&upload_id={number}"})

    async def _piece(self, request: web.Request) -> web.StreamResponse:
        found = _CONTENT_RANGE.fullmatch(request.headers.get("Content-Range", ""))
        is_status = found is not None and found[1] is None
        fault = await self._misbehaves(request, "status" if is_status else "piece", tuple(LOST))
        if isinstance(fault, web.StreamResponse):
            return fault
        number = request.query.get("upload_id", "")
        upload = self.uploads.get(number)
        if upload is None:
            raise not_found("upload")
        piece = await request.read()
        if upload.done is None and not is_status:
            start = int(found[1]) if found else 0
            if start != len(upload.content) or start + len(piece) > upload.size:
                raise Refusal(400, "badRequest", "the piece does not follow what has arrived")
            upload.content += piece
        if upload.done is None and len(upload.content) < upload.size:
            received = {"Range": f"bytes=0-{len(upload.content) - 1}"} if upload.content else {}
            return web.Response(status=308, headers=received)
        if upload.done is None:
            upload.done = self._made(upload.body, upload.content, upload.kind, upload.file_id, upload.all_drives)
        if fault:
            if fault.kind == "lost_session":
                del self.uploads[number]
            return _aborted(request) if fault.kind == "lost" else _refused(_REFUSALS["503"])
        return web.json_response(_chosen(upload.done, upload.fields))

    def _allowed(self, body: dict[str, Any], file_id: str | None, all_drives: bool) -> None:
        for place in [file_id] if file_id else body.get("parents", []):
            found = self.writable(place, all_drives=all_drives)
            if not file_id and found.mime_type != FOLDER:
                raise Refusal(403, "parentNotAFolder", "The specified parent is not a folder.")

    def _made(self, body: dict[str, Any], content: bytes, kind: str, file_id: str | None, all_drives: bool) -> DriveFile:
        """What an upload makes, or changes; a workbook that is to be a Google Sheet keeps its bytes here, so that tests can look at them."""
        self._allowed(body, file_id, all_drives)
        if file_id:
            file = self.files[file_id]
            self.change(file, content)
            self._apply(file, body)
            return file
        parents = body.get("parents", [])
        return self.put(
            body.get("name", "Untitled"),
            content,
            parent=parents[0] if parents else None,
            mime_type=body.get("mimeType", kind),
            modified=datetime.fromisoformat(body["modifiedTime"]) if "modifiedTime" in body else None,
            app_properties=body.get("appProperties"),
        )

    def _apply(self, file: DriveFile, body: dict[str, Any]) -> None:
        for name, own in _CHANGES.items():
            if name in body:
                setattr(file, own, body[name])
        file.modified = datetime.fromisoformat(body["modifiedTime"]) if "modifiedTime" in body else self.clock()

    async def _misbehaves(self, request: web.Request, at: str, own: tuple[str, ...] = ()) -> Any:
        """The answer in place of the right one, or a fault of a kind that the caller sees to itself; None if all is well."""
        self.calls[at] += 1
        fault = self._fault(at)
        if fault is None or fault.kind in own:
            return fault
        match fault.kind:
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                return _aborted(request)
            case "html":
                return web.Response(text="<!DOCTYPE html><html><body>Sign in to the network</body></html>", content_type="text/html")
        return _refused(_REFUSALS[fault.kind], fault.retry_after)

    def _fault(self, at: str) -> Fault | None:
        for fault in self.faults:
            if fault.at == at and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    async def _admin_list(self, _request: web.Request) -> web.Response:
        return web.json_response([each.shown() for each in self.files.values()])

    async def _admin_put(self, request: web.Request) -> web.Response:
        body = await request.json()
        moments = {name: datetime.fromisoformat(body[name]) for name in ("modified", "created") if name in body}
        made = self.put(
            body["name"],
            base64.b64decode(body.get("content", "")),
            parent=body.get("parent"),
            mime_type=body.get("mimeType", "text/csv"),
            drive_id=body.get("driveId"),
            **moments,
        )
        return web.json_response(made.shown())

    async def _admin_change(self, request: web.Request) -> web.Response:
        body = await request.json()
        file = self._admin_file(request)
        before = file.modified
        self._apply(file, body)
        if "parent" in body:
            file.parents = [body["parent"]]
        if "content" in body:
            self.change(file, base64.b64decode(body["content"]))
        elif "modifiedTime" not in body and "name" not in body:
            file.modified = before  # a file that is moved, or put into the bin, keeps its time
        return web.json_response(file.shown())

    async def _admin_delete(self, request: web.Request) -> web.Response:
        del self.files[self._admin_file(request).id]
        return web.json_response({})

    async def _admin_content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._admin_file(request).content)

    async def _admin_account(self, request: web.Request) -> web.Response:
        return web.json_response(self.new_account(str(request.url.origin())))

    async def _admin_expire(self, _request: web.Request) -> web.Response:
        self.tokens.clear()
        return web.json_response({})

    async def _admin_role(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.roles[body["id"]] = body["role"]
        return web.json_response({})

    async def _admin_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.append(Fault(**await request.json()))
        except (TypeError, ValueError) as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response({})

    async def _admin_no_faults(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({})

    async def _admin_calls(self, _request: web.Request) -> web.Response:
        return web.json_response(self.calls)

    def _admin_file(self, request: web.Request) -> DriveFile:
        try:
            return self.files[request.match_info["id"]]
        except KeyError:
            raise not_found(request.match_info["id"]) from None


def _all_drives(request: web.Request) -> bool:
    return request.query.get("supportsAllDrives") == "true"


def _fields_of_files(fields: str) -> str:
    found = re.search(r"files\(([^)]*)\)", fields)
    return found[1] if found else ""


def _chosen(file: DriveFile, fields: str) -> dict[str, Any]:
    """The fields that were asked for; without asking there are few."""
    wanted = [name.strip() for name in fields.split(",")] if fields else ["kind", "id", "name", "mimeType"]
    shown = file.shown()
    return shown if "*" in wanted else {name: shown[name] for name in wanted if name in shown}


def _refused(refusal: Refusal, retry_after: str | None = None) -> web.Response:
    reason = {"domain": "global", "reason": refusal.reason, "message": str(refusal)}
    error = {"error": {"errors": [reason], "code": refusal.status, "message": str(refusal)}}
    return web.json_response(error, status=refusal.status, headers={"Retry-After": retry_after} if retry_after else {})


def _aborted(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _sent(request: web.Request, content: bytes, damage: str) -> web.StreamResponse:
    """A file's content, or the part that is asked for, perhaps with one thing wrong with it."""
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    start, end = (int(found[1]), min(int(found[2] or len(content)) + 1, len(content))) if found else (0, len(content))
    if found and start >= len(content):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
    answer = web.StreamResponse(status=206 if found else 200, headers={"Content-Type": "application/octet-stream"})
    if found:
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    answer.content_length = end - start
    await answer.prepare(request)
    part = content[start:end]
    if damage == "corrupt":
        part = bytes([part[0] ^ 1]) + part[1:]
    if damage == "truncated":
        await answer.write(part[: len(part) // 2])
        assert request.transport is not None
        request.transport.close()
        return answer
    await answer.write(part)
    await answer.write_eof()
    return answer


async def _main(arguments: argparse.Namespace) -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, until.set)
    drive = GoogleDrive(token=arguments.token)
    await serve(drive, arguments.port, lambda url: write_address(arguments.address_file, url, arguments.token), until)


def main() -> None:
    """Serve until SIGTERM; where it answers stands in the address file from the moment on when it does. Nothing outlives the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address_file", type=Path)
    parser.add_argument("--token", default="")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()

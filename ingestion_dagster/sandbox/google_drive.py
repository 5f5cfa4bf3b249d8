"""Google Drive in the sandbox: an HTTP server that speaks the calls of the Drive API (v3) that a drop folder needs, faults and all.

A service account gets a token for a signed assertion; files are searched for, read, exported, uploaded (in one piece or in many) and
changed. Two files may have one name. What is below /admin makes it misbehave, and does what people do on Drive.
"""

import base64
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web

from ingestion_dagster.sandbox.drive_admin import Admin
from ingestion_dagster.sandbox.drive_faults import KINDS, REFUSALS, refused, sent, words
from ingestion_dagster.sandbox.drive_files import FOLDER, SHEET, DriveFile, Files, Refusal, not_found
from ingestion_dagster.sandbox.drive_query import condition
from ingestion_dagster.sandbox.faults import Faults, aborted
from ingestion_dagster.sandbox.serving import arguments, run

_AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever the key file says of where tokens are to be had
_BOUNDARY = re.compile(r"boundary=[\"']?([^\"';]+)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


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

    faults: Faults = field(default_factory=lambda: Faults(KINDS, words))
    calls: Counter[str] = field(default_factory=Counter)
    """How often each kind of call has come in."""
    accounts: dict[str, str] = field(default_factory=dict, repr=False)
    """Public keys of service accounts, by mail address."""
    tokens: set[str] = field(default_factory=set, repr=False)
    uploads: dict[str, Upload] = field(default_factory=dict)
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
        Admin(self, self.faults, self.calls, self.tokens, self.new_account).add_to(router)
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
            return refused(refusal)
        return answer

    async def misbehaves(self, request: web.Request, at: str) -> web.Response | None:
        """The answer in place of the right one; None if all is well."""
        answer, _damage = await self.damages(request, at)
        return answer

    async def damages(self, request: web.Request, at: str) -> tuple[web.Response | None, str]:
        """As `misbehaves`, and what is to be wrong with the right answer, "" for nothing."""
        self.calls[at] += 1
        fault = self.faults.take(at)
        if fault is None:
            return None, ""
        answer = await self.faults.answer(request, at, fault)
        return answer, "" if answer is not None else fault.kind

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": "google_drive", "token": self.token})

    async def _grant(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.misbehaves(request, "token"):
            return answer
        from google.auth import jwt
        from google.auth.exceptions import GoogleAuthError

        asked = await request.post()
        assertion = str(asked.get("assertion", ""))
        try:
            claims = jwt.decode(assertion, verify=False)  # type: ignore[no-untyped-call]
            claims = jwt.decode(assertion, certs=self.accounts[claims["iss"]], audience=_AUDIENCE)  # type: ignore[no-untyped-call]
        except (GoogleAuthError, ValueError, KeyError):
            return web.json_response({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, status=400)
        if asked.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" or not claims.get("scope"):
            return web.json_response({"error": "invalid_scope"}, status=400)
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.misbehaves(request, "list"):
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
        # Without naming a drive only such files are searched on it as were shared with the account one by one, and here none is.
        all_drives = _all_drives(request) and asked.get("includeItemsFromAllDrives") == "true" and corpora in ("drive", "allDrives")
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
        answer, damage = await self.damages(request, "media" if is_media else "get")
        if answer:
            return answer
        file = self.readable(request.match_info["id"], all_drives=_all_drives(request))
        if not is_media:
            return web.json_response(_chosen(file, request.query.get("fields", "")))
        if file.is_native:
            raise Refusal(403, "fileNotDownloadable", "Only files with binary content can be downloaded.")
        return await sent(request, file.content, damage)

    async def _export(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.misbehaves(request, "export"):
            return answer
        file = self.readable(request.match_info["id"], all_drives=True)
        if file.mime_type != SHEET or request.query.get("mimeType") != "text/csv":
            raise Refusal(403, "fileNotExportable", "Export only supports Docs Editors files.")
        content = file.exported()
        if len(content) > self.export_limit:
            raise Refusal(403, "exportSizeLimitExceeded", "This file is too large to be exported.")
        return web.Response(body=content, content_type="text/csv")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.misbehaves(request, "create"):
            return answer
        made = self._made(await request.json(), b"", "application/octet-stream", None, _all_drives(request))
        return web.json_response(_chosen(made, request.query.get("fields", "")))

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        if answer := await self.misbehaves(request, "update"):
            return answer
        file = self.writable(request.match_info["id"], all_drives=_all_drives(request))
        if body := await request.json():
            _apply(file, body, self.clock())
        moved = {name: request.query.get(name, "").split(",") for name in ("addParents", "removeParents")}
        file.parents = [each for each in (*file.parents, *filter(None, moved["addParents"])) if each not in moved["removeParents"]]
        return web.json_response(_chosen(file, request.query.get("fields", "")))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        file_id = request.match_info.get("id")
        if answer := await self.misbehaves(request, "update" if file_id else "create"):
            return answer
        asked = request.query
        if asked.get("uploadType") in ("media", "multipart"):
            kind, content, body = request.headers.get("Content-Type", ""), await request.read(), b"{}"
            if asked["uploadType"] == "multipart":
                (_json, body), (kind, content) = _parts(kind, content)
            done = self._made(json.loads(body), content, kind, file_id, _all_drives(request))
            return web.json_response(_chosen(done, asked.get("fields", "")))
        if asked.get("uploadType") != "resumable":
            raise Refusal(400, "badRequest", "uploadType is media, multipart or resumable")
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
        answer, lost = await self.damages(request, "status" if is_status else "piece")
        if answer:
            return answer
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
        if lost:
            if lost == "lost_session":
                del self.uploads[number]
            return aborted(request) if lost == "lost" else refused(REFUSALS["503"])
        return web.json_response(_chosen(upload.done, upload.fields))

    def _allowed(self, body: dict[str, Any], file_id: str | None, all_drives: bool) -> None:
        for place in [file_id] if file_id else body.get("parents", []):
            found = self.writable(place, all_drives=all_drives)
            if not file_id and found.mime_type != FOLDER:
                raise Refusal(403, "parentNotAFolder", "The specified parent is not a folder.")

    def _made(self, body: dict[str, Any], content: bytes, kind: str, file_id: str | None, all_drives: bool) -> DriveFile:
        """What an upload makes, or changes; a workbook that is to be a Google Sheet keeps its bytes here, for tests to look at."""
        self._allowed(body, file_id, all_drives)
        if file_id:
            file = self.files[file_id]
            self.change(file, content)
            _apply(file, body, self.clock())
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


def _apply(file: DriveFile, body: dict[str, Any], now: datetime) -> None:
    file.name, file.trashed = body.get("name", file.name), body.get("trashed", file.trashed)
    file.app_properties = {**file.app_properties, **body.get("appProperties", {})}
    file.modified = datetime.fromisoformat(body["modifiedTime"]) if "modifiedTime" in body else now


def _all_drives(request: web.Request) -> bool:
    return request.query.get("supportsAllDrives") == "true"


def _parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Kind and content of each part; its lines may end in any way, which aiohttp's own reader does not take."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise Refusal(400, "badRequest", "no boundary")
    found = []
    for part in body.split(f"--{boundary[1]}".encode())[1:-1]:
        ending = b"\r\n" if part.startswith(b"\r\n") else b"\n"
        head, _, content = part.removeprefix(ending).removesuffix(ending).partition(ending * 2)
        kind = next(
            (line.partition(b":")[2].strip().decode() for line in head.split(ending) if line.lower().startswith(b"content-type:")), ""
        )
        found.append((kind, content))
    return found


def _fields_of_files(fields: str) -> str:
    found = re.search(r"files\(([^)]*)\)", fields)
    return found[1] if found else ""


def _chosen(file: DriveFile, fields: str) -> dict[str, Any]:
    """The fields that were asked for; without asking there are few."""
    wanted = [name.strip() for name in fields.split(",")] if fields else ["kind", "id", "name", "mimeType"]
    shown = file.shown()
    return shown if "*" in wanted else {name: shown[name] for name in wanted if name in shown}


def main() -> None:
    """Serve until SIGTERM. Nothing on this Drive outlives the process."""
    asked = arguments(__doc__).parse_args()
    run(GoogleDrive(token=asked.token).app(), asked)


if __name__ == "__main__":
    main()

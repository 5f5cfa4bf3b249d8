"""The sandbox's Google Drive answers Google's own client as the real one is documented to, and does what people do there."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httplib2
import pytest
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount
from google_auth_httplib2 import AuthorizedHttp, Request
from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaFileUpload, MediaIoBaseDownload, MediaIoBaseUpload

from ingestion_dagster.sandbox.drive_faults import DAMAGES, KINDS, LOST
from ingestion_dagster.sandbox.drive_files import FOLDER, SHEET, Files
from ingestion_dagster.sandbox.drive_query import condition
from ingestion_dagster.sandbox.google_drive import GoogleDrive
from ingestion_dagster_tests.engine.drive_scene import EMAIL, key_file, workbook
from ingestion_dagster_tests.sandbox.running import running

SCOPES = ["https://www.googleapis.com/auth/drive"]
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
LONG_AGO = datetime(2020, 2, 29, 12, 30, 15, 123000, tzinfo=UTC)


class Scene:
    """The server, and Google's client as it asks it."""

    def __init__(self, drive: GoogleDrive, url: str, place: Path) -> None:
        self.drive, self.url = drive, url
        self.key = json.loads(key_file(drive, url, place / "key.json").read_text())
        self.http = httplib2.Http(timeout=2)
        self.http.redirect_codes = self.http.redirect_codes - {308}

    def token(self, **changes: str) -> str:
        account = ServiceAccount.from_service_account_info({**self.key, **changes}, scopes=SCOPES)
        account.refresh(Request(self.http))
        assert account.expiry is not None
        return str(account.token)

    @property
    def files(self) -> Any:
        document = {**json.loads(get_static_doc("drive", "v3")), "rootUrl": f"{self.url}/"}
        http = AuthorizedHttp(Credentials(token=self.token()), http=self.http, max_refresh_attempts=0)
        return build_from_document(document, http=http).files()

    def admin(self, path: str, body: Any = None, method: str = "POST") -> Any:
        sent = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/admin/{path}", sent, method=method), timeout=5) as answer:
            content = answer.read()
        return content if path.endswith("/content") else json.loads(content)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    drive = GoogleDrive()
    with running(drive) as url:
        scene = Scene(drive, url, tmp_path)
        yield scene
        scene.http.close()


def refused(request: Any) -> tuple[int, str]:
    with pytest.raises(HttpError) as raised:
        request.execute()
    return raised.value.resp.status, raised.value.error_details[0]["reason"]


# Who may ask


def test_an_assertion_that_somebody_else_signed_gets_no_token(scene: Scene):
    other = GoogleDrive().new_account(scene.url, EMAIL)
    with pytest.raises(RefreshError, match="invalid_grant"):
        scene.token(private_key=other["private_key"])
    with pytest.raises(RefreshError, match="invalid_grant"):
        scene.token(client_email="nobody@sandbox.example.invalid")
    assert scene.token() in scene.drive.tokens


def test_a_token_is_needed_and_can_expire(scene: Scene):
    files = scene.files
    assert files.list().execute()["files"] == []
    scene.admin("tokens/expire")
    assert not scene.drive.tokens
    assert refused(files.list()) == (401, "authError")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{scene.url}/drive/v3/files", timeout=5)


def test_an_account_made_over_http_can_ask(scene: Scene):
    scene.drive.accounts.clear()
    scene.key = scene.admin("accounts")
    assert scene.files.list().execute()["files"] == []


# Searching


def test_a_search_shows_what_is_asked_for(scene: Scene):
    folder = scene.drive.folder()
    for name in ("same", "same", "it's \\ other"):
        scene.drive.put(name, b"content", parent=folder, modified=LONG_AGO)
    query = f"'{folder}' in parents and trashed = false and mimeType != '{FOLDER}'"
    found = scene.files.list(q=query).execute()
    assert [each["name"] for each in found["files"]] == ["same", "same", "it's \\ other"]
    assert set(found["files"][0]) == {"kind", "id", "name", "mimeType"}
    found = scene.files.list(
        q=f"{query} and name = 'it\\'s \\\\ other'", fields="nextPageToken,files(id,size,md5Checksum,modifiedTime)"
    ).execute()
    (shown,) = found["files"]
    assert shown == {
        "id": shown["id"],
        "size": "7",
        "md5Checksum": "9a0364b9e99bb480dd25e1f0284c8555",  # pragma: allowlist secret
        "modifiedTime": "2020-02-29T12:30:15.123Z",
    }


def test_pages_follow_each_other(scene: Scene):
    wanted = [scene.drive.put(str(number)).id for number in range(7)]
    files, found, token, pages = scene.files, [], None, 0
    while pages == 0 or token:
        page = files.list(pageSize=3, pageToken=token).execute()
        found += [each["id"] for each in page["files"]]
        token, pages = page.get("nextPageToken"), pages + 1
    assert (found, pages) == (wanted, 3)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trashed = true", {"binned"}),
        ("not trashed = true and name != 'old'", {"new"}),
        ("modifiedTime > '2024-01-01T00:00:00.000Z' and trashed = false", {"new"}),
        ("(modifiedTime > '2024-01-01T00:00:00Z' or createdTime > '2024-01-01T00:00:00Z') and trashed=false", {"new", "old"}),
        ("appProperties has { key='ingestion' and value='it\\'s' }", {"old"}),
        ("name = 'new' or name = 'binned'", {"new", "binned"}),
    ],
)
def test_a_query_finds_what_it_says(query: str, expected: set[str]):
    files = Files()
    files.put("new")
    files.put("old", modified=LONG_AGO, app_properties={"ingestion": "it's"})
    files.put("binned", modified=LONG_AGO).trashed = True
    holds, _folders = condition(query)
    assert {each.name for each in files.files.values() if holds(each.shown())} == expected


@pytest.mark.parametrize(
    "query", ["name", "name =", "colour = 'red'", "'x' in", "name = 'a' or", "(name = 'a'", "name = 'a' 'b'", "name = a", "§"]
)
def test_a_query_that_is_not_understood_is_no_match_for_nothing(scene: Scene, query: str):
    assert refused(scene.files.list(q=query)) == (400, "invalid")


def test_a_shared_drive_is_for_those_who_know_of_shared_drives(scene: Scene):
    folder = scene.drive.folder(drive_id="0A1")
    file = scene.drive.put("a", parent=folder)
    files, known = scene.files, {"supportsAllDrives": True}
    everywhere = {**known, "includeItemsFromAllDrives": True}
    assert refused(files.get(fileId=file.id)) == (404, "notFound")
    assert files.get(fileId=file.id, **known).execute()["id"] == file.id
    assert refused(files.list(q=f"'{folder}' in parents")) == (404, "notFound")
    assert files.list(q=f"'{folder}' in parents", **known).execute()["files"] == []
    assert files.list(q=f"'{folder}' in parents", **everywhere).execute()["files"] == []
    for where in ({"corpora": "drive", "driveId": "0A1"}, {"corpora": "allDrives"}):
        assert [each["id"] for each in files.list(q=f"'{folder}' in parents", **everywhere, **where).execute()["files"]] == [file.id]
    assert files.list(corpora="drive", driveId="0A2", **everywhere).execute()["files"] == []
    assert refused(files.list(driveId="0A1", **everywhere)) == (400, "invalid")
    assert refused(files.update(fileId=file.id, body={"name": "b"})) == (404, "notFound")
    assert refused(files.create(body={"name": "b", "parents": [folder]}, media_body=_media(b"b"))) == (404, "notFound")


def test_roles_decide_what_may_be_done_in_a_folder(scene: Scene):
    folder = scene.drive.folder()
    file = scene.drive.put("a", parent=folder)
    files = scene.files
    scene.admin("roles", {"id": folder, "role": "reader"})
    assert files.get(fileId=file.id).execute()["id"] == file.id
    assert refused(files.create(body={"name": "b", "parents": [folder]}, media_body=_media(b"b"))) == (403, "insufficientFilePermissions")
    assert refused(files.update(fileId=file.id, body={"name": "b"})) == (403, "insufficientFilePermissions")
    scene.admin("roles", {"id": folder, "role": "none"})
    assert refused(files.get(fileId=file.id)) == (404, "notFound")
    assert files.list().execute()["files"] == []
    assert refused(files.list(q=f"'{folder}' in parents")) == (404, "notFound")


# Content


def _media(content: bytes, *, resumable: bool = False, kind: str = "text/csv", piece: int = 256 << 10) -> MediaIoBaseUpload:
    return MediaIoBaseUpload(io.BytesIO(content), mimetype=kind, resumable=resumable, chunksize=piece)


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("content", [b"", b"a,b\n", os.urandom(700 << 10)], ids=["empty", "small", "pieces"])
def test_what_is_uploaded_is_what_is_downloaded(scene: Scene, content: bytes, resumable: bool):
    files, folder = scene.files, scene.drive.folder()
    body = {"name": "a", "parents": [folder], "appProperties": {"k": "v"}, "modifiedTime": "2020-02-29T12:30:15.123Z"}
    made = files.create(
        body=body, media_body=_media(content, resumable=resumable), fields="id,name,parents,mimeType,modifiedTime"
    ).execute()
    assert {**made, "id": ""} == {
        "id": "",
        "name": "a",
        "parents": [folder],
        "mimeType": "text/csv",
        "modifiedTime": "2020-02-29T12:30:15.123Z",
    }
    assert files.get_media(fileId=made["id"]).execute() == content
    again = files.update(fileId=made["id"], media_body=_media(content + b"more", resumable=resumable), fields="*").execute()
    assert (again["id"], again["name"], again["appProperties"], again["parents"]) == (made["id"], "a", {"k": "v"}, [folder])
    received, done = io.BytesIO(), False
    download = MediaIoBaseDownload(received, files.get_media(fileId=made["id"]), chunksize=100 << 10)
    while not done:
        _progress, done = download.next_chunk()
    assert received.getvalue() == content + b"more"


def test_a_workbook_becomes_a_google_sheet_that_is_exported(scene: Scene, tmp_path: Path):
    files, book = scene.files, workbook(tmp_path / "a.xlsx", ("a", "b"), ("0123", ""))
    media = MediaFileUpload(str(book), mimetype=XLSX)
    made = files.create(body={"name": "a", "mimeType": SHEET}, media_body=media, fields="*").execute()
    assert made["mimeType"] == SHEET
    assert not {"size", "md5Checksum"} & set(made)
    assert files.export(fileId=made["id"], mimeType="text/csv").execute() == b"a,b\r\n0123,\r\n"
    assert refused(files.get_media(fileId=made["id"])) == (403, "fileNotDownloadable")
    newer = MediaFileUpload(str(workbook(tmp_path / "b.xlsx", ("newer",))), mimetype=XLSX)
    files.update(fileId=made["id"], media_body=newer).execute()
    assert files.export(fileId=made["id"], mimeType="text/csv").execute() == b"newer\r\n"
    scene.drive.export_limit = 3
    assert refused(files.export(fileId=made["id"], mimeType="text/csv")) == (403, "exportSizeLimitExceeded")


def test_only_what_google_keeps_is_exported(scene: Scene):
    uploaded = scene.drive.put("a.csv", b"a,b\n")
    assert refused(scene.files.export(fileId=uploaded.id, mimeType="text/csv")) == (403, "fileNotExportable")
    assert refused(scene.files.export(fileId="none", mimeType="text/csv")) == (404, "notFound")


def test_a_file_that_is_moved_keeps_its_time_and_one_that_is_renamed_does_not(scene: Scene):
    first, second = scene.drive.folder(), scene.drive.folder()
    file = scene.drive.put("a", parent=first, modified=LONG_AGO)
    moved = scene.files.update(fileId=file.id, addParents=second, removeParents=first, body={}, fields="*").execute()
    assert (moved["parents"], file.modified) == ([second], LONG_AGO)
    scene.files.update(fileId=file.id, body={"name": "b", "trashed": True}).execute()
    assert (file.name, file.trashed, file.modified > LONG_AGO) == ("b", True, True)


# Faults


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("429", 429, "rateLimitExceeded"),
        ("403", 403, "userRateLimitExceeded"),
        ("500", 500, "internalError"),
        ("503", 503, "backendError"),
        ("quota", 403, "storageQuotaExceeded"),
        ("forbidden", 403, "cannotDownloadFile"),
    ],
)
def test_a_fault_comes_as_often_as_it_is_told_to(scene: Scene, kind: str, status: int, reason: str):
    files = scene.files
    scene.admin("faults", {"op": "list", "kind": kind, "times": 2, "skip": 1, "retry_after": "7"})
    files.list().execute()
    for _time in range(2):
        assert refused(files.list()) == (status, reason)
    files.list().execute()
    assert scene.admin("calls", method="GET")["list"] == 4


def test_connections_that_hang_break_off_or_show_a_page(scene: Scene):
    files = scene.files
    scene.drive.faults.add("hang", "list")
    scene.drive.faults.add("html", "list")
    with pytest.raises(TimeoutError):
        files.list().execute()
    assert files.list().execute().startswith("<!DOCTYPE html>")
    scene.drive.faults.add("reset", "list", times=2)
    with pytest.raises(OSError, match=r"reset|closed"):
        files.list().execute()


@pytest.mark.parametrize(("kind", "standing"), [("lost_503", 200), ("lost_session", 404)])
def test_an_upload_whose_answer_is_lost_is_done(scene: Scene, kind: str, standing: int):
    scene.admin("faults", {"op": "piece", "kind": kind})
    request = scene.files.create(body={"name": "a"}, media_body=_media(b"content", resumable=True))
    assert refused(request) == (503, "backendError")
    assert [each.content for each in scene.drive.files.values()] == [b"content"]
    if standing == 200:
        assert request.execute()["name"] == "a"
    else:
        assert refused(request) == (404, "notFound")
    assert len(scene.drive.files) == 1


def test_an_upload_whose_answer_breaks_off_is_done_once_though_it_is_sent_again(scene: Scene):
    scene.drive.faults.add("lost", "piece")
    request = scene.files.create(body={"name": "a"}, media_body=_media(b"content", resumable=True))
    with pytest.raises((OSError, httplib2.HttpLib2Error)):
        request.execute()
    assert request.execute()["name"] == "a"
    assert len(scene.drive.files) == 1


@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_a_damaged_download_is_not_what_was_uploaded(scene: Scene, kind: str):
    file = scene.drive.put("a", b"content" * 1000)
    scene.drive.faults.add(kind, "media")
    try:
        received = scene.files.get_media(fileId=file.id).execute()
    except HTTPException:
        received = b""
        scene.http.close()
    assert received != file.content
    assert scene.files.get_media(fileId=file.id).execute() == file.content


@pytest.mark.parametrize(("at", "kind"), [("nowhere", "500"), ("list", "none"), ("list", min(LOST)), ("piece", min(DAMAGES))])
def test_a_fault_that_there_is_not_is_refused(scene: Scene, at: str, kind: str):
    assert all("500" in kinds for kinds in KINDS.values())
    with pytest.raises(urllib.error.HTTPError, match="400"):
        scene.admin("faults", {"op": at, "kind": kind})
    assert scene.drive.faults.waiting == []


def test_faults_can_be_ended(scene: Scene):
    scene.admin("faults", {"op": "list", "kind": "500", "times": 100})
    scene.admin("faults", method="DELETE")
    assert scene.files.list().execute()["files"] == []


# What people do


def test_people_can_do_over_http_what_they_do_on_drive(scene: Scene):
    first, second = (scene.admin("files", {"name": name, "mimeType": FOLDER, "driveId": "0A1"})["id"] for name in ("in", "out"))
    content = base64.b64encode(b"a,b\n").decode()
    made = scene.admin("files", {"name": "a.csv", "content": content, "parent": first, "modified": LONG_AGO.isoformat()})
    assert (made["driveId"], made["modifiedTime"]) == ("0A1", "2020-02-29T12:30:15.123Z")
    assert scene.admin(f"files/{made['id']}/content", method="GET") == b"a,b\n"
    moved = scene.admin(f"files/{made['id']}", {"parent": second}, "PATCH")
    assert (moved["parents"], moved["modifiedTime"]) == ([second], made["modifiedTime"])
    changed = scene.admin(f"files/{made['id']}", {"content": "", "trashed": True, "name": "b.csv"}, "PATCH")
    assert (changed["trashed"], changed["name"], changed["modifiedTime"] > made["modifiedTime"]) == (True, "b.csv", True)
    scene.admin(f"files/{made['id']}", method="DELETE")
    assert [each["id"] for each in scene.admin("files", method="GET")] == [first, second]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scene.admin(f"files/{made['id']}", method="DELETE")


def test_the_server_runs_as_a_process_until_it_is_told_to_end(tmp_path: Path):
    place = tmp_path / "address.json"
    process = subprocess.Popen([sys.executable, "-m", "ingestion_dagster.sandbox.google_drive", str(place), "--token", "word"])
    try:
        deadline = time.monotonic() + 20
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(place.read_text())
        with urllib.request.urlopen(f"{address['url']}/healthz", timeout=5) as answer:
            assert json.loads(answer.read()) == {"name": "google_drive", "token": "word"}
        assert (address["pid"], address["token"]) == (process.pid, "word")
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0

"""As much of S3 as the pipelines ask for, in memory, in a process of its own: quicker than moto, which would be what is measured.

Buckets without versioning; objects of one request; conditions on ETags. `ingestion_dagster_tests` prove the pipelines on moto, not on this.
"""

import asyncio
import hashlib
import subprocess
import sys
import time
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from benchmarks.wire import serve

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its bytes, its ETag with quotes, and when it came, in whole seconds."""

    content: bytes
    etag: str
    at: int


class QuickS3:
    """All buckets; one comes to be with its first request."""

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}
        self._names: list[str] = []

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The response to a request."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        name = unquote(path).lstrip("/")
        if "/" not in name.rstrip("/"):
            return self._of_bucket(method, name.rstrip("/"), query)
        standing = self._objects.get(name)
        if standing is None and method in ("GET", "HEAD"):
            return _reply(404, b"<Error><Code>NoSuchKey</Code></Error>", bare=method == "HEAD")
        wanted = headers.get("if-match")
        if wanted and (standing is None or standing.etag.strip('"') != wanted.strip('"')):
            return _reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if method == "PUT":
            return self._put(name, headers, body)
        if method == "DELETE":
            if self._objects.pop(name, None) is not None:
                self._names.remove(name)
            return _reply(204)
        assert standing is not None
        marks = {"ETag": standing.etag, "Last-Modified": formatdate(standing.at, usegmt=True)}
        return _reply(200, standing.content, marks, bare=method == "HEAD")

    def _put(self, name: str, headers: dict[str, str], body: bytes) -> bytes:
        if headers.get("if-none-match") == "*" and name in self._objects:
            return _reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        source = unquote(headers.get("x-amz-copy-source", "")).lstrip("/")
        if source:
            origin = self._objects.get(source)
            if origin is None:
                return _reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            wanted = headers.get("x-amz-copy-source-if-match", origin.etag)
            if wanted.strip('"') != origin.etag.strip('"'):
                return _reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            body = origin.content
        if name not in self._objects:
            insort(self._names, name)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self._objects[name] = Stored(body, etag, int(time.time()))
        if source:
            return _reply(200, f"<CopyObjectResult><ETag>{escape(etag)}</ETag></CopyObjectResult>".encode())
        return _reply(200, marks={"ETag": etag})

    def _of_bucket(self, method: str, bucket: str, query: str) -> bytes:
        if method != "GET" or query.startswith("versioning"):
            return _reply(200, b"<VersioningConfiguration/>" if method == "GET" else b"")
        asked = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        below = f"{bucket}/{asked.get('prefix', '')}"
        after = asked.get("continuation-token") or asked.get("start-after")
        first = bisect_right(self._names, max(f"{bucket}/{after}" if after else "", below[:-1]))
        most = int(asked.get("max-keys", _PAGE))
        page: list[str] = []
        for name in self._names[first:]:
            if not name.startswith(below):
                if name > below:
                    break
                continue
            page.append(name)
            if len(page) > most:
                break
        more, page = len(page) > most, page[:most]
        entries = "".join(self._entry(name.removeprefix(f"{bucket}/"), self._objects[name]) for name in page)
        token = f"<NextContinuationToken>{quote(page[-1].removeprefix(bucket + '/'))}</NextContinuationToken>" if more else ""
        return _reply(200, f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>".encode())

    @staticmethod
    def _entry(key: str, stored: Stored) -> str:
        dated = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.at))
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{dated}</LastModified><ETag>{escape(stored.etag)}</ETag>"
            f"<Size>{len(stored.content)}</Size></Contents>"
        )


def _reply(status: int, content: bytes = b"", marks: dict[str, str] | None = None, *, bare: bool = False) -> bytes:
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(content)}", *(f"{name}: {value}" for name, value in (marks or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if bare or status == 204 else content)


@contextmanager
def quick_s3() -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its URL, and its process id."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.quick_s3"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve(QuickS3()))

"""S3 and SQS by their wire alone: a bucket that holds nothing but keys, and a queue of its events, in a process of their own.

What they stand in for is the network, S3 and SQS; everything on this side of the socket is real. moto would be the bottleneck: it takes
milliseconds of CPU for what this answers in fractions of one. The queue hands each message out once: what is not deleted is counted.
"""

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import urllib.request
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, quote_plus, unquote
from xml.sax.saxutils import escape

BUCKET, QUEUE, ZONE = "bench-bucket", "/123456789012/arrivals", "in"
_PAGE = 1000
_DATED, _DATED_ISO = b"Tue, 04 Feb 2025 09:30:00 GMT", "2025-02-04T09:30:00.000Z"
_DUPLICATES = 0.005


def key_of(number: int, prefixes: int) -> str:
    """The key of an object: random, below one of so many prefixes, which are random as well; with none, they grow like dates."""
    digest = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    if not prefixes:
        return f"{number:012}-{digest[:8]}.json"
    return f"{int(digest[:8], 16) % prefixes:05x}/{digest}.json"


class Wire:
    """What the bucket and the queue hold."""

    def __init__(self, count: int, lost: float, prefixes: int) -> None:
        dice = random.Random(7)
        self.keys = sorted(f"{ZONE}/{key_of(number, prefixes)}" for number in range(count))
        self.standing = set(self.keys)
        self.told = [key for key in self.keys if dice.random() >= lost]
        self.lost = count - len(self.told)
        self.told += dice.sample(self.told, int(len(self.told) * _DUPLICATES))
        dice.shuffle(self.told)
        self.next = 0
        self.deleted = 0

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The response to a request."""
        line = head.split(b"\r\n", 1)[0].decode()
        method, target, _ = line.split(" ")
        path, _, query = target.partition("?")
        if method == "HEAD":
            return self._head(unquote(path).removeprefix(f"/{BUCKET}/"))
        if method == "POST":
            operation = head.lower().partition(b"x-amz-target: amazonsqs.")[2].split(b"\r\n", 1)[0]
            return _reply(b"application/x-amz-json-1.0", json.dumps(self._sqs(operation, json.loads(body))).encode())
        if path == "/counts":
            return _reply(b"application/json", json.dumps({"told": len(self.told), "deleted": self.deleted, "lost": self.lost}).encode())
        if query.startswith("versioning"):
            return _reply(b"application/xml", b"<VersioningConfiguration/>")
        return _reply(b"application/xml", self._listing(parse_qs(query, keep_blank_values=True)).encode())

    def _head(self, key: str) -> bytes:
        if key not in self.standing:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return b'HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nETag: "%s"\r\nLast-Modified: %s\r\n\r\n' % (_etag(key).encode(), _DATED)

    def _sqs(self, operation: bytes, asked: Any) -> Any:
        if operation == b"receivemessage":
            numbers = range(self.next, min(self.next + asked["MaxNumberOfMessages"], len(self.told)))
            self.next = numbers.stop
            return {"Messages": [self._message(number) for number in numbers]} if numbers else {}
        if operation == b"deletemessagebatch":
            self.deleted += len(asked["Entries"])
            return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}
        return {"Attributes": {}}

    def _message(self, number: int) -> dict[str, str]:
        body = _EVENT.replace("KEY", quote_plus(self.told[number])).replace("ETAG", _etag(self.told[number]))
        return {"MessageId": f"{number:036}", "ReceiptHandle": f"{number:0300}", "MD5OfBody": "0" * 32, "Body": body}

    def _listing(self, query: dict[str, list[str]]) -> str:
        after = query.get("continuation-token", query.get("start-after", [query["prefix"][0]]))[0]
        first = bisect_right(self.keys, after)
        page = self.keys[first : first + _PAGE]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_DATED_ISO}</LastModified><ETag>&quot;{_etag(key)}&quot;</ETag>"
            "<Size>1024</Size></Contents>"
            for key in page
        )
        more = first + _PAGE < len(self.keys)
        token = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"


_EVENT = json.dumps(
    {
        "Records": [
            {
                "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-2", "eventTime": _DATED_ISO,
                "eventName": "ObjectCreated:Put", "userIdentity": {"principalId": "AWS:EXAMPLE"},
                "requestParameters": {"sourceIPAddress": "192.0.2.1"},
                "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "x" * 76},  # pragma: allowlist secret
                "s3": {
                    "s3SchemaVersion": "1.0", "configurationId": "arrivals",
                    "bucket": {"name": BUCKET, "ownerIdentity": {"principalId": "EXAMPLE"}, "arn": f"arn:aws:s3:::{BUCKET}"},
                    "object": {"key": "KEY", "size": 1024, "eTag": "ETAG", "sequencer": "0055AED6DCD90281E5"},  # pragma: allowlist secret
                },
            }
        ]
    }
)  # fmt: skip


def _etag(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[0][-32:].rjust(32, "0")


def _reply(kind: bytes, content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(content), content)


class Answering(Protocol):
    """What stands behind the wire."""

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The response to a request."""


class _Connection(asyncio.Protocol):
    def __init__(self, wire: Answering) -> None:
        self._wire, self._data = wire, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._data) < end + 4 + length:
                if b"\r\nexpect: 100-continue" in head.lower() and len(self._data) == end + 4:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            self._transport.write(self._wire.answer(head, body))


async def serve(wire: Answering) -> None:
    """Answer on a free port of loopback, whose URL is printed, until this process ends."""
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(wire), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Served:
    """Where a wire answers."""

    url: str

    def counts(self) -> dict[str, int]:
        """Messages there were, messages deleted, objects that no message told of."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=60) as answer:
            counts: dict[str, int] = json.load(answer)
            return counts


@contextmanager
def served(count: int, *, lost: float, prefixes: int) -> Iterator[Served]:
    """A wire in a process of its own, over so many objects of which a share was never told of."""
    command = [sys.executable, "-m", "benchmarks.wire", str(count), str(lost), str(prefixes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Served(process.stdout.readline().strip())
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve(Wire(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))

"""A record of the stream as a line of a file, or as a dead letter, and why."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ingestion_dagster.engine.kinesis import Record

_TOPIC = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,249}")
_LARGEST = 2**63 - 2
_AGGREGATED = b"\xf3\x89\x9a\xc2"


@dataclass(frozen=True, slots=True)
class Line:
    """A record as a line of a file: its topic, or None and why it belongs to none."""

    topic: str | None
    content: bytes
    codes: tuple[str, ...] = ()


def read(record: Record) -> Line:
    """A record as a line: its envelope as it was sent, or what is kept of a dead letter. The same record gives the same line."""
    codes: tuple[str, ...]
    try:
        envelope = orjson.loads(record.data)
    except orjson.JSONDecodeError:
        codes = ("record_aggregated" if record.data.startswith(_AGGREGATED) else "record_not_json",)
    else:
        codes = tuple(_faults(envelope)) if isinstance(envelope, dict) else ("record_not_json",)
        if not codes:
            # Line breaks in JSON stand between its parts only. Written anew, numbers would not be what they were.
            return Line(envelope["topic"], record.data.strip().replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
    dead = {
        "shard": record.shard,
        "sequence_number": record.sequence_number,
        "arrived": record.arrived.isoformat(),
        "codes": codes,
        "data": base64.b64encode(record.data).decode(),
    }
    return Line(None, orjson.dumps(dead) + b"\n", codes)


def _faults(envelope: dict[str, Any]) -> Iterator[str]:
    topic = envelope.get("topic")
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        yield "record_without_topic"
    for name in ("partition", "offset"):
        number = envelope.get(name)
        if type(number) is not int or not 0 <= number <= _LARGEST:
            yield f"record_without_{name}"

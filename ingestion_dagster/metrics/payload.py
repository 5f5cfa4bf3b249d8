"""The JSON of a metric file before any rule: decoding it, its dataset, its identity."""

import hashlib
import json
from typing import Final

import orjson

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.metrics.problems import Code
from ingestion_dagster.metrics.rules import reference

UNCLASSIFIED: Final = "unclassified"
_TOO_DEEP = "the content is nested too deeply; a metric file has three levels"


def decode(raw: bytes) -> dict[str, object]:
    """The JSON object in `raw`: UTF-8, a byte order mark allowed.

    NaN, infinities and broken surrogate pairs pass, so that `judge` can tell where they are. Raises `Refused`:
    `unreadable_json` or `not_an_object`.
    """
    payload, reason = _loads(raw)
    # Raised here and not while handling the decoder's error, which carries the whole content along.
    if reason:
        raise Refused(Problem(Code.UNREADABLE_JSON.value, "file", reason))
    if not isinstance(payload, dict):
        raise Refused(Problem(Code.NOT_AN_OBJECT.value, "file", "the content must be one JSON object"))
    return payload


def _loads(raw: bytes) -> tuple[object, str]:
    """The decoded content, or why there is none."""
    try:
        return orjson.loads(raw), ""
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode("utf-8-sig")), ""
    except json.JSONDecodeError as error:
        return None, f"not JSON at line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start}"
    except RecursionError:
        return None, _TOO_DEEP
    except ValueError:
        return None, "a number has too many digits"


def dataset_of(payload: dict[str, object]) -> str:
    """The dataset a file belongs to: its metric group, or `UNCLASSIFIED` where that is none."""
    group = payload.get("metric_group")
    return group if isinstance(group, str) and group in reference().metric_groups else UNCLASSIFIED


def content_hash(payload: dict[str, object]) -> str:
    """SHA-256, in hex, of the payload as canonical JSON: key order and whitespace do not count, every value does.

    Raises `Refused` (`unreadable_json`) for nesting no metric file has.
    """
    canonical = _canonical(payload)
    if canonical is None:
        raise Refused(Problem(Code.UNREADABLE_JSON.value, "file", _TOO_DEEP))
    return hashlib.sha256(canonical).hexdigest()


def _canonical(payload: dict[str, object]) -> bytes | None:
    try:
        canonical = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
        # orjson writes NaN and infinities as null; such a file must not pass for the one that really holds null.
        if b"null" not in canonical or orjson.loads(canonical) == payload:
            return canonical
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        return None

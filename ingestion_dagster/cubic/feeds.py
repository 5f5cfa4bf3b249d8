"""What the DMAP feeds are: which of them are wanted, what is asked of them, and what an answer says. No I/O."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from ingestion_dagster.cubic.registry import PIPELINE, CubicTable, Registry

PAGE = 100
"""Datasets of one page: the feeds answer no more at a time, whatever is asked for."""

Family = Literal["public", "controlled"]
FAMILIES: Mapping[str, Family] = {"datasetpublicusersapi": "public", "datasetcontrolleduserapi": "controlled"}
"""The first part of a feed's path says which of the two keys opens it."""

_AGGREGATIONS = "/datasetpublicusersapi/aggregations"
_TRANSACTIONAL = "/datasetcontrolleduserapi/transactional"
PATHS: Mapping[str, str] = {
    path.rpartition("/")[2]: path
    for path in (
        f"{_AGGREGATIONS}/agg_average_boardings_by_day_type_month",
        f"{_AGGREGATIONS}/agg_boardings_fareprod_mode_month",
        f"{_AGGREGATIONS}/agg_total_boardings_month_mode",
        f"{_AGGREGATIONS}/agg_hourly_entry_exit_count",
        f"{_AGGREGATIONS}/agg_daily_fareprod",
        f"{_AGGREGATIONS}/agg_daily_fareprod_station",
        f"{_AGGREGATIONS}/agg_daily_fareprod_route",
        f"{_AGGREGATIONS}/agg_daily_transfers_station",
        f"{_AGGREGATIONS}/agg_daily_transfers_route",
        f"{_TRANSACTIONAL}/use_transaction_location",
        f"{_TRANSACTIONAL}/use_transaction_longitudinal",
        f"{_TRANSACTIONAL}/sale_transaction",
        f"{_TRANSACTIONAL}/device_event",
        f"{_TRANSACTIONAL}/citation",
    )
}
"""The known feeds by type, which is the last part of their path. A type of the registry that is none of them is a public aggregation."""

OVERLAP = timedelta(days=1)
"""A listing begins this long before the cursor: it can be asked for by the day only, and a feed may add to a day that seemed over."""

HELD = timedelta(days=30)
"""A dataset that was listed and could not be fetched holds the cursor back for so long, so that it is listed again."""

_SAFE = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
_LONGEST_NAME = 200
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:?\d{2})?", re.ASCII)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_TOLERANCE = timedelta(days=1)
_FIELDS = ("id", "dataset_id", "url", "start_date", "end_date", "last_updated")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed and the table that its datasets are for."""

    path: str
    """Below the base URL; its name in the database."""
    table: CubicTable

    @property
    def type(self) -> str:
        """What its datasets carry as `id`."""
        return self.path.rpartition("/")[2]

    @property
    def family(self) -> Family:
        """Whose key opens it."""
        return FAMILIES[self.path.split("/")[1]]

    @property
    def asset(self) -> tuple[str, ...]:
        """Key of its asset."""
        return (PIPELINE, "dmap_feed", self.type)

    def key(self, dataset_id: str) -> str:
        """Where a dataset is put in the landing zone. A new issue takes the place of the one before: it is a new version of that key."""
        return f"{self.table.prefix}{dataset_id}.csv.gz"


@dataclass(frozen=True, slots=True)
class Listed:
    """A dataset as a feed lists it: one issue of it, and a link that soon expires."""

    dataset_id: str
    last_updated: datetime
    start_date: date
    end_date: date
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record of a listing that cannot be followed: why, and which issue it is about, as far as that can be told."""

    reason: str
    dataset_id: str | None = None
    last_updated: datetime | None = None


class NotAListing(Exception):
    """An answer that holds no page of a listing; says why."""


def feeds_of(registry: Registry) -> tuple[Feed, ...]:
    """The feeds that are wanted: one for each active dmap table that takes whole datasets of one type, `cubic/dmap/<type>/`."""
    wanted = []
    for table in registry.tables.values():
        folder, _, name = table.prefix.rstrip("/").rpartition("/")
        if table.kind == "dmap" and table.is_active and folder == f"{PIPELINE}/dmap" and _is_name(name):
            wanted.append(Feed(PATHS.get(name, f"{_AGGREGATIONS}/{name}"), table))
    return tuple(sorted(wanted, key=lambda feed: feed.type))


def question(since: date | None, offset: int) -> dict[str, str]:
    """What a page of a listing is asked for with: since which day, all if none; and how many datasets come before it."""
    asked = {"limit": str(PAGE), "offset": str(offset)}
    return asked if since is None else {"last_updated": since.isoformat(), **asked}


def since(cursor: datetime | None) -> date | None:
    """The day from which on a listing is asked for."""
    return None if cursor is None else (cursor.astimezone(UTC) - OVERLAP).date()


def parse_page(body: bytes) -> list[Any]:
    """The records of a page, none of them judged yet. Raises `NotAListing` if it is none, or the feed itself says that it failed."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAListing("it is no JSON") from None
    if not isinstance(content, dict):
        raise NotAListing("it is no JSON object")
    if content.get("success") is not True:
        raise NotAListing("it does not say success: true")
    if not isinstance(content.get("results"), list):
        raise NotAListing("it has no list of results")
    return list(content["results"])


def fingerprint(record: Any) -> str:
    """By which a record is known again on another page: all of it but the link, which is signed anew each time."""
    if isinstance(record, dict):
        record = {name: value for name, value in record.items() if name != "url"}
    return json.dumps(record, sort_keys=True)


def read_record(feed: Feed, record: Any, *, now: datetime, plain_http: bool = False) -> Listed | Invalid:
    """A record of a listing, judged. Times without a zone are UTC. With `plain_http` a link to this machine may do without TLS.

    What it holds becomes a key and an address that is asked, so nothing in it is believed.
    """
    if not isinstance(record, dict):
        return Invalid("is no object")
    dataset_id = record.get("dataset_id")
    if not isinstance(dataset_id, str) or not _is_name(dataset_id):
        return Invalid("dataset_id is no name")
    last_updated = _moment(record.get("last_updated"))
    if last_updated is None:
        return Invalid("last_updated is no ISO time", dataset_id)
    if not _EARLIEST <= last_updated <= now + _TOLERANCE:
        return Invalid("last_updated lies in the future or the distant past", dataset_id)
    missing = [name for name in _FIELDS if record.get(name) is None]
    if missing:
        return Invalid(f"{missing[0]} is missing", dataset_id, last_updated)
    if record["id"] != feed.type:
        return Invalid("id is not the type of the feed", dataset_id, last_updated)
    days = [_day(record[name]) for name in ("start_date", "end_date")]
    if days[0] is None or days[1] is None:
        return Invalid("start_date or end_date is no ISO date", dataset_id, last_updated)
    if not is_link(record["url"], plain_http=plain_http):
        return Invalid("url is no https address of a file", dataset_id, last_updated)
    return Listed(dataset_id, last_updated, days[0], days[1], record["url"])


def newest(listed: Iterable[Listed]) -> dict[str, Listed]:
    """Of each dataset the newest issue listed, oldest first: a dataset that is issued anew while it is listed is listed twice."""
    found: dict[str, Listed] = {}
    for each in sorted(listed, key=lambda each: (each.last_updated, each.dataset_id)):
        found.pop(each.dataset_id, None)
        found[each.dataset_id] = each
    return found


def reasons(invalid: Iterable[Invalid]) -> list[tuple[str, int]]:
    """Why records were not followed, and how many."""
    return sorted(Counter(each.reason for each in invalid).items())


def is_link(url: Any, *, plain_http: bool = False) -> bool:
    """Whether it is an https address with a host and a path, and nobody's name in it."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.path in ("", "/"):
        return False
    return parts.scheme == "https" or (plain_http and parts.scheme == "http" and host in _LOOPBACK)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    try:
        return urlsplit(url).hostname in _LOOPBACK
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    return _SAFE.fullmatch(text) is not None and len(text) <= _LONGEST_NAME


def _day(text: Any) -> date | None:
    if isinstance(text, str) and _DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    return None


def _moment(text: Any) -> datetime | None:
    if isinstance(text, str) and _MOMENT.fullmatch(text):
        try:
            read = datetime.fromisoformat(text)
            return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    return None

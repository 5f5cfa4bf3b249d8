"""What may be asked of the catalogue over HTTP: its shape, and whether it makes sense before anything is queued."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson
import psycopg
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ingestion_dagster.catalog import journal, refreshes, steps, tasks_sql
from ingestion_dagster.catalog.alongside import is_unfinished
from ingestion_dagster.catalog.refreshes import Busy, Refresh, check_suffix
from ingestion_dagster.catalog.registry import MEDIA_TYPES, filtered_name, index_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.ledger import Status
from ingestion_dagster.engine.postgres import Connection

Kind = Literal["bad_request", "not_found", "conflict", "unprocessable"]


class Declined(Exception):
    """A task that is not queued: of what kind the reason is, and the reason, which holds nothing but what was asked."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


NOTHING_BEHIND = "model_3d"
"""A media type that callers may name besides those that there are; it is refused as what it is."""

if TYPE_CHECKING:
    Model = str
else:
    Model = Literal[(*MEDIA_TYPES, NOTHING_BEHIND)]
    """Media types that callers may name."""


class Action(StrEnum):
    """What can be asked for."""

    INGEST_UPSTREAM = "INGEST_UPSTREAM"
    PROMOTE = "PROMOTE"
    REINDEX = "REINDEX"
    POINT_ALIAS = "POINT_ALIAS"
    UPDATE_INDEX = "UPDATE_INDEX"
    DELETE_INDEX = "DELETE_INDEX"
    CREATE_AND_POPULATE_FILTERED_INDEX = "CREATE_AND_POPULATE_FILTERED_INDEX"
    LOAD_TEST_DATA = "LOAD_TEST_DATA"
    ROLLBACK = "ROLLBACK"


NEEDED: Mapping[Action, tuple[str, ...]] = {
    Action.PROMOTE: ("index_suffix", "alias"),
    Action.POINT_ALIAS: ("index_suffix", "alias"),
    Action.UPDATE_INDEX: ("index_suffix", "since_date"),
}
"""Fields without which an action cannot be."""


class TaskRequest(BaseModel):
    """The body of `POST /task`. Keys that are not listed are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: Model = Field(description="The media type")
    action: Action = Field(description="What is to be done")
    callback_url: str | None = Field(None, description="Gets one signed POST when the task has ended, well or not")
    index_suffix: str | None = Field(None, description="Ends the index's name; otherwise the id of the task, where an index is made")
    alias: str | None = Field(None, description="Alias to be moved, or behind which an index is deleted")
    since_date: str | None = Field(None, description="UPDATE_INDEX: rows changed since then, a date as Postgres reads it, UTC without zone")
    force_delete: bool = Field(False, description="DELETE_INDEX: delete the index behind the alias, too")
    origin_index_suffix: str | None = Field(None, description="Whose rows a filtered index is made of; otherwise what the alias leads to")
    destination_index_suffix: str | None = Field(None, description="Suffix of the filtered index, without -filtered; otherwise a new one")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in NEEDED.get(self.action, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{self.action} needs {name}")
        if self.action is Action.DELETE_INDEX and (self.index_suffix is None) == (self.alias is None):
            raise ValueError("DELETE_INDEX needs either alias or index_suffix, and not both")
        return self

    @property
    def digest(self) -> str:
        """The same for the same request, however it was written."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a request is judged by. `connection` leads to the ledger's database."""

    connection: Connection
    engine: SearchEngine


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_MOMENT_LENGTH = 100


def is_index_name(name: str) -> bool:
    """Whether an index or alias of ours can have this name: no pattern, no list, nothing that a search cluster reads otherwise."""
    return _NAME.fullmatch(name) is not None


def check(standing: Standing, asked: TaskRequest, task_id: str) -> dict[str, Any]:
    """What the action needs, in full (see `Task.request`). Raises `Declined`, and `Busy` for work that is in its way."""
    if asked.model not in MEDIA_TYPES:
        raise Declined("unprocessable", f"there is nothing behind {asked.model} yet; ask for {' or '.join(MEDIA_TYPES)}")
    return {"digest": asked.digest} | _CHECKS[asked.action](standing, asked, task_id)


def _ingest(standing: Standing, asked: TaskRequest, task_id: str) -> dict[str, Any]:
    suffix = _new_suffix(asked.index_suffix, task_id)
    going = refreshes.at_work(standing.connection, asked.model)
    if going is not None and going.suffix == suffix:
        if not is_resumable(standing.connection, going):
            raise Busy(asked.model, f"refresh {suffix}")
    else:
        if _refresh(standing, asked.model, suffix) is not None:
            raise Declined("conflict", f"a refresh of {asked.model} has had the suffix {suffix}; take another")
        _demand_no_index(standing, index_name(asked.model, suffix))
        if going is not None and steps.is_going(standing.connection, going):
            raise Busy(
                asked.model,
                f"refresh {going.suffix}, which is {going.state}; INGEST_UPSTREAM with that suffix goes on with it if nobody does, "
                "DELETE_INDEX with it gives it up",
            )
    return {"index_suffix": suffix, "fills": suffix}


def is_resumable(connection: Connection, refresh: Refresh) -> bool:
    """Whether a refresh that a task has asked for was broken off, and can go on."""
    (load,) = ledger.loads(connection, [refresh.load_id])
    return (
        refresh.asked_by.startswith("task ") and not refresh.promote and (load.status is Status.READY or not _is_held(connection, refresh))
    )


def _promote(standing: Standing, asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    suffix = _suffix(asked.index_suffix)
    alias = _alias(standing, asked)
    refresh = _refresh(standing, asked.model, suffix)
    if refresh is None:
        raise Declined("not_found", f"there is no refresh {suffix} of {asked.model}")
    if not refresh.is_at_work:
        raise Declined("conflict", f"refresh {suffix} of {asked.model} is {refresh.state}; only one that is filled can be promoted")
    if not refresh.reached("filled"):
        raise Declined("conflict", f"refresh {suffix} of {asked.model} is {refresh.state}: it is promoted once it is filled")
    if _is_held(standing.connection, refresh):
        raise Busy(asked.model, f"refresh {suffix}")
    return {"index_suffix": suffix, "alias": alias}


def _reindex(standing: Standing, asked: TaskRequest, task_id: str) -> dict[str, Any]:
    suffix = _new_suffix(asked.index_suffix, task_id)
    if _refresh(standing, asked.model, suffix) is not None:
        raise Declined("conflict", f"a refresh of {asked.model} has had the suffix {suffix}; take another")
    _demand_no_refresh(standing, asked.model)
    _demand_new_or_unfinished(standing, asked.model, index_name(asked.model, suffix), suffix)
    return {"index_suffix": suffix, "fills": suffix}


def _point_alias(standing: Standing, asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    suffix = _suffix(asked.index_suffix, or_filtered=True)
    alias = _alias(standing, asked)
    _demand_index(standing, index_name(asked.model, suffix))
    _demand_finished(standing, asked.model, suffix)
    _demand_no_promotion(standing, asked.model)
    return {"index_suffix": suffix, "alias": alias}


def _update(standing: Standing, asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    suffix = _suffix(asked.index_suffix, or_filtered=True)
    since = _moment(standing.connection, asked.since_date or "")
    _demand_index(standing, index_name(asked.model, suffix))
    _demand_no_promotion(standing, asked.model)
    return {"index_suffix": suffix, "since_date": since}


def _delete(standing: Standing, asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    _demand_no_promotion(standing, asked.model)
    if asked.alias is not None:
        return _delete_alias(standing, asked, asked.alias)
    suffix = _suffix(asked.index_suffix, or_filtered=True)
    name = index_name(asked.model, suffix)
    refresh = _refresh(standing, asked.model, suffix.removesuffix("-filtered"))
    if refresh is not None and refresh.is_at_work:
        if _is_held(standing.connection, refresh):
            raise Busy(asked.model, f"refresh {refresh.suffix}")
        if suffix == refresh.suffix:
            return {"index_suffix": suffix, "targets": [name]}
    if standing.engine.behind(name):
        raise Declined("bad_request", f"{name} is an alias; to delete what is behind it name it as alias, with force_delete")
    _demand_index(standing, name)
    if aliases := standing.engine.aliases_of(name):
        raise Declined("bad_request", f"{', '.join(aliases)} leads to {name}: move it away first")
    if refresh is not None and refresh.state == "live" and suffix == refresh.suffix:
        raise Declined("bad_request", f"{name} belongs to the refresh that is live")
    return {"index_suffix": suffix, "targets": [name]}


def _delete_alias(standing: Standing, asked: TaskRequest, alias: str) -> dict[str, Any]:
    if not is_index_name(alias):
        raise Declined("unprocessable", f"'{alias[:80]}' cannot be an alias")
    indexes = standing.engine.behind(alias)
    if not indexes:
        is_index = standing.engine.exists(alias)
        raise Declined("bad_request" if is_index else "not_found", f"{alias} is {'an index' if is_index else 'not there'}, and no alias")
    if not asked.force_delete:
        raise Declined("bad_request", f"{alias} is an alias: with force_delete the index behind it goes, too")
    for index in indexes:
        if not index.startswith(f"{asked.model}-"):
            raise Declined("bad_request", f"{alias} leads to {index}, which is no index of {asked.model}")
        if others := [other for other in standing.engine.aliases_of(index) if other != alias]:
            raise Declined("bad_request", f"{', '.join(others)} leads to {index}, too: move it away first")
        refresh = _refresh(standing, asked.model, index.removeprefix(f"{asked.model}-").removesuffix("-filtered"))
        if refresh is not None and _is_held(standing.connection, refresh):
            raise Busy(asked.model, f"refresh {refresh.suffix}")
    return {"alias": alias, "force_delete": True, "targets": list(indexes)}


def _filter(standing: Standing, asked: TaskRequest, task_id: str) -> dict[str, Any]:
    _demand_no_promotion(standing, asked.model)
    if asked.origin_index_suffix is not None:
        origin = _suffix(asked.origin_index_suffix)
        _demand_index(standing, index_name(asked.model, origin))
    else:
        behind = standing.engine.behind(asked.model)
        if len(behind) != 1:
            raise Declined("not_found", f"no single index is behind the alias {asked.model}; name one by origin_index_suffix")
        origin = behind[0].removeprefix(f"{asked.model}-")
    _demand_finished(standing, asked.model, origin)
    _demand_no_refresh(standing, asked.model)
    destination = _new_suffix(asked.destination_index_suffix, task_id)
    fills = f"{destination}-filtered"
    _demand_new_or_unfinished(standing, asked.model, filtered_name(asked.model, destination), fills)
    return {"origin_index_suffix": origin, "destination_index_suffix": destination, "fills": fills}


def _load_test_data(_standing: Standing, _asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    return {}


def _rollback(standing: Standing, asked: TaskRequest, _task_id: str) -> dict[str, Any]:
    _demand_no_promotion(standing, asked.model)
    if refreshes.live(standing.connection, asked.model) is None:
        raise Declined("conflict", f"no refresh of {asked.model} is live: there is nothing to roll back")
    return {}


_CHECKS: Mapping[Action, Callable[[Standing, TaskRequest, str], dict[str, Any]]] = {
    Action.INGEST_UPSTREAM: _ingest,
    Action.PROMOTE: _promote,
    Action.REINDEX: _reindex,
    Action.POINT_ALIAS: _point_alias,
    Action.UPDATE_INDEX: _update,
    Action.DELETE_INDEX: _delete,
    Action.CREATE_AND_POPULATE_FILTERED_INDEX: _filter,
    Action.LOAD_TEST_DATA: _load_test_data,
    Action.ROLLBACK: _rollback,
}


def _suffix(text: str | None, *, or_filtered: bool = False) -> str:
    bare = (text or "").removesuffix("-filtered") if or_filtered else text or ""
    try:
        check_suffix(bare)
    except ConfigurationError as error:
        raise Declined("unprocessable", str(error)) from None
    return text or ""


def _new_suffix(text: str | None, task_id: str) -> str:
    return task_id if text is None else _suffix(text)


def _alias(standing: Standing, asked: TaskRequest) -> str:
    """The alias, if it can be one of this media type. Raises `Declined`."""
    alias = asked.alias or ""
    if not is_index_name(alias):
        raise Declined("unprocessable", f"'{alias[:80]}' cannot be an alias: small letters, digits, - and _, 200 at most")
    if any(alias == other or alias.startswith(f"{other}-") for other in MEDIA_TYPES if other != asked.model):
        raise Declined("unprocessable", f"{alias} is an alias of another media type than {asked.model}")
    if alias.endswith("-filtered") != (asked.index_suffix or "").endswith("-filtered"):
        raise Declined("unprocessable", f"{alias}: an alias that ends in -filtered leads to a filtered index, and no other does")
    if not standing.engine.behind(alias) and standing.engine.exists(alias):
        raise Declined("unprocessable", f"{alias} is an index, and cannot be an alias")
    return alias


def _moment(connection: Connection, text: str) -> str:
    """A date or time as Postgres reads it, in ISO form. Raises `Declined`."""
    refused = Declined("unprocessable", f"'{text[:80]}' is no date that rows can have changed since; write YYYY-MM-DD")
    if len(text) > _MOMENT_LENGTH:
        raise refused
    try:
        with connection.transaction():
            row = connection.execute(tasks_sql.MOMENT, {"text": text}).fetchone()
    except psycopg.DataError:
        raise refused from None
    assert row is not None
    is_finite, year, moment = row
    if not is_finite or not 1 <= year <= 9999:
        raise refused
    return str(moment)


def _refresh(standing: Standing, model: str, suffix: str) -> Refresh | None:
    try:
        return refreshes.get(standing.connection, model, suffix)
    except ConfigurationError:
        return None


def _is_held(connection: Connection, refresh: Refresh) -> bool:
    row = connection.execute(tasks_sql.IS_HELD, {"load_id": refresh.load_id}).fetchone()
    return row is not None and bool(row[0])


def _demand_index(standing: Standing, name: str) -> None:
    if standing.engine.behind(name) or not standing.engine.exists(name):
        raise Declined("not_found", f"there is no index {name}")


def _demand_no_index(standing: Standing, name: str) -> None:
    if standing.engine.exists(name):
        raise Declined("conflict", f"there is a {name} already; take another suffix")


def _demand_new_or_unfinished(standing: Standing, model: str, name: str, fills: str) -> None:
    """Raises `Declined` for an index that is there, unless a task like this one has left it unfinished: that is gone on with."""
    if standing.engine.exists(name) and not is_unfinished(standing.connection, model, fills):
        raise Declined("conflict", f"there is a {name} already; take another suffix")


def _demand_finished(standing: Standing, model: str, suffix: str) -> None:
    """Raises `Declined` for an index that does not hold yet what it should."""
    refresh = _refresh(standing, model, suffix.removesuffix("-filtered"))
    is_short = refresh is not None and refresh.is_at_work and not refresh.reached("filled")
    if is_short or is_unfinished(standing.connection, model, suffix):
        raise Declined("conflict", f"{index_name(model, suffix)} is not complete: what fills it has not come to its end")


def _demand_no_promotion(standing: Standing, model: str) -> None:
    going = refreshes.at_work(standing.connection, model)
    if going is not None and going.state == "promoting":
        raise Busy(model, f"refresh {going.suffix} is being promoted")
    journal.demand_ended(standing.connection, model)


def _demand_no_refresh(standing: Standing, model: str) -> None:
    """Raises `Busy` while a refresh is on its way; one that failed, or waits until somebody asks for its promotion, is in nobody's way."""
    going = refreshes.at_work(standing.connection, model)
    if going is not None and (steps.is_going(standing.connection, going) or _is_held(standing.connection, going)):
        raise Busy(model, f"refresh {going.suffix}")

"""What the routes of the catalogue answer, as the OpenAPI document tells of it."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.task_requests import is_index_name
from ingestion_dagster.catalog.tasks import Task


class Message(BaseModel):
    """What became of a request, in words."""

    message: str


class Health(BaseModel):
    """That the server answers."""

    status: str = Field(description="`200 OK`")


class Dependencies(BaseModel):
    """What is wrong with what the catalogue depends on; empty lists: nothing."""

    es: list[str] = Field(description="of the search engine")
    db: list[str] = Field(description="of the databases")


class Unhealthy(BaseModel):
    """That what the server depends on does not answer as it should."""

    status: str = Field(description="`503 Service Unavailable`")
    dependencies: Dependencies


class Stat(BaseModel):
    """An index or alias."""

    exists: bool
    is_alias: bool | None = Field(description="null: there is neither")
    alt_names: str | list[str] | None = Field(description="of an index its aliases, of an alias the (first) index behind it")
    indexes: list[str] = Field(description="of an alias all indexes behind it, of an index itself")


class Accepted(BaseModel):
    """A task that will be done, or is, or was."""

    message: str
    task_id: str = Field(pattern="^[0-9a-f]{32}$")
    status_check: str = Field(description="URL that tells how the task stands")


class TaskAnswer(BaseModel):
    """How a task stands. Times are UTC: `YYYY-MM-DD HH:MM:SS.ffffff`, timestamps seconds since 1970 (0: not yet)."""

    task_id: str
    active: bool = Field(description="it waits, or somebody works on it, here or elsewhere")
    model: str
    action: str
    progress: float = Field(ge=0, le=100, description="percent; it never falls")
    start_timestamp: float
    start_time: str
    finish_timestamp: float
    finish_time: str | None
    active_workers: bool = Field(description="an index is being filled for it at this moment")
    error: bool = Field(description="it has ended, and not well")
    is_bad_request: bool = Field(description="what was asked for turned out not to be possible")
    error_message: str | None = Field(description="why it ended so")
    index_suffix: str | None = Field(description="the suffix that it is about")
    callback: str | None = Field(description="what became of its callback")


def task_answer(task: Task) -> TaskAnswer:
    """How a task stands, as callers are told."""
    # One whose process has just gone is looked at again before anybody is told that it failed.
    is_over = task.state in ("succeeded", "failed")
    return TaskAnswer(
        task_id=task.id,
        active=not is_over,
        model=task.model,
        action=task.action,
        progress=task.progress,
        start_timestamp=task.created_at.timestamp(),
        start_time=_text(task.created_at),
        finish_timestamp=task.finished_at.timestamp() if task.finished_at else 0,
        finish_time=_text(task.finished_at) if task.finished_at else None,
        active_workers=task.has_workers,
        error=task.state == "failed",
        is_bad_request=task.is_bad_request,
        error_message=task.error,
        index_suffix=task.request.get("index_suffix") or task.request.get("destination_index_suffix"),
        callback=task.callback_outcome,
    )


def stat(engine: SearchEngine, name: str) -> Stat:
    """What is known by a name in the search engine."""
    if is_index_name(name):
        if behind := engine.behind(name):
            return Stat(exists=True, is_alias=True, alt_names=behind[0], indexes=list(behind))
        if engine.exists(name):
            return Stat(exists=True, is_alias=False, alt_names=list(engine.aliases_of(name)), indexes=[name])
    return Stat(exists=False, is_alias=None, alt_names=None, indexes=[])


Descriptions = dict[int, tuple[str, type[BaseModel]]]


def described(descriptions: Descriptions) -> dict[int | str, dict[str, Any]]:
    """Answers by status, as routes describe them."""
    return {status: {"description": text, "model": model} for status, (text, model) in descriptions.items()}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

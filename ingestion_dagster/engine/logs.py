"""What this project's processes log: one line a record, for people or as JSON, and nothing that a file name could add to it."""

import logging
import sys
from collections.abc import Sequence
from typing import Any, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.secrets import secrets_of, without
from ingestion_dagster.settings import Settings

Format = Literal["text", "json"]

PLAIN, DATED = "%(message)s", "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Texts for a person at a terminal, and for a server's log."""

_TRACE = "  | "
"""Before each line of a stack trace, so that no line of it can pass for a record."""
_DAGSTERS = ("dagster_meta", "dagster_event")
_OURS = "ingestion_dagster"
_OF_RUN = ("run_id", "job_name", "step_key")


class TextFormatter(logging.Formatter):
    """One line a record, control characters spelt out; a stack trace below it, each line marked."""

    def __init__(self, text: str, hidden: Sequence[str] = ()) -> None:
        super().__init__(text)
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """The record, whatever another formatter has kept of its stack trace."""
        own = logging.makeLogRecord(record.__dict__)
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record's own line."""
        return one_line(without(super().formatMessage(record), self._hidden))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The stack trace."""
        return _marked(without(super().formatException(ei), self._hidden))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        """A stack that was asked for."""
        return _marked(without(super().formatStack(stack_info), self._hidden))


class LineFormatter(JsonFormatter):
    """One JSON object a record: `timestamp`, `level`, `logger`, `message`, what was added to it, and the stack trace in `exception`."""

    def __init__(self, hidden: Sequence[str] = ()) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            rename_fields_keep_missing=False,
            reserved_attrs=[*RESERVED_ATTRS, *_DAGSTERS],
            timestamp=True,
            json_default=str,
        )
        self._hidden = hidden

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """The object, its texts without secrets."""
        return {name: without(value, self._hidden) if isinstance(value, str) else value for name, value in log_data.items()}

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Ours, and of which run and step of Dagster's it is told."""
        super().add_fields(log_data, record, message_dict)
        of = getattr(record, "dagster_meta", None)
        if isinstance(of, dict):
            log_data["message"] = of.get("orig_message") or log_data.get("message")
            log_data.update({name: of[name] for name in _OF_RUN if of.get(name)})


def formatter(wanted: Format, text: str, hidden: Sequence[str] = ()) -> logging.Formatter:
    """Makes lines of records."""
    return LineFormatter(hidden) if wanted == "json" else TextFormatter(text, hidden)


class _Stderr(logging.Handler):
    """Writes to what stderr is at that moment."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Nothing that a run of Dagster's, which has our loggers in hand, tells on its own console."""
        if record.name.partition(".")[0] == _OURS and logging.getLogger(_OURS).handlers:
            return False
        return bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - a log that cannot be written ends nothing
            self.handleError(record)


def configure(settings: Settings | None, text: str = PLAIN) -> None:
    """Have this process log to stderr as the settings say; without settings that can be read, as text. Levels stay what they are."""
    wanted: Format = settings.log_format if settings is not None else "text"
    handler = _Stderr()
    handler.setFormatter(formatter(wanted, text, secrets_of(settings) if settings is not None else ()))
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(wanted == "json")


def _marked(lines: str) -> str:
    return "\n".join(f"{_TRACE}{one_line(line)}" for line in lines.splitlines())

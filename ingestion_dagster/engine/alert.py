"""What people are told: an alert, and how it reads in Slack and in an e-mail. It holds counts, codes and our names, never a value."""

import re
from dataclasses import dataclass
from typing import Any

from ingestion_dagster.settings import Settings

_MOST_LINES = 20
_MOST_CODES = 5
_SUBJECT_LENGTH = 100


@dataclass(frozen=True, slots=True)
class DatasetLine:
    """One dataset in an alert: the loads of the run, how many of them errored, rows rejected, and loads by error code."""

    dataset: str
    loads: int = 0
    errored: int = 0
    rows_rejected: int = 0
    codes: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        counts = [f"{self.errored} of {counted(self.loads, 'load')} errored"]
        if self.rows_rejected:
            counts.append(f"{counted(self.rows_rejected, 'row')} rejected")
        codes = [f"{code} {count}" for code, count in self.codes[:_MOST_CODES]]
        codes += [f"{len(self.codes) - _MOST_CODES} more codes"] if len(self.codes) > _MOST_CODES else []
        return f"{self.dataset}: {', '.join(counts)}" + (f" ({', '.join(codes)})" if codes else "")


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are told. `key` says what it is about: an alert of one key is raised once."""

    key: str
    environment: str
    pipeline: str
    title: str
    datasets: tuple[DatasetLine, ...] = ()
    details: tuple[str, ...] = ()
    run_id: str | None = None
    link: str | None = None

    @property
    def headline(self) -> str:
        """Environment, pipeline and what is the matter."""
        return f"[{self.environment}] {self.pipeline}: {self.title}"

    @property
    def lines(self) -> list[str]:
        """What stands below the headline, the link left out."""
        lines = [*self.details, *(str(line) for line in self.datasets[:_MOST_LINES])]
        if len(self.datasets) > _MOST_LINES:
            lines.append(f"and {len(self.datasets) - _MOST_LINES} more datasets")
        codes = [code for line in self.datasets for code, _ in line.codes]
        return [*lines, f"what to do: ingestion explain {codes[0]} --pipeline {self.pipeline}"] if codes else lines

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Alert":
        """The alert that was stored like this."""
        lines = (line | {"codes": tuple((code, count) for code, count in line["codes"])} for line in content["datasets"])
        return cls(**content | {"datasets": tuple(DatasetLine(**line) for line in lines), "details": tuple(content["details"])})


def slack_text(alert: Alert) -> str:
    """The alert as Slack's mrkdwn, with everything escaped that Slack would read as a link or a mention."""
    lines = [f"*{_escaped(alert.headline)}*", *(f"• {_escaped(line)}" for line in alert.lines)]
    if alert.link:
        lines.append(f"<{_escaped(alert.link).replace('|', '%7C')}|{f'Run {alert.run_id[:8]}' if alert.run_id else 'Dagster'}>")
    return "\n".join(lines)


def mail_subject(alert: Alert) -> str:
    """The headline as SNS takes it: printable ASCII, one line, 100 characters at most."""
    subject = re.sub(r"[^ -~]", "?", " ".join(alert.headline.split()))
    return subject if len(subject) <= _SUBJECT_LENGTH else f"{subject[: _SUBJECT_LENGTH - 3]}..."


def mail_body(alert: Alert) -> str:
    """The alert as plain text."""
    run = [f"Run {alert.run_id}"] if alert.run_id else []
    return "\n".join([alert.headline, "", *alert.lines, "", *run, *([alert.link] if alert.link else [])]).rstrip() + "\n"


def run_link(settings: Settings, run_id: str) -> str:
    """Where people see a run."""
    return f"{settings.ui_url.rstrip('/')}/runs/{run_id}"


def overview_link(settings: Settings) -> str:
    """Where people see the sensors: for an alert that is about no run."""
    return f"{settings.ui_url.rstrip('/')}/automation"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def counted(count: int, thing: str) -> str:
    """As in `1 load`, `2 loads`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"

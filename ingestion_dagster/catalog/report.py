"""What a refresh has done, in words: how far it has come, and the report at its end."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ingestion_dagster.catalog.refreshes import Refresh, State
from ingestion_dagster.engine.one_line import one_line

_MOST_SOURCES = 30
_MARKS = re.compile(r"[\\`*_{}\[\]()#+!|~-]")
_NO_SOURCE = "no provider"
_NEXT: Mapping[State, str] = {
    "requested": "next: copy and clean the upstream rows",
    "copied": "next: indexes and constraints of the staged table",
    "indexed": "next: fill the search indexes",
    "filled": "next: checks, then the promotion",
    "promoting": "next: tables and aliases are swapped",
    "live": "readers have it",
    "previous": "a later refresh has taken its place; a rollback brings it back",
    "retired": "later refreshes have taken its place; its tables and indexes are dropped",
    "discarded": "given up; readers have what they had",
}


@dataclass(frozen=True, slots=True)
class Change:
    """Rows of something before and after. `before` is None where it is not known, as of a table that was not there."""

    name: str
    before: int | None
    after: int

    @property
    def difference(self) -> int:
        """Rows won, or lost."""
        return self.after - (self.before or 0)

    @property
    def percent(self) -> float | None:
        """The difference as a share of what was there before; None if nothing was."""
        return 100 * self.difference / self.before if self.before else None

    def __str__(self) -> str:
        if not self.before:
            return f"{self.name}: {self.after:,} rows, the first"
        if not self.difference:
            return f"{self.name}: {self.after:,} rows, as before"
        return f"{self.name}: {self.before:,} → {self.after:,} rows ({self.difference:+,}, {_signed(self.percent or 0)} %)"


@dataclass(frozen=True, slots=True)
class Report:
    """What a refresh has done, by its counts. `sources`: rows of the media table by provider; `seconds`: by step.

    `sensitive`: documents that are not in the filtered index; None if the refresh has none.
    """

    model: str
    suffix: str
    tables: tuple[Change, ...] = ()
    sources: tuple[Change, ...] = ()
    cleaned_rows: int = 0
    fixes: Mapping[str, int] = field(default_factory=dict)
    moderated: int = 0
    documents: int = 0
    sensitive: int | None = None
    dead: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, suffix: str, counts: Mapping[str, Any], *, filtered: bool = True) -> "Report":
        """The report of what a refresh has counted (`Refresh.counts`), as far as it has come. What is missing counts as nothing."""
        tables: Mapping[str, Mapping[str, Any]] = counts.get("tables") or {}
        media: Mapping[str, Any] = tables.get(model) or {}
        fill: Mapping[str, Any] = counts.get("fill") or {}
        documents = int(fill.get("documents") or 0)
        return cls(
            model,
            suffix,
            tables=tuple(Change(name, _before(each), int(each.get("rows") or 0)) for name, each in tables.items()),
            sources=_sources(media),
            cleaned_rows=int(media.get("cleaned") or 0),
            fixes=dict(sorted((media.get("fixes") or {}).items())),
            moderated=sum(int(each.get("deleted") or 0) for each in tables.values()),
            documents=documents,
            sensitive=documents - int(fill.get("filtered") or 0) if filtered and fill else None,
            dead=int(fill.get("dead") or 0),
            seconds=_seconds(counts),
        )

    @property
    def changed_sources(self) -> tuple[Change, ...]:
        """The sources that have won or lost rows, the largest difference first."""
        return tuple(sorted((each for each in self.sources if each.difference), key=lambda each: (-abs(each.difference), each.name)))

    def lines(self) -> list[str]:
        """The report in lines of plain text."""
        sources = [str(each) for each in self.changed_sources[:_MOST_SOURCES]]
        others = self.changed_sources[_MOST_SOURCES:]
        sources += [f"{len(others)} more sources: {sum(each.difference for each in others):+,} rows"] if others else []
        same = [each for each in self.sources if not each.difference]
        sources += [f"{_counted(len(same), 'source')} without change: {sum(each.after for each in same):,} rows"] if same else []
        fixes = ", ".join(f"{rule} {count:,}" for rule, count in self.fixes.items())
        return [
            *(str(each) for each in self.tables),
            *sources,
            *([f"cleaned: {_counted(self.cleaned_rows, 'row')}" + (f" ({fixes})" if fixes else "")] if self.cleaned_rows or fixes else []),
            *([f"left out as moderated: {_counted(self.moderated, 'row')}"] if self.moderated else []),
            f"documents: {self.documents:,}{self._sensitive()}",
            *([f"refused by the index: {_counted(self.dead, 'document')}"] if self.dead else []),
            *([f"took {', '.join(f'{step} {_duration(spent)}' for step, spent in self.seconds.items())}"] if self.seconds else []),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON and metadata have it."""
        plain = asdict(self)
        for name, changes in (("tables", self.tables), ("sources", self.sources)):
            plain[name] = [asdict(each) | {"difference": each.difference, "percent": each.percent} for each in changes]
        return plain | {"sensitive_percent": self._share()}

    def _share(self) -> float | None:
        return None if self.sensitive is None else 100 * self.sensitive / self.documents if self.documents else 0.0

    def _sensitive(self) -> str:
        share = self._share()
        return "" if share is None else f", {self.sensitive:,} of them sensitive ({share:.2f} %)"


def markdown(model: str, suffix: str, counts: Mapping[str, Any]) -> str:
    """The report as Dagster shows it."""
    made = Report.of(model, suffix, counts)
    head = ["| | before | after | change | % |", "|---|---:|---:|---:|---:|"]
    rows = [_row(f"**{each.name}**", each) for each in made.tables] + [
        _row(_as_it_stands(each.name), each) for each in made.changed_sources[:_MOST_SOURCES]
    ]
    told = made.lines()[len(made.tables) + min(len(made.changed_sources), _MOST_SOURCES) :]
    return "\n".join([f"Refresh `{suffix}` of `{model}`", "", *head, *rows, "", *(f"- {line}" for line in told)])


def progress(refresh: Refresh) -> str:
    """How far a refresh has come, for a message: a line for each step that is done, and what is next; at the end the report."""
    lines = [f"*`{refresh.model}` refresh {refresh.suffix}* ({refresh.asked_by})"]
    lines += [f"• {line}" for line in _steps(refresh)]
    if refresh.state == "live":
        made = Report.of(refresh.model, refresh.suffix, refresh.counts, filtered=refresh.filtered)
        return "\n".join([*lines, f"• promoted: {_NEXT['live']}", *(f"   {line}" for line in made.lines())])
    return "\n".join([*lines, waits_for(refresh)])


def waits_for(refresh: Refresh) -> str:
    """What comes next."""
    if refresh.state == "filled" and not refresh.promote:
        return "next: the promotion, when somebody asks for it"
    return _NEXT[refresh.state]


def headline(refresh: Refresh) -> str:
    """The state of a refresh in one line without its model."""
    return f"refresh {refresh.suffix} is {refresh.state}"


def _steps(refresh: Refresh) -> list[str]:
    counts = refresh.counts
    lines = []
    if refresh.reached("copied") and "tables" in counts:
        tables: Mapping[str, Mapping[str, Any]] = counts["tables"]
        rows = ", ".join(f"{int(each.get('rows') or 0):,} rows of {name}" for name, each in tables.items())
        cleaned = sum(int(each.get("cleaned") or 0) for each in tables.values())
        lines.append(f"copied: {rows}, {cleaned:,} cleaned{_in(counts.get('copy_seconds'))}")
    if refresh.reached("indexed"):
        lines.append(f"indexed: {int(counts.get('indexes') or 0):,} indexes and constraints{_in(counts.get('index_seconds'))}")
    if refresh.reached("filled") and "fill" in counts:
        lines.append(_filled(counts["fill"], filtered=refresh.filtered))
    return lines


def _filled(fill: Mapping[str, Any], *, filtered: bool) -> str:
    documents, seconds = int(fill.get("documents") or 0), float(fill.get("seconds") or 0)
    speed = f", {documents / seconds:,.0f} a second" if seconds else ""
    held = f", {int(fill.get('filtered') or 0):,} of them in the filtered index" if filtered else ""
    dead = f", {int(fill['dead']):,} refused" if fill.get("dead") else ""
    return f"filled: {documents:,} documents{held}{dead}{_in(seconds)}{speed}"


def _sources(media: Mapping[str, Any]) -> tuple[Change, ...]:
    after: Mapping[str, int] = media.get("by_provider") or {}
    before: Mapping[str, int] = media.get("live_by_provider") or {}
    return tuple(
        Change(one_line(name) or _NO_SOURCE, before.get(name, 0) if before else None, after.get(name, 0))
        for name in sorted(after.keys() | before.keys())
    )


def _before(table: Mapping[str, Any]) -> int | None:
    live = table.get("live_by_provider")
    return sum(live.values()) if live else None


def _seconds(counts: Mapping[str, Any]) -> dict[str, float]:
    found = {
        "copy": counts.get("copy_seconds"),
        "indexes": counts.get("index_seconds"),
        "filling": (counts.get("fill") or {}).get("seconds"),
        "swap": (counts.get("promotion") or {}).get("seconds"),
    }
    return {step: float(spent) for step, spent in found.items() if isinstance(spent, int | float)}


def _row(name: str, change: Change) -> str:
    before = "" if change.before is None else f"{change.before:,}"
    percent = "" if change.percent is None else _signed(change.percent)
    return f"| {name} | {before} | {change.after:,} | {change.difference:+,} | {percent} |"


def _as_it_stands(text: str) -> str:
    """A text of upstream in Markdown: no link, no picture, no cell of its own."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\g<0>", text)


def _signed(percent: float) -> str:
    return f"{percent:+.2f}" if abs(percent) >= 0.005 else "0.00"


def _in(seconds: object) -> str:
    return f" in {_duration(float(seconds))}" if isinstance(seconds, int | float) and seconds else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"

"""What every reason code means, how bad it is, and who does what about it: read from the `codes.toml` beside the code that makes it.

A `codes.toml` has sections, each a table of one page of the documentation. Of a section: `title`, `who` acts first (`supplier` or
`operator`), `badness` (see `BADNESS`), whether a `retry` helps (see `RETRY`), and, unless codes have their own, what to `do`, what the
`supplier` does, the `operator`'s further steps. Of a code: what it `means`, and any of these where it differs. `{pipeline}` stands for
the pipeline's name.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

ENGINE = "engine"
"""The owner of the codes that any pipeline can have."""

BADNESS = {
    "told": "Nothing is wrong: it is only told.",
    "warning": "A warning: it is loaded all the same.",
    "sent": "A warning: the row is sent all the same.",
    "skipped": "Nothing is wrong with the row: a rule leaves it out.",
    "row": "One row is left out; the rest of its file goes on.",
    "record": "One record is kept aside; the others go on.",
    "document": "One document is missing from the index; the others are there.",
    "event": "One event does not go out; the others do.",
    "request": "The request is answered with an error; nothing is changed.",
    "command": "What was asked for is refused, and nothing is changed.",
    "fetch": "Something of this feed is missing; the other feeds go on.",
    "file": "The whole file is refused and kept aside; its neighbours load.",
    "refresh": "The refresh is refused; readers keep what they have.",
    "run": "The run ends and gives back what it had; nothing is lost and nothing is done twice.",
    "urgent": "Urgent: a person has to look at it today.",
}
"""How bad a code is."""

RETRY = {
    "never": "No: there is nothing to retry.",
    "new_version": "No: the same content ends the same way. A new version settles it.",
    "mended": "Yes, once the cause is mended: `ingestion retry {pipeline}` (`--key KEY` for one file).",
    "itself": "Not needed: the next run tries again by itself.",
    "again": "Give the command again once the cause is mended.",
    "refresh": "Yes, once the cause is mended: `ingestion retry catalog`, which goes on where the refresh stood.",
    "new_refresh": "No: `ingestion catalog discard MEDIA`, then a new refresh.",
    "republish": "Yes, once the cause is mended: `ingestion life_events republish`.",
    "asks_again": "Whoever asked asks again.",
}
"""Whether a retry helps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the runbook says of a code, in full sentences."""

    code: str
    owner: str
    """The pipeline, or `engine`."""
    section: str
    means: str
    badness: str
    """A key of `BADNESS`."""
    how_bad: str
    do: str
    """What is to be done first, by whoever can: one line, for a table."""
    operator: tuple[str, ...]
    supplier: str
    retry: str
    shown: str
    """The code as a table shows it, in Markdown."""

    def as_dict(self) -> dict[str, Any]:
        """The entry as `explain --json` prints it."""
        shown = asdict(self) | {"operator": list(self.operator)}
        return {name: shown[name] for name in ("code", "owner", "section", "means", "badness", "how_bad", "operator", "supplier", "retry")}

    def matches(self, code: str) -> bool:
        """Whether this is the entry of a code: an entry may stand for several (`platform_*`)."""
        return fnmatchcase(code, self.code)


@dataclass(frozen=True, slots=True)
class Section:
    """The codes that stand in one table of the documentation."""

    name: str
    title: str
    entries: tuple[Entry, ...]


@cache
def sections(owner: str, pipeline: str = "PIPELINE") -> tuple[Section, ...]:
    """The codes of a pipeline's own, or of `engine`, by section. `pipeline` stands in the commands of what any pipeline can have."""
    raw = files("ingestion_dagster").joinpath(owner, "codes.toml").read_text(encoding="utf-8")
    return tuple(
        Section(
            name,
            said["title"],
            tuple(_entry(owner, pipeline if owner == ENGINE else owner, said, code, own) for code, own in said["codes"].items()),
        )
        for name, said in tomllib.loads(raw).items()
    )


def entries(owners: Iterable[str], pipeline: str = "PIPELINE") -> list[Entry]:
    """Every entry of these owners, in the order of their files."""
    return [entry for owner in owners for section in sections(owner, pipeline) for entry in section.entries]


def _entry(owner: str, pipeline: str, section: dict[str, Any], code: str, own: dict[str, Any]) -> Entry:
    said = section | own
    do, who = said["do"] if "do" in said else section["operator"][0], said["who"]
    further = tuple(said.get("operator", ()))
    steps = further if who == "supplier" else (do, *(step for step in further if step != do))

    def named(text: str) -> str:
        return text.replace("{pipeline}", pipeline)

    return Entry(
        code=code,
        owner=owner,
        section=section["title"],
        means=said["means"],
        badness=said["badness"],
        how_bad=BADNESS[said["badness"]],
        do=named(do),
        operator=tuple(map(named, steps or ("Nothing.",))),
        supplier=do if who == "supplier" else said.get("supplier", "Nothing."),
        retry=named(RETRY[said["retry"]]),
        shown=said.get("shown", f"`{code}`"),
    )

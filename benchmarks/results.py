"""Figures that a benchmark leaves behind: one JSON file each, which the docs draw. The format is told in results/README.md."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parent / "results"
ROOT = FOLDER.parent.parent


@dataclass(frozen=True, slots=True)
class Row:
    """A case: ours, what a peer and the floor took for the same, in `unit`; `limit` is what ours was wanted to be, at worst."""

    case: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str | None = None
    floor: float | None = None
    better: Literal["less", "more"] = "less"
    limit: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether ours is worse than was wanted."""
        return self.limit is not None and (self.ours > self.limit if self.better == "less" else self.ours < self.limit)


def met(row: Row) -> Row:
    """Print whether a row with a limit is what was wanted; the row."""
    how, digits = ("at most", "at least")[row.better == "more"], 2 if abs(row.ours) < 100 else 0
    assert row.limit is not None
    line = f"  {'MISSED' if row.missed else 'met   '}  {row.case}: {row.ours:,.{digits}f}, {how} {row.limit:,g} {row.unit}"
    print(f"{line} ({row.note})" if row.note else line, flush=True)
    return row


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a benchmark found: its title, and a row for each case."""

    title: str
    rows: Sequence[Row]


def record(name: str, result: Result, *, quick: bool, load: float, folder: Path = FOLDER) -> Path:
    """Write the figures of a benchmark that has just run; where they are now. `load`: the load average before it began."""
    path = folder / f"{name}{'-quick' if quick else ''}.json"
    content = {
        "benchmark": name,
        "title": result.title,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "quick": quick,
        "source": "make bench",
        "machine": machine(load),
        "rows": [{key: _short(value) for key, value in asdict(row).items()} for row in result.rows],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine(load: float | None) -> dict[str, str | int | float | None]:
    """What this runs on. Memory in GiB; `load` is passed through."""
    cpu = next((line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**20),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load": None if load is None else round(load, 1),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _short(value: object) -> object:
    """A figure with four digits that count: more would be noise."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")

"""The figures of benchmarks/results as tables and plots of the docs: ours, the peer, the floor, and what was missed."""

import io
import json
import os
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
MARKER = "<!-- figures: of benchmarks/results -->"

_COLOURS = {"ours": "#3f51b5", "peer": "#e08e0b", "floor": "#9aa0a6"}
_MISSED = "#c62828"


@cache
def results() -> tuple[dict[str, Any], ...]:
    """What there is, by name; figures of a quick run only where there are no others."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return tuple(result for stem, result in read.items() if not (stem.endswith("-quick") and stem.removesuffix("-quick") in read))


def missed(row: dict[str, Any]) -> bool:
    """Whether ours is worse than was wanted."""
    limit, ours = row.get("limit"), row["ours"]
    return limit is not None and (ours < limit if row.get("better") == "more" else ours > limit)


def render() -> str:
    """A section for each benchmark."""
    return "\n".join(_section(result) for result in results())


def plots() -> dict[str, str]:
    """SVG drawings by their path in the site: one for each benchmark and unit that has something to be compared with."""
    return {_path(result, number): _draw(unit, rows) for result in results() for number, (unit, rows) in enumerate(_drawn(result))}


def _path(result: dict[str, Any], number: int) -> str:
    return f"images/benchmark-{result['benchmark']}-{number + 1}.svg"


def _drawn(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    by_unit = sorted(result["rows"], key=lambda row: str(row["unit"]))
    units = [(unit, list(rows)) for unit, rows in groupby(by_unit, key=lambda row: str(row["unit"]))]
    return [
        (unit, rows) for unit, rows in units if sum(row.get(name) is not None for row in rows for name in ("ours", "peer", "floor")) > 1
    ]


def _section(result: dict[str, Any]) -> str:
    machine = result.get("machine") or {}
    where = ", ".join(
        text
        for text in (
            machine.get("cpu"),
            f"{machine['cores']} cores" if machine.get("cores") else None,
            f"{machine['memory_gb']} GB" if machine.get("memory_gb") else None,
            f"Python {machine['python']}" if machine.get("python") else None,
            f"load {machine['load']} before" if machine.get("load") is not None else None,
        )
        if text
    )
    how = f"`make bench ARGS={result['benchmark']}`" if result["source"] == "make bench" else f"as told in {result['source']}"
    quick = " **A quick run**, with less work than is claimed elsewhere: ratios are rough." if result.get("quick") else ""
    lines = [
        f"## {result['benchmark']}",
        "",
        f"{result['title']}. {result['date']}, commit `{result['commit']}`, {how}; {where}.{quick}",
        "",
    ]
    for number, (unit, _) in enumerate(_drawn(result)):
        lines += [f"![{result['title']}: {unit}, ours beside the peer and the floor]({_path(result, number)})", ""]
    lines += ["| case | ours | peer | floor | wanted | |", "|---|---|---|---|---|---|", *map(_table_row, result["rows"]), ""]
    return "\n".join(lines)


def _table_row(row: dict[str, Any]) -> str:
    peer = f"{_figure(row['peer'])} ({row['peer_name']})" if row.get("peer") is not None else "–"
    limit = row.get("limit")
    wanted = "–" if limit is None else f"{'at least' if row.get('better') == 'more' else 'at most'} {_figure(limit)}"
    verdict = "" if limit is None else ("**missed**" if missed(row) else "met")
    note = f"{verdict}; {row['note']}" if verdict and row.get("note") else verdict or row.get("note") or ""
    return f"| {row['case']} | {_figure(row['ours'])} {row['unit']} | {peer} | {_figure(row.get('floor'))} | {wanted} | {note} |"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _draw(unit: str, rows: list[dict[str, Any]]) -> str:
    os.environ.setdefault("MPLBACKEND", "svg")
    import matplotlib as mpl

    mpl.rcParams.update({"svg.hashsalt": "ingestion_dagster", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + sum(0.14 + 0.2 * len(_there(row)) for row in rows)), layout="constrained")
    axes = figure.add_subplot()
    largest = max(float(row.get(name) or 0) for row in rows for name in (*_COLOURS, "limit"))
    middles, top = [], 0.0
    for row in rows:
        height = len(_there(row))
        _bars(axes, top, row, largest)
        middles.append(top + (height - 1) / 2)
        top += height + 0.7
    axes.set_yticks(middles, [_wrapped(row["case"]) for row in rows])
    axes.invert_yaxis()
    better = {row.get("better") or "less" for row in rows}
    axes.set_xlabel(unit + (f" ({better.pop()} is better)" if len(better) == 1 else ""))
    axes.set_xlim(0, largest * 1.4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return drawing.getvalue()


def _there(row: dict[str, Any]) -> list[str]:
    return [name for name in _COLOURS if row.get(name) is not None]


def _bars(axes: Any, top: float, row: dict[str, Any], largest: float) -> None:
    """A bar for each figure of a row, its name and value behind it; a line where ours was wanted to be."""
    for number, name in enumerate(_there(row)):
        value, bad = float(row[name]), name == "ours" and missed(row)
        axes.barh(top + number, value, 0.85, color=_MISSED if bad else _COLOURS[name])
        label = {"ours": "ours", "peer": row.get("peer_name") or "peer", "floor": "floor"}[name]
        axes.text(value + largest * 0.01, top + number, f"{label} {_figure(value)}{', missed' if bad else ''}", va="center", fontsize=8)
    if row.get("limit") is not None:
        axes.plot([row["limit"]] * 2, [top - 0.5, top + 0.5], color="#222222", linewidth=1.2, linestyle=":")


def _wrapped(text: str, width: int = 34) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))

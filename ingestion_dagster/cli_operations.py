"""`ingestion status`, `explain` and `doctor`: how it stands, what a code means, and what is wrong with the set-up."""

import difflib
import json
import re
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from ingestion_dagster.arguments import AnyPipelineName, AsJson, Dataset, check_dataset, pipeline_named, pipelines_named
from ingestion_dagster.console import err, print_table
from ingestion_dagster.engine import postgres, whereabouts
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.runbook import ENGINE, Entry, entries
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import current
from ingestion_dagster.standing import Standing, look

PROBLEM, UNKNOWN = 1, 2
"""Exit codes: the doctor has found a problem; there is no such code."""

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def status(
    pipeline: AnyPipelineName = None,
    as_json: AsJson = False,
    loads: Annotated[bool, typer.Option("--loads", help="One line per load.")] = False,
    dataset: Dataset = None,
) -> None:
    """Where every load stands: for each pipeline whether it is fine or what to type next; then what went wrong, waits or is paused.

    With a pipeline also loads by dataset, partition and status; with --loads each of them.
    """
    wanted = pipelines_named(pipeline)
    if dataset is not None:
        check_dataset(pipeline_named(pipeline or ""), dataset)
    settings = current()
    with postgres.ready(settings).connect() as connection:
        rows = whereabouts.load_states(connection, pipeline) if loads else whereabouts.status_counts(connection, pipeline)
        rows = [row for row in rows if dataset in (None, row["dataset"])]
        if as_json:
            print(json.dumps(rows, ensure_ascii=False))
            return
        standings = [look(connection, each, settings, dataset) for each in wanted]
    _print_verdicts(standings)
    for standing in standings:
        _print_standing(standing)
    if pipeline or loads:
        shown = ["pipeline", "dataset", "partition", "status", *(["key", "error_code"] if loads else ["loads"])]
        columns = [*shown, "rows_written", "rows_unchanged", "rows_rejected"]
        print_table([{name: _fit(row[name]) for name in columns} for row in rows], columns if rows else [])


def _print_verdicts(standings: list[Standing]) -> None:
    """One line for each pipeline, coloured on a terminal."""
    console = Console(highlight=False, soft_wrap=True)
    for standing in standings:
        style = "bold red" if standing.matters else "green" if standing.loads else "dim"
        console.print(f"{standing.pipeline}: {standing.verdict}", style=style if console.is_terminal else None, markup=False)


def _print_standing(standing: Standing) -> None:
    for matter in standing.matters:
        print(f"{standing.pipeline}: {matter.line}")
        for detail in matter.details:
            print(f"    {detail}")
        print(f"    {matter.command}")
    for note in standing.notes:
        print(f"{standing.pipeline}: {note}")


def _fit(value: object) -> object:
    """A cell of a table: what a file is called may not break it."""
    return one_line(value) if isinstance(value, str) else value


def explain(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="A reason code. Without: every one there is.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", help="As this pipeline means it.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a reason code means, how bad it is, what the operator and the supplier do, and whether a retry helps. Exit 2: unknown."""
    owners = (pipeline_named(pipeline).name,) if pipeline else tuple(PIPELINES)
    known = entries((*owners, ENGINE), pipeline or "PIPELINE")
    found = [entry for entry in known if code is None or entry.matches(code)]
    if code is not None and pipeline and found:
        found = found[:1]
    if not found:
        near = difflib.get_close_matches(code or "", sorted({entry.code for entry in entries((*PIPELINES, ENGINE))}), n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else "'ingestion explain' lists those there are"
        err.print(f"there is no code '{one_line(code or '')}'{f' of {pipeline}' if pipeline else ''}: {advice}", markup=False)
        raise typer.Exit(UNKNOWN)
    if as_json:
        print(json.dumps([entry.as_dict() for entry in found], ensure_ascii=False))
    elif code is None:
        print_table(
            [{"owner": entry.owner, "code": entry.code, "means": _plain(entry.means)} for entry in found], ["owner", "code", "means"]
        )
    else:
        print("\n\n".join(_told(entry) for entry in found))


def _told(entry: Entry) -> str:
    whose = "any pipeline" if entry.owner == ENGINE else entry.owner
    steps = [f"    {number}. {_plain(step)}" for number, step in enumerate(entry.operator, 1)]
    return "\n".join(
        [
            f"{entry.code} ({whose})",
            f"  {_plain(entry.means)}",
            f"  How bad: {entry.how_bad}",
            "  What to do:",
            *steps,
            f"  The supplier: {_plain(entry.supplier)}",
            f"  Does a retry help? {_plain(entry.retry)}",
        ]
    )


def _plain(markdown: str) -> str:
    """Text without the marks of Markdown."""
    return _LINK.sub(r"\1", markdown).replace("`", "")


def doctor(pipeline: AnyPipelineName = None, as_json: AsJson = False) -> None:
    """Look at everything the installation needs, and say of what is wrong what to do. Changes nothing. Exit 1: there is a problem."""
    from ingestion_dagster.doctor.checkup import examined
    from ingestion_dagster.doctor.examination import Finding, Level

    try:
        findings = examined(current(), pipelines_named(pipeline))
    except ValidationError as error:
        # Without the values: one may be a password.
        findings = [
            Finding(
                "settings", Level.PROBLEM, f"INGESTION_{str(each['loc'][0]).upper()}: {each['msg']}", "correct it; nothing works before"
            )
            if each["loc"]
            else Finding("settings", Level.PROBLEM, each["msg"], "correct it; nothing works before")
            for each in error.errors(include_input=False)
        ]
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], ensure_ascii=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        styles = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
        for finding in findings:
            style = styles[finding.level] if console.is_terminal else None
            console.print(f"{finding.level:<8}{finding.check}: {finding.what}", style=style, markup=False)
            if finding.do:
                console.print(f"        {finding.do}", markup=False)
        warnings = sum(finding.level is Level.WARNING for finding in findings)
        console.print(f"{len(findings)} findings: {problems} problems, {warnings} warnings", markup=False)
    if problems:
        raise typer.Exit(PROBLEM)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog="Example: ingestion status metrics --json")(status)
    app.command(epilog="Example: ingestion doctor catalog")(doctor)
    app.command(epilog="Example: ingestion explain schema_changed --pipeline cubic")(explain)

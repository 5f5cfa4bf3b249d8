"""The `ingestion` command: land, run, watch and mend the loads of every pipeline."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from dotenv import load_dotenv
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ingestion_dagster import arrivals, runs
from ingestion_dagster.arguments import AnyPipelineName, AsJson, Dataset, PipelineName, check_dataset, pipeline_named, pipelines_named
from ingestion_dagster.cli_catalog import catalog_commands
from ingestion_dagster.cli_cubic import cubic_commands
from ingestion_dagster.cli_life_events import life_events_commands
from ingestion_dagster.cli_operations import register
from ingestion_dagster.cli_residents import residents_commands
from ingestion_dagster.console import err
from ingestion_dagster.engine import ledger, logs, postgres, whereabouts
from ingestion_dagster.engine.datasets import pause_dataset, resume_dataset
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Transient
from ingestion_dagster.engine.home import prepare_dagster_home, project_file
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.local_files import local_files, read_file
from ingestion_dagster.engine.object_store import is_key
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.whereabouts import RunSummary
from ingestion_dagster.in_process import RunFailed
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current

LOADED, SOME_REFUSED, RUN_FAILED = 0, 2, 1
"""Exit codes: all loaded; some loads errored or rows refused; the run itself failed."""

UNUSABLE_NAME = Problem("unusable_name", "file name", "begins with a dot, is too long, or holds a control character; rename the file")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich", help=__doc__)
database_commands = typer.Typer(no_args_is_help=True, help="The database: migrations, the embedded server.")
register(app)
app.add_typer(database_commands, name="db")
metrics_commands = typer.Typer(no_args_is_help=True, help="What only metrics has: boot.")
app.add_typer(metrics_commands, name="metrics")
app.add_typer(cubic_commands, name="cubic")
app.add_typer(residents_commands, name="residents")
app.add_typer(life_events_commands, name="life_events")
app.add_typer(catalog_commands, name="catalog")
sandbox_commands = typer.Typer(
    no_args_is_help=True, help="Stand-ins for the outside world: the DMAP feed, the Here to Help API, the events platform."
)
app.add_typer(sandbox_commands, name="sandbox")


def _check_narrowing(pipeline: Pipeline, dataset: str | None) -> None:
    """A run can be narrowed to what has an asset of its own; told to take anything else alone, it would take everything."""
    check_dataset(pipeline, dataset)
    if dataset is not None and pipeline.asset_of(dataset) is None:
        raise typer.BadParameter(f"a run cannot be narrowed to '{dataset}': what belongs there comes with any run")


Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files, or folders whose trees are meant.", exists=True)]
Partition = Annotated[
    str | None,
    typer.Option(
        "--partition", "-p", help="Only this partition (day of discovery, UTC; snapshot of an ods table; refresh of the catalogue)."
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="DATE", help="Load what had been discovered by the end of that day; residents: judge rows by it."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Judge what would be loaded; claim and write nothing.")]


@app.command(epilog="Example: ingestion land metrics source_data/metrics")
def land(pipeline: PipelineName, paths: Paths, dataset: Dataset = None) -> None:
    """Put files into the landing zone and enter them into the ledger. A folder's keys are relative to it."""
    found = pipeline_named(pipeline)
    check_dataset(found, dataset)
    if _land(found, current(), paths, dataset):
        raise typer.Exit(SOME_REFUSED)


@app.command(epilog="Example: ingestion run metrics --dataset cases --partition 2026-01-31")
def run(pipeline: PipelineName, dataset: Dataset = None, partition: Partition = None, as_of: AsOf = None, dry_run: DryRun = False) -> None:
    """Discover and load until nothing is claimable. Exit 0: all loaded, 2: some refused, 1: the run failed."""
    found = pipeline_named(pipeline)
    _check_narrowing(found, dataset)
    _run_and_exit(found, current(), runs.Request(dataset, partition, as_of, dry_run))


@app.command(epilog="Example: ingestion load metrics new_files/")
def load(
    pipeline: PipelineName,
    paths: Paths,
    dataset: Dataset = None,
    partition: Partition = None,
    as_of: AsOf = None,
    dry_run: DryRun = False,
) -> None:
    """Land files, then run. Exit codes as for `run`. A dry run lands nothing; it says what `check` does, or what would become of rows."""
    found = pipeline_named(pipeline)
    _check_narrowing(found, dataset)
    settings = current()
    if dry_run:
        raise typer.Exit(_predicted(found, settings, paths, dataset, as_of) if found.predict else _check(found, paths, dataset))
    prepare_dagster_home(settings)
    unusable = _land(found, settings, paths, dataset)
    _run_and_exit(found, settings, runs.Request(dataset, partition, as_of), some_refused=unusable)


@app.command(epilog="Example: ingestion check metrics source_data/metrics/bad")
def check(pipeline: PipelineName, paths: Paths, dataset: Dataset = None, as_json: AsJson = False) -> None:
    """Validate files without loading them; prints every problem with its place. Exit 2 if there is any error."""
    found = pipeline_named(pipeline)
    check_dataset(found, dataset)
    raise typer.Exit(_check(found, paths, dataset, as_json=as_json))


@app.command(epilog="Example: ingestion retry metrics --key 'bad/COVID-19_cases.json'")
def retry(
    pipeline: PipelineName,
    dataset: Dataset = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Only this key of the landing zone.")] = None,
) -> None:
    """Load errored files again, from where they stand now, and look again at those that wait for a decision about their columns.

    Of residents also the rows that failed, and only those. Only the newest version of a key.
    """
    found = pipeline_named(pipeline)
    check_dataset(found, dataset)
    settings = current()
    scope = Scope(found.name, frozenset({dataset}) if dataset else None)
    with postgres.ready(settings).connect() as connection:
        retried = found.retry(connection, scope, key)
        if found.keyed is not None and dataset is None:
            # A run begins anew what it is not narrowed from: what was not refused is left alone.
            again = {
                load.dataset for load in ledger.loads(connection, sorted(retried.ready)) if load.dataset and found.asset_of(load.dataset)
            }
            dataset = again.pop() if len(again) == 1 else None
        released = ledger.look_again(connection, scope, key)
        waits = key is not None and any(
            load.key == key or load.key.endswith(f"/{key}") for load in ledger.claimable_loads(connection, scope)
        )
    for old in retried.superseded.values():
        err.print(f"superseded: a newer version of {old} is known; retry that one", markup=False)
    if not retried.ready and not released and not waits:
        if key is None or retried.superseded:
            err.print("nothing to retry", markup=False)
            raise typer.Exit(LOADED)
        err.print(f"no file that stands refused has the key {one_line(key)}", markup=False)
        raise typer.Exit(SOME_REFUSED)
    _run_and_exit(found, settings, runs.Request(dataset))


@app.command(epilog="Example: ingestion replay metrics --partition 2026-01-31 --dataset cases")
def replay(
    pipeline: PipelineName,
    partition: Annotated[str, typer.Option("--partition", "-p", help="Day of discovery, UTC; snapshot of an ods table.")],
    dataset: Dataset = None,
) -> None:
    """Load archived files again, from the archive. Only the newest version of a key. Safe to repeat."""
    found = pipeline_named(pipeline)
    _check_narrowing(found, dataset)
    settings = current()
    if found.keyed is None:
        runs.check_partition(found, settings, partition)
    scope = Scope(found.name, frozenset({dataset}) if dataset else None, frozenset({partition}))
    with postgres.ready(settings).connect() as connection:
        again = found.replay(connection, scope)
        begun = [
            row
            for row in whereabouts.status_counts(connection, found.name, [partition])
            if dataset in (None, row["dataset"]) and row["status"] not in ("archived", "errored")
        ]
    for old in again.superseded.values():
        err.print(f"superseded: a newer version of {old} is known; replay that one", markup=False)
    if not begun:
        err.print("nothing to replay")
        raise typer.Exit(LOADED)
    _run_and_exit(found, settings, runs.Request(dataset, partition))


@app.command(epilog="Example: ingestion adopt metrics --before 2026-04-01 --dry-run")
def adopt(
    pipeline: PipelineName,
    before: Annotated[
        datetime | None, typer.Option("--before", formats=["%Y-%m-%d"], help="Only files modified before this day (UTC).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken over and marked; change nothing.")] = False,
) -> None:
    """The first day on a living system: take over its tables, mark the files that are there as done. Loads nothing."""
    found = pipeline_named(pipeline)
    adopted = arrivals.adopt(found, current(), before.replace(tzinfo=UTC) if before else None, dry_run=dry_run)
    nothing = ("no tables of another system are here",) if found.tables or found.takes_over_loads else ()
    for line in adopted.told or nothing:
        print(line)
    for line in adopted.doubts:
        err.print(f"look at this: {line}", markup=False)
    print(f"{adopted.files} files in the landing zone {'would be' if dry_run else 'are'} marked as done; nothing is loaded")


@app.command(epilog="Example: ingestion pause metrics cases --why 'figures under review'")
def pause(
    pipeline: PipelineName,
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    why: Annotated[str, typer.Option("--why", help="Shown with the loads that wait.")] = "by hand",
) -> None:
    """Stop loading a dataset. Its files are still discovered, and wait."""
    found = pipeline_named(pipeline)
    check_dataset(found, dataset)
    with postgres.ready(current()).connect() as connection:
        found.sync_datasets(connection, current())
        pause_dataset(connection, found.name, dataset, why)
    print(f"{found.name} {dataset} is paused")


@app.command(epilog="Example: ingestion resume metrics cases")
def resume(pipeline: PipelineName, dataset: Annotated[str, typer.Argument(metavar="DATASET")]) -> None:
    """Load a paused dataset again."""
    found = pipeline_named(pipeline)
    check_dataset(found, dataset)
    with postgres.ready(current()).connect() as connection:
        found.sync_datasets(connection, current())
        resume_dataset(connection, found.name, dataset)
    print(f"{found.name} {dataset} is active")


@sandbox_commands.command("up", epilog="Example: ingestion sandbox up")
def sandbox_up() -> None:
    """Start the stand-ins that do not run yet, and print where they answer."""
    from ingestion_dagster.sandbox import servers

    settings = current()
    for name, address in servers.up(settings.home_folder, settings.environment).items():
        print(f"{name}: {address}")


@sandbox_commands.command("down", epilog="Example: ingestion sandbox down")
def sandbox_down() -> None:
    """Stop the stand-ins of this home."""
    from ingestion_dagster.sandbox import servers

    for name in servers.down(current().home_folder) or ["nothing was running"]:
        print(name)


@app.command(epilog="Example: ingestion serve")
def serve() -> None:
    """Answer as the private HTTP API: tasks of the catalogue, enrichment and deletion of life events, until interrupted."""
    from ingestion_dagster.api.server import serve as serve_api

    serve_api(current(), lambda url: err.print(f"the private API answers at {url}", markup=False))


@app.command(epilog="Example: ingestion demo")
def demo(pipeline: AnyPipelineName = None) -> None:
    """Load the sample data of every pipeline and show what landed where; exit 0 only if each file ended as expected."""
    from ingestion_dagster.demo import run_demo

    if not run_demo(current(), pipelines_named(pipeline)):
        raise typer.Exit(RUN_FAILED)


@metrics_commands.command(epilog="Example: ingestion metrics boot exports/")
def boot(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Metric files; unset: the sample files.", exists=True, file_okay=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it in production, too.")] = False,
) -> None:
    """Replace every fact by what the files of a folder say, in one transaction: readers see the old facts or the new, never none."""
    settings = current()
    if settings.environment == "production" and not yes:
        raise ConfigurationError("this replaces every fact of production by what the folder holds; say --yes if that is meant")
    folder = folder or project_file("source_data") / "metrics"
    unusable = [key for key, _ in local_files([folder]) if not is_key(key)]
    for name in unusable:
        err.print(f"not loaded, its name cannot be a key: {name!r}", markup=False)
    _exit_with(runs.boot(PIPELINES["metrics"], settings, folder), some_refused=bool(unusable))


@database_commands.command(epilog="Example: ingestion db upgrade")
def upgrade() -> None:
    """Bring the schema of the database up to date. Safe to repeat, and for two at once."""
    print(f"the schema is at revision {postgres.upgrade(postgres.locate(current()))}")


@database_commands.command(epilog="Example: ingestion db url")
def url() -> None:
    """Print a SQLAlchemy URL of the database; the embedded server is started if it is the one in use."""
    print(postgres.locate(current()).sqlalchemy_url)


@database_commands.command(epilog="Example: ingestion db stop")
def stop() -> None:
    """Stop the embedded server."""
    from ingestion_dagster.engine import embedded_postgres

    stopped = embedded_postgres.stop(current().home_folder)
    print("stopped" if stopped else "it was not running")


def _land(pipeline: Pipeline, settings: Settings, paths: list[Path], dataset: str | None) -> bool:
    """Land and tell; whether there were files whose names cannot be keys."""
    landed = arrivals.land(pipeline, settings, paths, dataset)
    for name in landed.unusable:
        err.print(f"not landed, its name cannot be a key: {name!r}", markup=False)
    err.print(f"{len(landed.objects)} files landed in {pipeline.zone(settings).landing.url}", markup=False)
    return bool(landed.unusable)


def _check(pipeline: Pipeline, paths: list[Path], dataset: str | None, *, as_json: bool = False) -> int:
    """Validate files and print what is wrong with them; the exit code."""
    refused = False
    settings = current()
    files = list(local_files(paths, pipeline.prefix_of(dataset) if dataset else ""))
    by_key = dict(files)

    def beside(key: str) -> bytes | None:
        return read_file(by_key[key]) if key in by_key else None

    reports: list[dict[str, Any]] = []
    for key, path in files:
        problems = (*(() if is_key(key) else (UNUSABLE_NAME,)), *pipeline.check(settings, key, read_file(path), beside))
        ok = not any(problem.severity == "error" for problem in problems)
        refused = refused or not ok
        reports.append({"path": str(path), "ok": ok, "problems": [problem.as_dict() for problem in problems]})
        if not as_json:
            for problem in problems:
                print(one_line(f"{path}: {problem.severity}: {problem.place}: {problem.message} [{problem.code}]"))
    if as_json:
        print(json.dumps(reports, ensure_ascii=False))
    else:
        print(f"{len(reports)} files checked, {sum(not report['ok'] for report in reports)} have errors")
        if refused:
            err.print(f"what a code in brackets means: ingestion explain CODE --pipeline {pipeline.name}", markup=False)
    return SOME_REFUSED if refused else LOADED


def _stand_ins(pipeline: Pipeline, settings: Settings) -> None:
    """Start what of the sandbox a pipeline needs."""
    if names := pipeline.stand_ins(settings):
        from ingestion_dagster.sandbox import servers

        servers.up(settings.home_folder, settings.environment, names)


def _predicted(pipeline: Pipeline, settings: Settings, paths: list[Path], dataset: str | None, as_of: str | None) -> int:
    """Foretell what would become of the rows of files, and print it; the exit code."""
    assert pipeline.predict is not None
    _stand_ins(pipeline, settings)
    worst = LOADED
    for key, path in local_files(paths, pipeline.prefix_of(dataset) if dataset else ""):
        counts = pipeline.predict(settings, key, read_file(path), as_of)
        print(f"{path}: dry run, nothing sent: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
        worst = SOME_REFUSED if any("refused" in what for what, count in counts.items() if count) else worst
    return worst


def _run_and_exit(pipeline: Pipeline, settings: Settings, request: runs.Request, *, some_refused: bool = False) -> NoReturn:
    _stand_ins(pipeline, settings)
    if request.dry_run and pipeline.foretell is not None:
        foretold = pipeline.foretell(settings, request.dataset)
        print("dry run, nothing changed: " + ", ".join(f"{count} {what}" for what, count in foretold.items()))
        raise typer.Exit(SOME_REFUSED if any("refused" in what for what in foretold) else LOADED)
    with _progress(pipeline.name) as progress:
        try:
            summary = runs.run(pipeline, settings, request, progress)
        except runs.NotFollowed as error:
            print(describe(error.did))
            raise
    with postgres.ready(settings).connect() as connection:
        for dataset, why, count in whereabouts.held_back(connection, pipeline.name):
            err.print(f"not loaded: {count} loads of {dataset} {why}", markup=False)
        if working := whereabouts.in_hand(connection, pipeline.name):
            err.print(f"not finished: {working} loads are in the hands of another run, or of a dead one until its lease ends", markup=False)
        for line in pipeline.standing(connection, request.dataset):
            err.print(line, markup=False)
    if request.dry_run:
        print(describe_dry(summary))
        raise typer.Exit(SOME_REFUSED if summary.errored or summary.rows_rejected else LOADED)
    _exit_with(summary, some_refused=some_refused)


def _exit_with(summary: RunSummary, *, some_refused: bool = False) -> NoReturn:
    """Say what was done, and end with the code that says how it went."""
    print(describe(summary))
    if summary.left:
        err.print(f"{summary.left} loads are left: they could not be read or written now, and wait for the next run", markup=False)
        raise typer.Exit(RUN_FAILED)
    raise typer.Exit(SOME_REFUSED if some_refused or summary.errored or summary.rows_rejected else LOADED)


def describe_dry(summary: RunSummary) -> str:
    """A dry run in one line."""
    foretold = ""
    if summary.rows_created or summary.rows_matched or summary.rows_skipped:
        foretold = f"; {summary.rows_created} would be created, {summary.rows_matched} matched, {summary.rows_skipped} skipped"
    return (
        f"dry run, nothing changed: {summary.loads} loads: {summary.loads - summary.errored} would be loaded, {summary.errored} refused; "
        f"{summary.rows_in} rows in, {summary.rows_rejected} rejected{foretold}"
    )


def describe(summary: RunSummary) -> str:
    """A run in one line."""
    loaded = f"{summary.loads - summary.errored} loaded ({summary.duplicates} duplicates{f', {summary.late} late' if summary.late else ''})"
    return (
        f"{summary.loads} loads: {loaded}, {summary.errored} refused; "
        f"{summary.rows_in} rows in, {summary.rows_written} written, {summary.rows_unchanged} unchanged, {summary.rows_rejected} rejected"
        f"{f'; the objects of {summary.moving} are still to be moved' if summary.moving else ''}"
    )


@contextmanager
def _progress(title: str) -> Iterator[runs.Progress | None]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not err.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _readable() -> Settings | None:
    """The settings, if they can be read; the command itself says what is wrong with them."""
    try:
        return current()
    except ValidationError:
        return None


def main() -> None:
    """Entry point. Mistakes of set-up end with one line that says what to do, exit code 1."""
    load_dotenv(Path.cwd() / ".env", override=False)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding does not.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logs.configure(_readable())
    try:
        app()
    except ConfigurationError as error:
        err.print(f"ingestion: {error}", markup=False)
        sys.exit(RUN_FAILED)
    except (Transient, RunFailed) as error:
        err.print(f"ingestion: {error}", markup=False)
        sys.exit(RUN_FAILED)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        # Without the values: one may be a password.
        wrong = "; ".join(f"INGESTION_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors(include_input=False))
        err.print(f"ingestion: {wrong}", markup=False)
        sys.exit(RUN_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(RUN_FAILED)

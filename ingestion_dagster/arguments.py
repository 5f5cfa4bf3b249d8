"""Arguments that more than one command takes: names of pipelines and datasets, checked."""

from typing import Annotated

import typer

from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.pipelines import PIPELINES

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="metrics, cubic, residents, life_events or catalog")]
AnyPipelineName = Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="Only this pipeline.")]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset", "-d", help="Only this dataset (a metric group, such as cases; a cubic table; nsss of residents; image of catalog)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def pipeline_named(name: str) -> Pipeline:
    """The pipeline of this name; a mistake of usage if there is none."""
    if name not in PIPELINES:
        raise typer.BadParameter(f"there is no pipeline '{name}'; known: {', '.join(PIPELINES)}")
    return PIPELINES[name]


def pipelines_named(name: str | None) -> list[Pipeline]:
    """That pipeline, or all of them."""
    return [pipeline_named(name)] if name else list(PIPELINES.values())


def check_dataset(pipeline: Pipeline, dataset: str | None) -> None:
    """Raises a mistake of usage if the pipeline has no such dataset."""
    if dataset is not None and dataset not in pipeline.datasets:
        raise typer.BadParameter(f"{pipeline.name} has no dataset '{dataset}'; known: {', '.join(pipeline.datasets)}")

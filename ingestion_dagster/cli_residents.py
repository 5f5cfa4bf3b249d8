"""`ingestion residents …`: what only the residents pipeline has."""

from pathlib import Path
from typing import Annotated

import typer

from ingestion_dagster.residents.places import NAMES

residents_commands = typer.Typer(no_args_is_help=True, help="What only residents has: template.")


@residents_commands.callback()
def _residents() -> None:
    """What only residents has: template."""


@residents_commands.command(epilog="Example: ingestion residents template --dataset nsss")
def template(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help=f"One of {', '.join(NAMES)}.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it; unset: <dataset>_template.xlsx, here.")] = None,
) -> None:
    """Write an empty workbook with the columns that a dataset's files have, and a tab that explains them."""
    if dataset not in NAMES:
        raise typer.BadParameter(f"residents has no dataset '{dataset}'; known: {', '.join(NAMES)}")
    from ingestion_dagster.residents import template as templates
    from ingestion_dagster.residents.datasets import DATASETS

    path = output or Path(f"{dataset}_template.xlsx")
    templates.write(DATASETS[dataset], path)
    print(path)

"""All pipelines and operations merged: the embedded default, tests, the CLI and `dg`."""

import importlib
import logging

import dagster as dg

from ingestion_dagster.engine.dagster import console_log
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.pipelines import PIPELINES

log = logging.getLogger(__name__)


def _of(pipeline: str) -> dg.Definitions:
    """What a pipeline offers; nothing, and an error in the log, if its settings do not let it: the others go on."""
    try:
        found: dg.Definitions = importlib.import_module(f"ingestion_dagster.{pipeline}.definitions").defs
    except ConfigurationError as error:
        log.error("%s is left out: %s", pipeline, error)
        return dg.Definitions()
    return found


defs = dg.Definitions.merge(
    dg.Definitions(loggers={"console": console_log}),
    *map(_of, (*PIPELINES, "operations")),
)

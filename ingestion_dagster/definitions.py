"""All pipelines merged: the embedded default, tests, the CLI and `dg`."""

import dagster as dg

from ingestion_dagster.cubic import definitions as cubic
from ingestion_dagster.metrics import definitions as metrics

defs = dg.Definitions.merge(metrics.defs, cubic.defs)

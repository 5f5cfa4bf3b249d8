"""Everything through which something from outside comes in, each with samples to begin from: what is not in this list is not fuzzed.

Tests compare it with the pipelines, their datasets and kinds, and the routes of the API, so that nothing new is left out.
"""

from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "source_data"
_ODS = "cubic/ods_qlik/EDW.SAMPLE/LOAD1"
_DMAP = "cubic/dmap/agg_sample"


@dataclass(frozen=True, slots=True)
class FileSurface:
    """A kind of file that a pipeline takes: the key it comes under, a sample, and the sample of what comes beside it."""

    pipeline: str
    kind: str
    """What only this file is: a shape, a kind of stream, a dataset."""
    key: str
    sample: str
    beside: str | None = None

    @property
    def raw(self) -> bytes:
        """The sample."""
        return (SAMPLES / self.sample).read_bytes()

    @property
    def companion(self) -> bytes | None:
        """What comes beside it."""
        return None if self.beside is None else (SAMPLES / self.beside).read_bytes()

    def __str__(self) -> str:
        return f"{self.pipeline}-{self.kind}"


FILES = (
    FileSurface("metrics", "time_series", "a_b.json", "metrics/Measles_cases_casesByWeek_RGN_E12000004_all_all_default.json"),
    FileSurface("metrics", "headline", "a_b.json", "metrics/RSV_headline_positivityLatest_CTRY_E92000001_all_all_default.json"),
    FileSurface("cubic", "ods", f"{_ODS}.csv.gz", f"cubic/good/{_ODS}.csv.gz", f"cubic/good/{_ODS}.dfm"),
    FileSurface("cubic", "dfm", f"{_ODS}.dfm", f"cubic/good/{_ODS}.dfm"),
    FileSurface("cubic", "dmap", f"{_DMAP}/a.csv.gz", "cubic/bad/cubic/dmap/agg_sample/agg_sample_20260106.csv.gz"),
    FileSurface("cubic", "kafka", "cubic/kafka/sample/a.json", "cubic/good/cubic/kafka/sample/wyYZPmjuhp7vXJ98ZSuuri.json"),
    FileSurface("life_events", "registrations", "a.xml", "life_events/DI_D_20310205.xml"),
)

PARTS_OF_KINDS = {"dfm"}
"""What comes beside another kind of file, and is read by itself too."""

ROUTES = {
    ("GET", "/healthz"), ("GET", "/openapi.json"), ("GET", "/metrics"),
    ("POST", "/life-events/enrich"), ("POST", "/life-events/delete"),
    ("GET", "/"), ("GET", "/stat/{name}"), ("GET", "/task"), ("GET", "/task/{task_id}"), ("POST", "/task"), ("DELETE", "/state"),
    ("POST", "/worker_finished"),
}  # fmt: skip
"""Every route of the private API."""

OPEN = {("GET", "/healthz")}
"""Those that answer whoever has no token."""

MESSAGES = ("ingestion_dagster.engine.notices", "ingestion_dagster.cubic.envelopes", "ingestion_dagster.metrics.stream")
"""Modules that read what queues and streams bring; each has `read`."""

"""DMAP: data sets of a feed, one CSV a day or month; one that is issued again replaces the one before."""

from collections.abc import Sequence

from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.convert import convert_csv
from ingestion_dagster.cubic.dfm import Dialect
from ingestion_dagster.cubic.schemas import Accept, Fit, Offer
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Reading, Source, StreamKind


class Dmap(StreamKind):
    """Files of `cubic/dmap/<type>/`."""

    kind = "dmap"
    suffixes = (".csv.gz", ".csv")

    def read(self, source: Source, accept: Accept, columns: Sequence[Column] | None, outputs: Outputs, tolerance: Tolerance) -> Reading:  # noqa: ARG002 - as for ods
        """See StreamKind."""
        found: list[Fit] = []

        def accepted(header: tuple[str, ...]) -> Sequence[Column]:
            found.append(accept(Offer(header)))
            return found[0].columns

        compressed = source.key.endswith(".gz")
        converted = convert_csv(
            source.chunks, accepted, outputs, dialect=Dialect(), compressed=compressed, expected_rows=None, tolerance=tolerance
        )
        return Reading(converted, found[0])


DMAP = Dmap()

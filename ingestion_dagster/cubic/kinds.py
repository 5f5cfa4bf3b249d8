"""The kinds of streams there are. A new one is a module and a line here."""

from ingestion_dagster.cubic.dmap import DMAP
from ingestion_dagster.cubic.kafka import KAFKA
from ingestion_dagster.cubic.ods import ODS
from ingestion_dagster.cubic.registry import Kind
from ingestion_dagster.cubic.stream_kind import StreamKind

KINDS: dict[Kind, StreamKind] = {kind.kind: kind for kind in (ODS, DMAP, KAFKA)}

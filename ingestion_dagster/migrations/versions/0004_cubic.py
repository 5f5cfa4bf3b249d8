"""What cubic needs: schemas of tables, batches of a stream, current tables, DMAP feeds; the ledger under Cubic's own names."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LEDGER = """
ALTER TABLE ledger.datasets ADD COLUMN entry jsonb;
ALTER TABLE ledger.datasets ADD COLUMN resumed_at timestamptz;
COMMENT ON COLUMN ledger.datasets.entry IS 'what the registry says of it, where a pipeline has one';
COMMENT ON COLUMN ledger.datasets.resumed_at IS 'faults before this moment no longer count towards a pause';

CREATE INDEX loads_held_back ON ledger.loads (pipeline, waiting_for) WHERE waiting_for IS NOT NULL;
CREATE INDEX loads_by_snapshot ON ledger.loads (snapshot_id, key) WHERE snapshot_id IS NOT NULL;
CREATE INDEX loads_finished ON ledger.loads (dataset_id, finished_at) WHERE finished_at IS NOT NULL;
"""

TABLES = """
CREATE SCHEMA cubic;

CREATE TABLE cubic.schemas (
    dataset_id bigint NOT NULL REFERENCES ledger.datasets,
    version    integer NOT NULL,
    columns    jsonb NOT NULL,
    key        text[] NOT NULL,
    load_id    bigint REFERENCES ledger.loads,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, version)
);
COMMENT ON TABLE cubic.schemas IS 'columns a table was loaded with; the newest version is what the next file is compared with';
COMMENT ON COLUMN cubic.schemas.columns IS 'list of [name, type], in the order in which they are written';
"""

KAFKA = """
CREATE TABLE cubic.kafka_offsets (
    dataset_id bigint NOT NULL REFERENCES ledger.datasets,
    load_id    bigint NOT NULL REFERENCES ledger.loads,
    topic      text NOT NULL,
    partition  bigint NOT NULL,
    offsets    int8multirange NOT NULL,
    PRIMARY KEY (load_id, topic, partition)
);
CREATE INDEX kafka_offsets_of_partition ON cubic.kafka_offsets (dataset_id, topic, partition);
COMMENT ON TABLE cubic.kafka_offsets IS 'which records each load has written, so that none is written twice';
"""

BATCHES = """
"""

CURRENT = """
CREATE TABLE cubic.current_tables (
    dataset_id  bigint PRIMARY KEY REFERENCES ledger.datasets,
    snapshot_id bigint NOT NULL REFERENCES ledger.snapshots,
    key         text[] NOT NULL,
    columns     jsonb NOT NULL,
    sequence    numeric NOT NULL,
    commit      bigint NOT NULL,
    rows        bigint NOT NULL,
    at          timestamptz NOT NULL
);
COMMENT ON TABLE cubic.current_tables IS 'what each current table holds: written after the Delta commit that it describes';
COMMENT ON COLUMN cubic.current_tables.sequence IS 'the greatest change sequence that has gone in';
COMMENT ON COLUMN cubic.current_tables.commit IS 'number of the commit, as its transaction in the Delta log has it; another there: not known to us';

CREATE TABLE cubic.current_loads (
    dataset_id   bigint NOT NULL REFERENCES ledger.datasets,
    load_id      bigint NOT NULL REFERENCES ledger.loads,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (dataset_id, load_id)
);
COMMENT ON COLUMN cubic.current_loads.committed_at IS 'which time it was loaded: a replay commits it again';

CREATE TABLE cubic.catalogue_entries (
    database   text NOT NULL,
    name       text NOT NULL,
    fingerprint text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (database, name)
);
CREATE TABLE cubic.catalogue_partitions (
    database  text NOT NULL,
    name      text NOT NULL,
    partition text[] NOT NULL,
    PRIMARY KEY (database, name, partition)
);
COMMENT ON TABLE cubic.catalogue_entries IS 'tables as they were last published to Glue';
"""

DMAP = """
"""

ADOPTION = """
"""


def upgrade() -> None:
    """Create schema `cubic` and what the ledger gains with it."""
    connection = op.get_bind()
    for statements in (LEDGER, TABLES, KAFKA, BATCHES, CURRENT, DMAP, ADOPTION):
        if statements.strip():
            connection.exec_driver_sql(statements)

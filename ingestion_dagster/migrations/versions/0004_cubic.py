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

ALTER TABLE ledger.loads ADD COLUMN replay boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN ledger.loads.replay IS 'it was archived and is loaded again: with all others of its dataset, to be published together';

CREATE INDEX loads_ready_of_dataset ON ledger.loads (dataset_id, modified, key, id) WHERE status = 'ready';
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
    registered boolean NOT NULL,
    described  boolean NOT NULL DEFAULT true,
    since      timestamptz,
    load_id    bigint REFERENCES ledger.loads,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, version)
);
COMMENT ON TABLE cubic.schemas IS 'columns a table was loaded with; the newest version is what the next file is compared with';
COMMENT ON COLUMN cubic.schemas.registered IS 'it is what the registry says; otherwise a file brought it';
COMMENT ON COLUMN cubic.schemas.described IS 'types and key are known, by registry or .dfm; otherwise only the names are, from a header';
COMMENT ON COLUMN cubic.schemas.since IS 'files modified before are of an older version; null: none is';
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
CREATE TABLE cubic.batches (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    load_id        bigint UNIQUE REFERENCES ledger.loads,
    stream         text NOT NULL,
    shard          text NOT NULL,
    topic          text,
    first_sequence numeric NOT NULL,
    last_sequence  numeric NOT NULL,
    first_arrived  timestamptz NOT NULL,
    last_arrived   timestamptz NOT NULL,
    key            text NOT NULL,
    records        integer NOT NULL,
    bytes          bigint NOT NULL,
    sha256         text NOT NULL,
    lost           integer NOT NULL DEFAULT 0,
    entered_at     timestamptz NOT NULL,
    uploaded_at    timestamptz,
    UNIQUE NULLS NOT DISTINCT (stream, shard, topic, first_sequence, first_arrived),
    CHECK ((topic IS NULL) = (load_id IS NULL)),
    CHECK (first_sequence <= last_sequence AND lost <= records)
);
CREATE INDEX batches_of_topic ON cubic.batches (stream, shard, topic, id);
CREATE INDEX batches_unfinished ON cubic.batches (stream, shard) WHERE uploaded_at IS NULL;
COMMENT ON TABLE cubic.batches IS 'files of a stream, entered before they are put: whoever comes after a crash writes the same one';
COMMENT ON COLUMN cubic.batches.topic IS 'whose records between the two numbers are meant; null: those that are of no topic';
COMMENT ON COLUMN cubic.batches.sha256 IS 'of the lines, before they are compressed';
COMMENT ON COLUMN cubic.batches.lost IS 'records the stream had let go of when the file was made again; all of them: there is no file';
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
COMMENT ON COLUMN cubic.current_tables.commit IS 'number of the commit, which the Delta log has as a transaction; no other is known';

CREATE TABLE cubic.current_loads (
    dataset_id   bigint NOT NULL REFERENCES ledger.datasets,
    load_id      bigint NOT NULL REFERENCES ledger.loads,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (dataset_id, load_id)
);
COMMENT ON COLUMN cubic.current_loads.committed_at IS 'which time it was loaded: a replay commits it again';

CREATE TABLE cubic.catalogue_entries (
    database    text NOT NULL,
    name        text NOT NULL,
    fingerprint text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (database, name)
);
COMMENT ON TABLE cubic.catalogue_entries IS 'tables as they were last published to Glue';

CREATE TABLE cubic.catalogue_partitions (
    database  text NOT NULL,
    name      text NOT NULL,
    partition text NOT NULL,
    PRIMARY KEY (database, name, partition)
);
COMMENT ON COLUMN cubic.catalogue_partitions.partition IS 'values of the partition keys, with a slash between them';
"""

DMAP = """
CREATE TABLE cubic.dmap_datasets (
    feed         text NOT NULL,
    dataset_id   text NOT NULL,
    last_updated timestamptz NOT NULL,
    start_date   date,
    end_date     date,
    seen_at      timestamptz NOT NULL,
    code         text,
    key          text,
    bytes        bigint,
    sha256       text,
    fetched_at   timestamptz,
    PRIMARY KEY (feed, dataset_id, last_updated),
    CHECK (fetched_at IS NULL OR key IS NOT NULL)
);
CREATE INDEX dmap_datasets_fetched ON cubic.dmap_datasets (feed, last_updated) WHERE fetched_at IS NOT NULL;
CREATE INDEX dmap_datasets_missing ON cubic.dmap_datasets (feed, last_updated) WHERE fetched_at IS NULL;
COMMENT ON TABLE cubic.dmap_datasets IS
    'each issue of a dataset that a DMAP feed has listed; where the next listing of the feed begins follows from it';
COMMENT ON COLUMN cubic.dmap_datasets.feed IS 'path of the feed below the base URL';
COMMENT ON COLUMN cubic.dmap_datasets.seen_at IS 'when it was listed first';
COMMENT ON COLUMN cubic.dmap_datasets.code IS 'why it has not been fetched, as far as it was tried';
COMMENT ON COLUMN cubic.dmap_datasets.key IS 'where it was put in the landing zone';
COMMENT ON COLUMN cubic.dmap_datasets.sha256 IS 'of the file as it was put there; null, as bytes is, of what was adopted';
COMMENT ON COLUMN cubic.dmap_datasets.fetched_at IS 'when it stood there durably; null: it is still missing';
"""

ADOPTION = """
CREATE TABLE cubic.adopted_loads (
    original_id bigint PRIMARY KEY,
    load_id     bigint NOT NULL UNIQUE REFERENCES ledger.loads
);
COMMENT ON TABLE cubic.adopted_loads IS 'loads of the metadata database that was taken over, by their ids there';

-- What is asked for by the names of before is read only: OFFSET keeps Postgres from writing through the plainest of the views.
CREATE VIEW ledger.cubic_tables AS
SELECT d.id, d.name, d.landing_prefix AS s3_prefix, (d.entry ->> 'raw')::boolean AS is_raw, d.is_active,
       NULL::timestamp AS deleted_at, NULL::timestamp AS inserted_at, NULL::timestamp AS updated_at
FROM ledger.datasets AS d
WHERE d.pipeline = 'cubic'
OFFSET 0;

CREATE VIEW ledger.cubic_loads AS
SELECT l.id, l.dataset_id AS table_id, l.status, l.key AS s3_key,
       date_trunc('second', l.modified AT TIME ZONE 'UTC') AS s3_modified, l.size AS s3_size,
       (d.entry ->> 'raw')::boolean AS is_raw, NULL::timestamp AS deleted_at,
       date_trunc('second', l.discovered_at AT TIME ZONE 'UTC') AS inserted_at,
       date_trunc('second', greatest(l.discovered_at, l.claimed_at, l.committed_at, l.finished_at) AT TIME ZONE 'UTC') AS updated_at
FROM ledger.loads AS l
LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
WHERE l.pipeline = 'cubic';

CREATE VIEW ledger.cubic_table_ods_snapshots AS
SELECT d.id, d.id AS table_id, newest.snapshot AT TIME ZONE 'UTC' AS snapshot,
       coalesce(newest.marker_key, d.entry ->> 'marker') AS snapshot_s3_key,
       NULL::timestamp AS deleted_at, NULL::timestamp AS inserted_at, NULL::timestamp AS updated_at
FROM ledger.datasets AS d
LEFT JOIN ledger.datasets AS base ON base.pipeline = d.pipeline AND base.name = coalesce(d.entry ->> 'base', d.name)
LEFT JOIN LATERAL (
    SELECT s.snapshot, s.marker_key FROM ledger.snapshots AS s
    WHERE s.dataset_id = base.id
    ORDER BY s.snapshot DESC LIMIT 1) AS newest ON true
WHERE d.pipeline = 'cubic' AND d.entry ->> 'kind' = 'ods';

CREATE VIEW ledger.cubic_load_ods_snapshots AS
SELECT l.id, l.id AS load_id, s.snapshot AT TIME ZONE 'UTC' AS snapshot,
       NULL::timestamp AS deleted_at, date_trunc('second', l.discovered_at AT TIME ZONE 'UTC') AS inserted_at,
       date_trunc('second', l.discovered_at AT TIME ZONE 'UTC') AS updated_at
FROM ledger.loads AS l
JOIN ledger.datasets AS d ON d.id = l.dataset_id
LEFT JOIN ledger.snapshots AS s ON s.id = l.snapshot_id
WHERE l.pipeline = 'cubic' AND d.entry ->> 'kind' = 'ods';

COMMENT ON VIEW ledger.cubic_tables IS 'tables of cubic, change tables among them, as the first metadata database named their columns';
COMMENT ON VIEW ledger.cubic_loads IS 'loads of cubic, as the first metadata database named their columns; times are UTC, in whole seconds';
COMMENT ON VIEW ledger.cubic_table_ods_snapshots IS 'the newest snapshot of each ods table, and the key whose arrival starts the next one';
COMMENT ON VIEW ledger.cubic_load_ods_snapshots IS 'the snapshot each load of an ods table belongs to; null: none yet';
"""


def upgrade() -> None:
    """Create schema `cubic` and what the ledger gains with it."""
    connection = op.get_bind()
    for statements in (LEDGER, TABLES, KAFKA, BATCHES, CURRENT, DMAP, ADOPTION):
        if statements.strip():
            connection.exec_driver_sql(statements)

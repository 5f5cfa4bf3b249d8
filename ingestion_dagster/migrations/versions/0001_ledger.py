"""The load ledger: datasets, snapshots, loads and their events."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LEDGER = """
CREATE TABLE ledger.datasets (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline       text NOT NULL,
    name           text NOT NULL,
    landing_prefix text NOT NULL DEFAULT '',
    is_active      boolean NOT NULL DEFAULT true,
    paused_at      timestamptz,
    paused_why     text,
    UNIQUE (pipeline, name)
);

CREATE TABLE ledger.snapshots (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id bigint NOT NULL REFERENCES ledger.datasets,
    snapshot   timestamptz NOT NULL,
    marker_key text NOT NULL,
    UNIQUE (dataset_id, snapshot)
);

CREATE SEQUENCE ledger.claim_number;

CREATE TABLE ledger.loads (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline       text NOT NULL,
    dataset_id     bigint REFERENCES ledger.datasets,
    landing_zone   text NOT NULL,
    key            text NOT NULL,
    version        text NOT NULL,
    size           bigint NOT NULL,
    modified       timestamptz NOT NULL,
    partition      text NOT NULL,
    snapshot_id    bigint REFERENCES ledger.snapshots,
    waiting_for    text,
    status         text NOT NULL DEFAULT 'ready' CHECK (status IN (
                       'ready', 'ingesting', 'ready_for_archiving', 'archiving', 'archived',
                       'ready_for_erroring', 'erroring', 'errored')),
    unfinished     boolean NOT NULL GENERATED ALWAYS AS (status NOT IN ('archived', 'errored')) STORED,
    run_id         text,
    claim          bigint,
    attempts       integer NOT NULL DEFAULT 0,
    alone          boolean NOT NULL DEFAULT false,
    lease_until    timestamptz,
    rows_in        bigint NOT NULL DEFAULT 0,
    rows_written   bigint NOT NULL DEFAULT 0,
    rows_unchanged bigint NOT NULL DEFAULT 0,
    rows_rejected  bigint NOT NULL DEFAULT 0,
    bytes          bigint NOT NULL DEFAULT 0,
    content_hash   text,
    duplicate_of   bigint REFERENCES ledger.loads,
    error_code     text,
    error_message  text,
    problems       jsonb,
    location       text,
    came_back      boolean NOT NULL DEFAULT false,
    discovered_at  timestamptz NOT NULL DEFAULT now(),
    claimed_at     timestamptz,
    committed_at   timestamptz,
    finished_at    timestamptz,
    UNIQUE (landing_zone, key, version)
);
COMMENT ON COLUMN ledger.loads.alone IS 'a run died with this load in hand: it is claimed by itself from now on';
COMMENT ON COLUMN ledger.loads.location IS 'URL at which the object stands once it has been moved';
COMMENT ON COLUMN ledger.loads.came_back IS 'the object stands in the landing zone again, from where it is to be moved once more';
COMMENT ON COLUMN ledger.loads.run_id IS 'the run that claimed the load last; who moved it is in load_events';

CREATE INDEX loads_open ON ledger.loads (pipeline, status, modified, key) WHERE status NOT IN ('archived', 'errored');
CREATE INDEX loads_by_partition ON ledger.loads (pipeline, partition, dataset_id, status);
CREATE INDEX loads_by_claim ON ledger.loads (claim) WHERE status NOT IN ('ready', 'archived', 'errored');
CREATE INDEX loads_by_run ON ledger.loads (run_id);
CREATE INDEX loads_unfinished ON ledger.loads (landing_zone, key, modified, id) WHERE unfinished;
COMMENT ON INDEX ledger.loads_unfinished IS
    'finds an older version that is to go first; the only index with this condition, so that none is taken which knows no keys';

CREATE TABLE ledger.load_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    load_id     bigint NOT NULL REFERENCES ledger.loads,
    from_status text,
    to_status   text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id      text,
    why         text
);
CREATE INDEX load_events_of_load ON ledger.load_events (load_id);
CREATE INDEX load_events_of_silent_runs ON ledger.load_events (run_id) WHERE starts_with(why, 'lease expired');

CREATE FUNCTION ledger.events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger.load_events is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger.load_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.events_are_append_only();
"""


def upgrade() -> None:
    """Create the tables of schema `ledger` (the schema itself is made with Alembic's version table)."""
    op.get_bind().exec_driver_sql(LEDGER)

"""When the sweeps last finished, and a history of loads that retention may shorten, and nobody else."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OPERATIONS = """
CREATE TABLE ledger.heartbeats (
    name text PRIMARY KEY,
    at   timestamptz NOT NULL
);
COMMENT ON TABLE ledger.heartbeats IS 'when what must go on for ever last came to its end, by the name of its sensor';

CREATE OR REPLACE FUNCTION ledger.events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('ledger.forgetting', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'ledger.load_events is append-only';
END $$;

-- What leaves the ledger is looked for among what refers to it.
CREATE INDEX loads_duplicates ON ledger.loads (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX rows_of_load ON residents.rows (load_id) WHERE load_id IS NOT NULL;
CREATE INDEX current_loads_of_load ON cubic.current_loads (load_id);
CREATE INDEX schemas_of_load ON cubic.schemas (load_id) WHERE load_id IS NOT NULL;
CREATE INDEX loads_finished_at ON ledger.loads (pipeline, finished_at, id) WHERE status IN ('archived', 'errored');
"""


def upgrade() -> None:
    """Create heartbeats, and let retention delete from the history of loads."""
    op.get_bind().exec_driver_sql(OPERATIONS)

"""What the catalogue needs: refreshes and their journal, id ranges, dead letters, fixes, probed hosts, and tasks of the private API."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CATALOG = """
CREATE SCHEMA catalog;

CREATE TABLE catalog.refreshes (
    model        text NOT NULL,
    suffix       text NOT NULL,
    load_id      bigint NOT NULL UNIQUE REFERENCES ledger.loads,
    state        text NOT NULL DEFAULT 'requested'
                 CHECK (state IN ('requested', 'copied', 'indexed', 'filled', 'promoting', 'live', 'previous', 'retired', 'discarded')),
    asked_by     text NOT NULL,
    alias        text NOT NULL,
    filtered     boolean NOT NULL DEFAULT true,
    promote      boolean NOT NULL DEFAULT true,
    run_id       text,
    counts       jsonb NOT NULL DEFAULT '{}',
    requested_at timestamptz NOT NULL DEFAULT now(),
    copied_at    timestamptz,
    snapshot_at  timestamptz,
    filled_at    timestamptz,
    promoted_at  timestamptz,
    ended_at     timestamptz,
    PRIMARY KEY (model, suffix)
);
COMMENT ON TABLE catalog.refreshes IS 'one row per refresh of a media type: how far it has come, and what it counted';
COMMENT ON COLUMN catalog.refreshes.suffix IS 'ends the names of its indexes; the key of its load and of its partition';
COMMENT ON COLUMN catalog.refreshes.state IS 'live: what readers get; previous: what a rollback brings back; retired: dropped after that';
COMMENT ON COLUMN catalog.refreshes.filtered IS 'whether the index without sensitive documents is filled with the other';
COMMENT ON COLUMN catalog.refreshes.promote IS 'false: it waits, filled, until somebody asks for its promotion';
COMMENT ON COLUMN catalog.refreshes.snapshot_at IS 'the moment that the upstream rows are of, by the upstream clock';
CREATE UNIQUE INDEX refreshes_one_at_work ON catalog.refreshes (model)
    WHERE state IN ('requested', 'copied', 'indexed', 'filled', 'promoting');
CREATE UNIQUE INDEX refreshes_one_live ON catalog.refreshes (model) WHERE state = 'live';

CREATE TABLE catalog.promotions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model         text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('promote', 'rollback')),
    suffix        text NOT NULL,
    from_suffix   text,
    table_state   text NOT NULL DEFAULT 'before' CHECK (table_state IN ('before', 'swapped', 'reverted')),
    alias_state   text NOT NULL DEFAULT 'before' CHECK (alias_state IN ('before', 'moved', 'reverted')),
    plan          jsonb NOT NULL DEFAULT '{}',
    begun_at      timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    outcome       text CHECK (outcome IN ('done', 'reverted')),
    run_id        text
);
COMMENT ON TABLE catalog.promotions IS 'journal of swaps; one without an end is completed or reverted at the next start';
COMMENT ON COLUMN catalog.promotions.plan IS 'what is swapped: tables, and where each alias led and is to lead';
CREATE UNIQUE INDEX promotions_one_open ON catalog.promotions (model) WHERE ended_at IS NULL;

CREATE TABLE catalog.ranges (
    load_id      bigint PRIMARY KEY REFERENCES ledger.loads,
    model        text NOT NULL,
    suffix       text NOT NULL,
    first_id     bigint NOT NULL,
    last_id      bigint NOT NULL,
    committed_id bigint,
    rows_read    bigint NOT NULL DEFAULT 0,
    documents    bigint NOT NULL DEFAULT 0,
    filtered     bigint NOT NULL DEFAULT 0,
    dead         bigint NOT NULL DEFAULT 0,
    retries      bigint NOT NULL DEFAULT 0,
    bytes        bigint NOT NULL DEFAULT 0,
    seconds      double precision NOT NULL DEFAULT 0,
    UNIQUE (model, suffix, first_id)
);
COMMENT ON TABLE catalog.ranges IS 'ids of a staged table, in ranges with both ends in them, and how far each is in the index';
COMMENT ON COLUMN catalog.ranges.committed_id IS 'every document up to this id is in the index; work goes on behind it';

CREATE TABLE catalog.dead_letters (
    model       text NOT NULL,
    index_name  text NOT NULL,
    document_id bigint NOT NULL,
    code        text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_name, document_id)
);
COMMENT ON TABLE catalog.dead_letters IS 'documents that an index refused for good';

CREATE TABLE catalog.fixes (
    model      text NOT NULL,
    suffix     text NOT NULL,
    identifier uuid NOT NULL,
    field      text NOT NULL,
    old_value  text,
    new_value  text,
    rule       text NOT NULL
);
COMMENT ON TABLE catalog.fixes IS 'what cleaning changed in a refresh, for upstream to correct';
CREATE INDEX fixes_of_refresh ON catalog.fixes (model, suffix, rule);

CREATE TABLE catalog.hosts (
    host      text PRIMARY KEY,
    is_tls    boolean NOT NULL,
    why       text NOT NULL,
    probed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE catalog.hosts IS 'hosts that were asked whether they speak TLS';

CREATE TABLE catalog.id_marks (
    table_name     text PRIMARY KEY,
    last_id        bigint NOT NULL,
    attempt        text,
    before_attempt bigint
);
COMMENT ON TABLE catalog.id_marks IS 'the highest id ever given in a table of the API: none is given twice';
COMMENT ON COLUMN catalog.id_marks.attempt IS
    'the copy that all ids above before_attempt were given to; a new attempt of it gives them again';

CREATE TABLE catalog.carried (
    model           text NOT NULL,
    suffix          text NOT NULL,
    id              bigint NOT NULL,
    staged_before   boolean NOT NULL,
    main_before     boolean NOT NULL,
    filtered_before boolean NOT NULL,
    staged          boolean,
    main            boolean,
    filtered        boolean,
    PRIMARY KEY (model, suffix, id)
);
COMMENT ON TABLE catalog.carried IS
    'rows that have changed upstream since the copy of a refresh at work: where they were before, and are now';

CREATE TABLE catalog.watermarks (
    model      text PRIMARY KEY,
    suffix     text NOT NULL,
    updated_on timestamptz NOT NULL,
    moved_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE catalog.watermarks IS 'up to which change upstream the live generation has been kept up';

CREATE TABLE catalog.rebuilds (
    model    text PRIMARY KEY,
    suffix   text NOT NULL,
    origin   text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE catalog.rebuilds IS
    'filtered indexes that are being made anew from the live table; one that was broken off is gone on with';
COMMENT ON COLUMN catalog.rebuilds.origin IS 'the refresh that was live when it was begun';

CREATE TABLE catalog.messages (
    model     text NOT NULL,
    suffix    text NOT NULL,
    channel   text NOT NULL,
    reference text NOT NULL,
    edited_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, suffix, channel)
);
COMMENT ON TABLE catalog.messages IS 'the one message about a refresh in each channel, to be edited or followed';

CREATE TABLE catalog.tasks (
    id               text PRIMARY KEY,
    model            text NOT NULL,
    action           text NOT NULL,
    request          jsonb NOT NULL,
    idempotency_key  text UNIQUE,
    asked_by         text NOT NULL,
    state            text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'started', 'succeeded', 'failed')),
    run_id           text,
    progress         double precision NOT NULL DEFAULT 0,
    error            text,
    is_bad_request   boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    called_back_at   timestamptz,
    callback_outcome text
);
COMMENT ON TABLE catalog.tasks IS 'tasks of the private API, kept across its restarts; request without secrets';
CREATE INDEX tasks_open ON catalog.tasks (created_at) WHERE state IN ('queued', 'started');
"""


def upgrade() -> None:
    """Create schema `catalog`."""
    op.get_bind().exec_driver_sql(CATALOG)

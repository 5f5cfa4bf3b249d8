"""What residents needs: the ledger of rows, what each file said of them, and the reports that tell of it. No personal data in plain."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = """
CREATE SCHEMA residents;

CREATE TABLE residents.rows (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id           bigint NOT NULL REFERENCES ledger.datasets,
    identity             bytea NOT NULL,
    row_hash             bytea NOT NULL,
    nhs_hash             bytea,
    name_hash            bytea,
    step                 text NOT NULL DEFAULT 'validated'
                         CHECK (step IN ('validated', 'creating', 'created', 'fetched', 'done', 'failed', 'quarantined')),
    action               text CHECK (action IN ('created', 'matched', 'skipped', 'failed')),
    resident_id          bigint,
    help_request_id      bigint,
    shielding_begun      boolean NOT NULL DEFAULT false,
    shielding_request_id bigint,
    notes_added          integer NOT NULL DEFAULT 0,
    attempts             integer NOT NULL DEFAULT 0,
    code                 text,
    load_id              bigint REFERENCES ledger.loads,
    created_at           timestamptz NOT NULL DEFAULT now(),
    seen_at              timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dataset_id, identity, row_hash)
);
COMMENT ON TABLE residents.rows IS 'one row per row that was to be sent, whatever file it came in, and how far it has come';
COMMENT ON COLUMN residents.rows.identity IS 'keyed hash of what the API knows it by';
COMMENT ON COLUMN residents.rows.row_hash IS 'keyed hash of all that is sent of it';
COMMENT ON COLUMN residents.rows.nhs_hash IS 'keyed hash of the person''s NHS number; null: unknown';
COMMENT ON COLUMN residents.rows.name_hash IS 'keyed hash of the person''s names; null: unknown';
COMMENT ON COLUMN residents.rows.load_id IS 'the load that last sent it';
CREATE INDEX rows_seen ON residents.rows (seen_at);

CREATE TABLE residents.files (
    load_id     bigint PRIMARY KEY REFERENCES ledger.loads,
    as_of       date NOT NULL,
    day         date NOT NULL,
    entered     boolean NOT NULL DEFAULT false,
    status      text CHECK (status IN ('complete', 'partial', 'refused')),
    header_row  integer,
    problems    jsonb NOT NULL DEFAULT '[]',
    seconds     double precision NOT NULL DEFAULT 0,
    finished_at timestamptz
);
COMMENT ON TABLE residents.files IS 'what is told of a file as a whole';
COMMENT ON COLUMN residents.files.as_of IS 'the day, in London, by which its rows were judged';
COMMENT ON COLUMN residents.files.day IS 'the day in the name of its report';
COMMENT ON COLUMN residents.files.entered IS 'all its rows are in file_rows, as judged by as_of';
COMMENT ON COLUMN residents.files.status IS 'null: it is not finished';

CREATE TABLE residents.file_rows (
    load_id bigint NOT NULL REFERENCES ledger.loads,
    number  integer NOT NULL,
    judged  text NOT NULL CHECK (judged IN ('pending', 'skipped', 'refused')),
    row_id  bigint REFERENCES residents.rows ON DELETE SET NULL,
    code    text,
    message text,
    PRIMARY KEY (load_id, number),
    CHECK (judged <> 'pending' OR code IS NULL)
);
COMMENT ON TABLE residents.file_rows IS 'each row of each file: as it was judged, and which row of the ledger it is';
COMMENT ON COLUMN residents.file_rows.number IS 'below the header, from 1';
CREATE INDEX file_rows_of_row ON residents.file_rows (row_id);

CREATE TABLE residents.reports (
    load_id    bigint NOT NULL REFERENCES ledger.loads,
    part       smallint NOT NULL,
    dataset_id bigint NOT NULL REFERENCES ledger.datasets,
    name       text NOT NULL,
    url        text,
    written_at timestamptz,
    PRIMARY KEY (load_id, part),
    UNIQUE (dataset_id, name)
);
COMMENT ON TABLE residents.reports IS 'workbooks in the outbound folders; the name is reserved before one is written';

CREATE TABLE residents.first_looks (
    dataset_id bigint NOT NULL REFERENCES ledger.datasets,
    place      text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    old_files  integer NOT NULL,
    PRIMARY KEY (dataset_id, place)
);
COMMENT ON TABLE residents.first_looks IS 'when an inbound folder of a dataset was first looked at, and how many old files it held';

CREATE TABLE residents.hash_keys (
    fingerprint bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX hash_keys_one ON residents.hash_keys ((true));
COMMENT ON TABLE residents.hash_keys IS 'by what the key is known under which all hashes here were made; emptied, the next key is taken';
"""


def upgrade() -> None:
    """Create schema `residents`."""
    op.get_bind().exec_driver_sql(TABLES)

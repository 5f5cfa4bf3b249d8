"""What life events needs: an outbox, the record ledger without personal data, the encrypted event store, and the audit."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OUTBOX = """
CREATE TABLE ledger.outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic         text NOT NULL,
    key           text NOT NULL,
    load_id       bigint,
    created_at    timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL DEFAULT now(),
    claim         bigint,
    claimed_until timestamptz,
    attempts      integer NOT NULL DEFAULT 0,
    dead_at       timestamptz,
    code          text,
    UNIQUE (topic, key)
);
COMMENT ON TABLE ledger.outbox IS 'what a transaction has committed and somebody outside is yet to be told';
COMMENT ON COLUMN ledger.outbox.key IS 'under what the receiver knows it: sent twice, it is the same to him';
COMMENT ON COLUMN ledger.outbox.load_id IS 'the load it came with';
COMMENT ON COLUMN ledger.outbox.claimed_until IS 'somebody is sending it until then';
COMMENT ON COLUMN ledger.outbox.attempts IS 'how often it was tried while others got through';
COMMENT ON COLUMN ledger.outbox.dead_at IS 'when it was given up; it waits for a person';
CREATE INDEX outbox_due ON ledger.outbox (topic, due_at, id) WHERE dead_at IS NULL;
CREATE SEQUENCE ledger.outbox_claim;
"""

LIFE_EVENTS = """
CREATE SCHEMA life_events;

CREATE TABLE life_events.hmac_keys (
    position    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text NOT NULL UNIQUE,
    fingerprint bytea NOT NULL,
    known_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE life_events.hmac_keys IS 'keys that records are or were hashed with, the current one last';

CREATE TABLE life_events.files (
    load_id      bigint PRIMARY KEY REFERENCES ledger.loads,
    file_hmac    bytea,
    record_count bigint,
    accepted     bigint NOT NULL DEFAULT 0,
    duplicates   bigint NOT NULL DEFAULT 0,
    quarantined  bigint NOT NULL DEFAULT 0,
    code         text,
    begun_at     timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    deleted_at   timestamptz,
    expired_at   timestamptz
);
COMMENT ON TABLE life_events.files IS 'what was counted in a file; finished: accepted + duplicates + quarantined = record_count';
COMMENT ON COLUMN life_events.files.code IS 'why the file was refused; null: it was not';
COMMENT ON COLUMN life_events.files.deleted_at IS 'when the audit was told that the file, loaded, is deleted';
COMMENT ON COLUMN life_events.files.expired_at IS 'when the refused file was deleted from quarantine';

CREATE TABLE life_events.records (
    record_key   bytea PRIMARY KEY,
    hmac_key     text NOT NULL,
    load_id      bigint NOT NULL,
    ordinal      bigint NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'published', 'dead', 'released', 'expired')),
    code         text,
    stored_at    timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    ended_at     timestamptz,
    seen_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE life_events.records IS 'one row per record there has been, whatever file it came in: nothing of anybody';
COMMENT ON COLUMN life_events.records.record_key IS 'keyed hash of the record; in hex the id of its event';
COMMENT ON COLUMN life_events.records.state IS 'dead: nobody can be told of it; released: deleted on request; expired: deleted unasked';
COMMENT ON COLUMN life_events.records.ordinal IS 'its place in the file of that load, from 1';
COMMENT ON COLUMN life_events.records.ended_at IS 'when its event was deleted';
CREATE INDEX records_of_load ON life_events.records (load_id, ordinal);
CREATE INDEX records_alive ON life_events.records (stored_at) WHERE state IN ('pending', 'published', 'dead');
CREATE INDEX records_ended ON life_events.records (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE life_events.events (
    record_key     bytea PRIMARY KEY,
    encryption_key text NOT NULL,
    payload        bytea NOT NULL,
    stored_at      timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL
);
COMMENT ON TABLE life_events.events IS 'the event store: what is known of a person, encrypted, and only until every consumer has it';
CREATE INDEX events_by_expiry ON life_events.events (expires_at);

CREATE TABLE life_events.quarantine (
    load_id     bigint NOT NULL,
    ordinal     bigint NOT NULL,
    number      integer NOT NULL,
    byte_offset bigint NOT NULL,
    code        text NOT NULL,
    field       text NOT NULL,
    record_key  bytea,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (load_id, ordinal, number)
);
COMMENT ON TABLE life_events.quarantine IS 'records that were not accepted, a row for each thing wrong with one; never a value';

CREATE TABLE life_events.audit (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    component      text NOT NULL,
    event_name     text NOT NULL CHECK (event_name IN ('FILE_RECEIVED', 'RECORD_STAGED', 'RECORD_REJECTED', 'EVENT_PUBLISHED',
                       'EVENT_ENRICHED', 'EVENT_DELETED', 'FILE_DELETED')),
    correlation_id text NOT NULL,
    file_hmac      bytea,
    record_key     bytea,
    outcome        text NOT NULL,
    client         text,
    fields         text[],
    payload_hmac   bytea
);
COMMENT ON TABLE life_events.audit IS 'append-only; who did what to which event, without anything of a person';
CREATE INDEX audit_by_record ON life_events.audit (record_key) WHERE record_key IS NOT NULL;
CREATE INDEX audit_by_time ON life_events.audit USING brin (at);

CREATE FUNCTION life_events.audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('life_events.forgetting', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'life_events.audit is append-only';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON life_events.audit
    FOR EACH STATEMENT EXECUTE FUNCTION life_events.audit_is_append_only();
"""


def upgrade() -> None:
    """Create the outbox and schema `life_events`."""
    connection = op.get_bind()
    connection.exec_driver_sql(OUTBOX)
    connection.exec_driver_sql(LIFE_EVENTS)

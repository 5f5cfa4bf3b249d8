"""Stream checkpoints, alerts, points withdrawn by newer files, row counts per topic, and when a dataset's rows were rebuilt."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LEDGER = """
CREATE TABLE ledger.stream_checkpoints (
    stream          text NOT NULL,
    shard           text NOT NULL,
    sequence_number text,
    finished        boolean NOT NULL DEFAULT false,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, shard)
);
COMMENT ON COLUMN ledger.stream_checkpoints.sequence_number IS 'last record that stands in the landing zone; null: none so far';
COMMENT ON COLUMN ledger.stream_checkpoints.finished IS 'the shard is closed and read to its end';

CREATE TABLE ledger.alerts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        text NOT NULL,
    channel    text NOT NULL,
    content    jsonb NOT NULL,
    status     text NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'sending', 'sent')),
    attempts   integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz,
    UNIQUE (key, channel)
);
CREATE INDEX alerts_open ON ledger.alerts (not_before) WHERE status <> 'sent';
COMMENT ON COLUMN ledger.alerts.key IS 'what it is about; an alert of the same key is not raised again on that channel';
COMMENT ON COLUMN ledger.alerts.not_before IS 'due: not handed over before; sending: when it was handed over';
COMMENT ON COLUMN ledger.alerts.status IS 'sending: handed to the channel, which has not answered; never handed over again';

CREATE INDEX loads_refused ON ledger.loads (pipeline, claimed_at)
    WHERE status IN ('ready_for_erroring', 'erroring', 'errored') OR rows_rejected > 0;

CREATE INDEX loads_by_key ON ledger.loads (pipeline, key, discovered_at) WHERE status IN ('archived', 'errored');

ALTER TABLE ledger.datasets ADD COLUMN rebuilt_at timestamptz;
COMMENT ON COLUMN ledger.datasets.rebuilt_at IS
    'when everything loaded before was replaced: the same content as an older load is no duplicate from then on';
"""

METRICS = """
CREATE TABLE metrics.withdrawn_core_time_series (
    LIKE metrics.core_time_series, withdrawn_by timestamptz NOT NULL, withdrawn_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (series_id) REFERENCES metrics.series);
CREATE TABLE metrics.withdrawn_api_time_series (
    LIKE metrics.api_time_series, withdrawn_by timestamptz NOT NULL, withdrawn_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (series_id) REFERENCES metrics.series);
CREATE TABLE metrics.withdrawn_core_headline (
    LIKE metrics.core_headline, withdrawn_by timestamptz NOT NULL, withdrawn_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (series_id) REFERENCES metrics.series);
CREATE INDEX ON metrics.withdrawn_core_time_series (series_id);
CREATE INDEX ON metrics.withdrawn_api_time_series (series_id);
CREATE INDEX ON metrics.withdrawn_core_headline (series_id);
COMMENT ON TABLE metrics.withdrawn_core_time_series IS 'rows of core_time_series that a newer file of a topic with policy full lacks';
COMMENT ON TABLE metrics.withdrawn_api_time_series IS 'rows of api_time_series that a newer file of a topic with policy full lacks';
COMMENT ON TABLE metrics.withdrawn_core_headline IS 'rows of core_headline that a newer file of a topic with policy full lacks';
COMMENT ON COLUMN metrics.withdrawn_core_time_series.withdrawn_by IS 'refresh date of that file';
COMMENT ON COLUMN metrics.withdrawn_api_time_series.withdrawn_by IS 'refresh date of that file';
COMMENT ON COLUMN metrics.withdrawn_core_headline.withdrawn_by IS 'refresh date of that file';

-- Nothing of it is for whom the public looks on, whatever is granted.
ALTER TABLE metrics.withdrawn_core_time_series ENABLE ROW LEVEL SECURITY;
ALTER TABLE metrics.withdrawn_api_time_series ENABLE ROW LEVEL SECURITY;
ALTER TABLE metrics.withdrawn_core_headline ENABLE ROW LEVEL SECURITY;
CREATE POLICY as_granted ON metrics.withdrawn_core_time_series FOR ALL TO PUBLIC USING (true) WITH CHECK (true);
CREATE POLICY as_granted ON metrics.withdrawn_api_time_series FOR ALL TO PUBLIC USING (true) WITH CHECK (true);
CREATE POLICY as_granted ON metrics.withdrawn_core_headline FOR ALL TO PUBLIC USING (true) WITH CHECK (true);
CREATE POLICY nothing ON metrics.withdrawn_core_time_series AS RESTRICTIVE FOR ALL TO metrics_public_reader USING (false);
CREATE POLICY nothing ON metrics.withdrawn_api_time_series AS RESTRICTIVE FOR ALL TO metrics_public_reader USING (false);
CREATE POLICY nothing ON metrics.withdrawn_core_headline AS RESTRICTIVE FOR ALL TO metrics_public_reader USING (false);

CREATE TABLE metrics.topic_row_counts (
    counted_at timestamptz NOT NULL,
    theme      text NOT NULL,
    sub_theme  text NOT NULL,
    topic      text NOT NULL,
    fact       text NOT NULL,
    rows       bigint NOT NULL,
    PRIMARY KEY (counted_at, theme, sub_theme, topic, fact)
);
COMMENT ON TABLE metrics.topic_row_counts IS 'what the daily check counted, to compare the next count with';
"""


def upgrade() -> None:
    """Create what streams, alerts, the point policy and the daily checks keep."""
    connection = op.get_bind()
    connection.exec_driver_sql(LEDGER)
    connection.exec_driver_sql(METRICS)

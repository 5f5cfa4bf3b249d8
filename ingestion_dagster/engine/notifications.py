"""Alerts to people, by Slack and by SNS e-mail: an outbox from which each alert is handed to each channel at most once.

What a channel did not take (it could not be reached, was busy, or refused) is handed over again later, for as long as it takes.
What it may have taken (it did not answer, or this process died meanwhile) is not: it stays `sending`, for a person to look at.
Alerts hold counts, codes and names of ours, never a value of a record.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.alert import Alert, DatasetLine, counted, overview_link, run_link
from ingestion_dagster.engine.channels import Channel, InDoubt, NotTaken
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

DELIVERY_SECONDS = 20.0
"""One pass of `deliver` hands nothing more over after this long."""

_IN_DOUBT_AFTER = timedelta(minutes=1)
RAISE = """
INSERT INTO ledger.alerts (key, channel, content)
SELECT %(key)s, channel, %(content)s FROM unnest(%(channels)s::text[]) AS channel
WHERE NOT EXISTS (SELECT FROM ledger.alerts WHERE key = %(key)s)
ON CONFLICT (key, channel) DO NOTHING
RETURNING id
"""

TAKE = """
UPDATE ledger.alerts SET status = 'sending', attempts = attempts + 1, not_before = clock_timestamp()
WHERE id = (
    SELECT id FROM ledger.alerts
    WHERE status = 'due' AND not_before <= clock_timestamp() AND channel = ANY(%(channels)s)
    ORDER BY not_before, id LIMIT 1
    FOR UPDATE SKIP LOCKED)
RETURNING id, channel, content
"""

PUT_BACK = """
UPDATE ledger.alerts
SET status = 'due',
    not_before = clock_timestamp() + make_interval(secs => greatest(
        %(at_least)s::float8,
        (0.5 + random() / 2) * CASE WHEN %(permanent)s THEN 900 ELSE least(900, 30 * 2 ^ (least(attempts, 10) - 1)) END))
WHERE id = %(id)s AND status = 'sending'
"""

SENT = "UPDATE ledger.alerts SET status = 'sent', sent_at = clock_timestamp() WHERE id = %(id)s AND status = 'sending'"

UNCERTAIN = """
SELECT id, key, channel, not_before FROM ledger.alerts
WHERE status = 'sending' AND not_before < clock_timestamp() - %(age)s ORDER BY id
"""

RAISED = "SELECT DISTINCT key FROM ledger.alerts WHERE key = ANY(%(keys)s)"

DUE = "SELECT count(*) FROM ledger.alerts WHERE status = 'due'"

OF_RUN = """
SELECT dataset, code, count(*), count(*) FILTER (WHERE errored), sum(rows_rejected)
FROM (
    SELECT coalesce(d.name, 'unknown') AS dataset, l.rows_rejected, l.status IN ('ready_for_erroring', 'erroring', 'errored') AS errored,
           CASE WHEN l.rows_rejected > 0 OR l.status IN ('ready_for_erroring', 'erroring', 'errored') THEN l.error_code END AS code
    FROM ledger.loads AS l
    LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id
    WHERE l.pipeline = %(pipeline)s AND l.run_id = %(run_id)s) AS of_run
GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
"""

# By the time of the claim, which the finish of a move that is repeated years later does not change.
UNREPORTED = """
SELECT DISTINCT l.run_id
FROM ledger.loads AS l
WHERE l.pipeline = %(pipeline)s AND l.claimed_at > now() - interval '1 day'
  AND (l.status IN ('ready_for_erroring', 'erroring', 'errored') OR l.rows_rejected > 0)
  AND NOT EXISTS (SELECT FROM ledger.alerts AS a WHERE a.key = 'errored:' || l.run_id)
  AND NOT EXISTS (SELECT FROM ledger.loads AS held WHERE held.run_id = l.run_id AND held.status = 'ingesting')
ORDER BY 1 LIMIT 20
"""


def raise_alert(connection: Connection, through: Sequence[Channel], alert: Alert) -> bool:
    """Put an alert into the outbox, once a channel. False, and nothing done, if one of its key was raised before or no channel is set."""
    parameters = {"key": alert.key, "channels": [channel.name for channel in through], "content": Jsonb(asdict(alert))}
    return bool(connection.execute(RAISE, parameters).fetchall())


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one pass did, in alerts: sent, put back to be handed over later, and left in doubt."""

    sent: int = 0
    put_back: int = 0
    in_doubt: int = 0


def deliver(connection: Connection, through: Sequence[Channel], *, seconds: float = DELIVERY_SECONDS) -> Delivery:
    """Hand over what is due, oldest first. A channel that has not taken one gets no other in this pass.

    The connection must be in no transaction: what is handed over is marked so, and that committed, before.
    """
    assert connection.info.transaction_status == TransactionStatus.IDLE
    listening = {channel.name: channel for channel in through}
    sent = put_back = in_doubt = 0
    deadline = time.monotonic() + seconds
    while listening and time.monotonic() < deadline:
        taken = connection.execute(TAKE, {"channels": sorted(listening)}).fetchone()
        if taken is None:
            break
        number, name, content = taken
        alert = Alert.from_content(content)
        fault_point(f"alert.{name}.before_send")
        try:
            listening[name].send(alert)
        except NotTaken as refusal:
            connection.execute(
                PUT_BACK, {"id": number, "permanent": refusal.next_step is not None, "at_least": min(refusal.at_least, 86400)}
            )
            _log_refusal(name, alert, refusal)
            put_back += 1
            del listening[name]
        except InDoubt as doubt:
            log.warning("%s has not confirmed alert %s (%s): whether it has it nobody knows; not handed over again", name, alert.key, doubt)
            in_doubt += 1
            del listening[name]
        else:
            fault_point(f"alert.{name}.after_send")
            connection.execute(SENT, {"id": number})
            fault_point(f"alert.{name}.after_mark")
            sent += 1
    return Delivery(sent, put_back, in_doubt)


@dataclass(frozen=True, slots=True)
class Uncertain:
    """An alert that was handed to a channel, which has not confirmed it: sent or not, nobody knows."""

    id: int
    key: str
    channel: str
    since: datetime


def uncertain(connection: Connection, age: timedelta = _IN_DOUBT_AFTER) -> list[Uncertain]:
    """Alerts of which nobody knows whether they were sent; those under way at this moment are younger than `age`."""
    return [Uncertain(*row) for row in connection.execute(UNCERTAIN, {"age": age})]


def raised(connection: Connection, keys: Iterable[str]) -> frozenset[str]:
    """Those of these keys of which there is an alert."""
    return frozenset(row[0] for row in connection.execute(RAISED, {"keys": list(keys)}))


def due(connection: Connection) -> int:
    """How many hand-overs stand out, whatever their time and channel."""
    row = connection.execute(DUE).fetchone()
    return int(row[0]) if row else 0


def datasets_of_run(connection: Connection, pipeline: str, run_id: str) -> tuple[DatasetLine, ...]:
    """What a run was the last to have in hand, by dataset."""
    lines: dict[str, DatasetLine] = {}
    for dataset, code, loads, errored, rejected in connection.execute(OF_RUN, {"pipeline": pipeline, "run_id": run_id}):
        line = lines.get(dataset, DatasetLine(dataset))
        codes = (*line.codes, (code, loads)) if code else line.codes
        lines[dataset] = DatasetLine(dataset, line.loads + loads, line.errored + errored, line.rows_rejected + int(rejected), codes)
    return tuple(lines.values())


def errored_loads(connection: Connection, settings: Settings, pipeline: str, run_id: str, *, known: bool = True) -> Alert | None:
    """The one alert for a run with errored loads or rejected rows; None for a run without.

    An id that is no run's of the Dagster at hand (`known`), or of any, is told, and not linked to.
    """
    lines = tuple(line for line in datasets_of_run(connection, pipeline, run_id) if line.errored or line.rows_rejected)
    if not lines:
        return None
    errored, rejected = sum(line.errored for line in lines), sum(line.rows_rejected for line in lines)
    counts = [f"{counted(errored, 'load')} errored"] if errored else []
    counts += [f"{counted(rejected, 'row')} rejected"] if rejected else []
    alert = Alert(key=f"errored:{run_id}", environment=settings.environment, pipeline=pipeline, title=", ".join(counts), datasets=lines)
    if known and not run_id.startswith(whereabouts.NO_RUNS):
        return replace(alert, run_id=run_id, link=run_link(settings, run_id))
    return replace(alert, details=(f"claimed by {run_id}, which is no run of this Dagster",), link=overview_link(settings))


def unreported_runs(connection: Connection, pipeline: str) -> list[str]:
    """Runs of the last day that have errored loads or rejected rows, hold nothing any more, and of which no alert was raised."""
    return [row[0] for row in connection.execute(UNREPORTED, {"pipeline": pipeline})]


def _log_refusal(channel: str, alert: Alert, refusal: NotTaken) -> None:
    if refusal.next_step:
        log.error("%s refuses alert %s (%s): %s; it is kept, and handed over again", channel, alert.key, refusal.code, refusal.next_step)
    else:
        log.warning("%s could not take alert %s (%s); it is handed over again", channel, alert.key, refusal.code)

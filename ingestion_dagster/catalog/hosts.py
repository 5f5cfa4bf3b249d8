"""Hosts: which of them speak TLS, as remembered from refresh to refresh; those that nobody knows are asked."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from psycopg import sql

from ingestion_dagster.catalog import urls
from ingestion_dagster.catalog.copy_errors import LEDGER, UPSTREAM, told
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

SEEDS = {
    "www.flickr.com": True,
    "commons.wikimedia.org": True,
    "geograph.org.uk": True,
    "www.geograph.org.uk": True,
    "eol.org": True,
    "www.eol.org": True,
    "digitaltmuseum.org": True,
    "collections.musee-mccord.qc.ca": False,
}
"""Hosts that are known from the start."""

COLLECT = """
SELECT host, count(*)
FROM (SELECT lower(substring(value from '^\\s*(?://)?([^/?#]+)')) AS host FROM ({sources}) AS addresses (value)
      WHERE value <> '' AND NOT starts_with(value, 'https://') AND NOT starts_with(value, 'http://')) AS hosts
WHERE host IS NOT NULL
GROUP BY host ORDER BY count(*) DESC, host LIMIT {limit}
"""

KNOWN = "SELECT host, is_tls FROM catalog.hosts WHERE probed_at > clock_timestamp() - %(age)s"

REMEMBER = """
INSERT INTO catalog.hosts (host, is_tls, why)
SELECT * FROM unnest(%(hosts)s::text[], %(answers)s::boolean[], %(reasons)s::text[])
ON CONFLICT (host) DO UPDATE SET is_tls = excluded.is_tls, why = excluded.why, probed_at = clock_timestamp()
"""

Prober = Callable[[Sequence[str], float], dict[str, tuple[bool, str]]]


def known(settings: Settings, ledger: Connection) -> dict[str, bool]:
    """Hosts whose answer is believed: those known from the start, and those that were asked lately."""
    with told(LEDGER, "hosts"):
        rows = ledger.execute(KNOWN, {"age": timedelta(days=settings.catalog_host_days)}).fetchall()
    return SEEDS | dict(rows)


def is_tls(answers: dict[str, bool]) -> Callable[[str], bool]:
    """What is believed of a host: what it has answered; of others, that they do not."""
    return lambda host: answers.get(host, False)


def answers(
    settings: Settings, ledger: Connection, upstream: Connection, sources: Sequence[sql.Composed], prober: Prober | None = None
) -> Callable[[str], bool]:
    """Whether a host speaks TLS, for the hosts of addresses without a scheme in `sources` (SELECTs of one text column each).

    Those that are not known are asked, the most frequent first; what they answer is remembered. No answer fails anything: they count
    as not speaking it. With settings.catalog_probe_seconds 0 none is asked.
    """
    found = known(settings, ledger)
    if not settings.catalog_probe_seconds or not settings.catalog_probe_hosts:
        return is_tls(found)
    unknown = [host for host in _hosts(upstream, sources, settings.catalog_probe_hosts + len(found)) if host not in found]
    if unknown := unknown[: settings.catalog_probe_hosts]:
        probed = (prober or _default_prober())(unknown, settings.catalog_probe_seconds)
        _remember(ledger, probed)
        found |= {host: answer for host, (answer, _) in probed.items()}
    return is_tls(found)


def _default_prober() -> Prober:
    from ingestion_dagster.catalog.host_probe import probe

    return probe


def _hosts(upstream: Connection, sources: Sequence[sql.Composed], limit: int) -> list[str]:
    """Hosts of addresses without a scheme, the most frequent first, each once."""
    every = sql.SQL(" UNION ALL ").join(sql.SQL("({})").format(source) for source in sources)
    with told(UPSTREAM, "hosts"):
        rows = upstream.execute(sql.SQL(COLLECT).format(sources=every, limit=sql.Literal(limit))).fetchall()
    return list(dict.fromkeys(host for row in rows if (host := urls.host_of(row[0])) is not None))


def _remember(ledger: Connection, probed: dict[str, tuple[bool, str]]) -> None:
    parameters = {
        "hosts": list(probed),
        "answers": [answer for answer, _ in probed.values()],
        "reasons": [why for _, why in probed.values()],
    }
    with told(LEDGER, "hosts"):
        ledger.execute(REMEMBER, parameters)

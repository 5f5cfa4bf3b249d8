"""Refreshes: one at a time, resumed, ended."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from ingestion_dagster.catalog import refreshes
from ingestion_dagster.catalog.cleaning import Fix
from ingestion_dagster.catalog.copy_range import Records
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused
from ingestion_dagster.engine.ledger import Status
from ingestion_dagster.engine.postgres import Database

LIMITS = Limits()


def test_one_refresh_of_a_media_type_at_a_time(database: Database) -> None:
    with database.connect() as connection:
        first = refreshes.request(connection, "image", "one", asked_by="test")
        with pytest.raises(Busy, match="refresh one"):
            refreshes.request(connection, "image", "two", asked_by="test")
        refreshes.request(connection, "audio", "one", asked_by="test")
        refreshes.advance(connection, first, "discarded")
        refreshes.request(connection, "image", "two", asked_by="test")
        with pytest.raises(Refused, match="suffix_in_use"):
            refreshes.request(connection, "audio", "one", asked_by="test")


def test_who_has_seen_a_refresh_in_another_state_does_not_bring_it_back(database: Database) -> None:
    with database.connect() as connection:
        seen = refreshes.request(connection, "image", "one", asked_by="test")
        refreshes.advance(connection, seen, "discarded")
        refreshes.request(connection, "image", "two", asked_by="test")
        with pytest.raises(Busy, match="no longer requested"):
            refreshes.advance(connection, seen, "copied", {"tables": {}})
        found = refreshes.get(connection, "image", "one")
    assert (found.state, found.counts) == ("discarded", {})


@pytest.mark.parametrize("suffix", ["", "A", "a b", "a/b", "-a", "x" * 81, "a-filtered", "a,b"])
def test_a_suffix_that_cannot_name_an_index_is_refused(suffix: str) -> None:
    with pytest.raises(ConfigurationError):
        refreshes.check_suffix(suffix)


def test_a_step_holds_the_load_and_gives_it_back(database: Database) -> None:
    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        with (
            refreshes.held(database, connection, refresh, "run-1", LIMITS),
            pytest.raises(Busy, match="run run-1 has it"),
            refreshes.held(database, connection, refresh, "run-2", LIMITS),
        ):
            raise AssertionError("two runs have it in hand")
        assert ledger.loads(connection, [refresh.load_id])[0].status is Status.READY
        copied = {"image": {"rows": 2, "deleted": 1, "bytes": 9}, "audioset": {"rows": 4, "deleted": 0, "bytes": 1}}
        with refreshes.held(database, connection, refresh, "run-2", LIMITS) as load:
            refresh = refreshes.advance(connection, refresh, "copied", {"tables": copied})
            refreshes.finish(connection, load, refresh, LIMITS, "run-2")
        (ended,) = ledger.loads(connection, [refresh.load_id])
        assert (ended.status, ended.rows_in, ended.rows_written, ended.rows_rejected) == (Status.ARCHIVED, 7, 6, 0)


def test_who_sleeps_while_it_sends_fixes_keeps_nobody_from_the_refresh(database: Database) -> None:
    """What has begun to send is ended by no timeout of the server's."""

    class Sent(list[tuple[UUID, Fix]]):
        def __iter__(self) -> Iterator[tuple[UUID, Fix]]:
            yield from super().__iter__()
            with database.connect() as other, other.transaction():
                other.execute("SELECT id FROM ledger.loads WHERE id = %s FOR UPDATE NOWAIT", [refresh.load_id])

    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        with refreshes.held(database, connection, refresh, "run-1", LIMITS) as load:
            records = Records(connection, "image", "one", hold=lambda: ledger.hold(connection, [load]))
            records.note(Sent([(UUID(int=1), Fix("url", "http://a", "https://a", "scheme"))]))
        assert connection.execute("SELECT identifier, field FROM catalog.fixes").fetchall() == [(UUID(int=1), "url")]
        with pytest.raises(ledger.ClaimLost):
            records.note([(UUID(int=2), Fix("url", "http://b", "https://b", "scheme"))])
        assert connection.execute("SELECT count(*) FROM catalog.fixes").fetchone() == (1,)


def test_a_failing_step_gives_the_load_back_uncharged(database: Database) -> None:
    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        with pytest.raises(ZeroDivisionError), refreshes.held(database, connection, refresh, "run-1", LIMITS):
            1 / 0  # noqa: B018
        (load,) = ledger.loads(connection, [refresh.load_id])
        assert (load.status, load.attempts) == (Status.READY, 0)


def test_a_refused_refresh_ends_with_its_problem(database: Database) -> None:
    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test")
        with refreshes.held(database, connection, refresh, "run-1", LIMITS) as load:
            refreshes.refuse(connection, load, (Problem("count_fell", "image", "look upstream"),), LIMITS, "run-1")
        (ended,) = ledger.loads(connection, [refresh.load_id])
        assert ended.status is Status.ERRORED


def test_what_is_not_to_be_promoted_waits(database: Database) -> None:
    with database.connect() as connection:
        refresh = refreshes.request(connection, "image", "one", asked_by="test", promote=False)
        with refreshes.held(database, connection, refresh, "run-1", LIMITS):
            refreshes.advance(connection, refresh, "filled")
        assert ledger.claimable(connection, ledger.Scope("catalog"))[0] == 0
        with refreshes.held(database, connection, refreshes.get(connection, "image", "one"), "run-2", LIMITS) as load:
            assert load.id == refresh.load_id

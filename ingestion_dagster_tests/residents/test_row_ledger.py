"""The row ledger: what it forgets and what not, names of reports that are taken, and counts that add up."""

from datetime import UTC, datetime, timedelta

import pytest

from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger, upkeep
from ingestion_dagster.residents.dry_run import predict
from ingestion_dagster.residents.identity import hasher
from ingestion_dagster.residents.model import RowStatus
from ingestion_dagster.residents.row_ledger import Entry
from ingestion_dagster_tests.residents.scene import AS_OF, Residents, api, as_csv, nsss, residents

__all__ = ["api", "residents"]


def forget(residents: Residents, days: float) -> tuple[int, int]:
    """What is forgotten on a day so many days from now."""
    with residents.database.connect() as connection:
        return upkeep.forget(connection, residents.settings, datetime.now(UTC) + timedelta(days=days))


def load_id(connection: Connection, name: str) -> int:
    row = connection.execute("SELECT max(id) FROM ledger.loads WHERE key LIKE %s", [f"%/{name}"]).fetchone()
    assert row
    return int(row[0])


# Forgetting


def test_nothing_is_forgotten_before_its_time(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    assert forget(residents, 399) == (0, 0)


def test_a_row_that_was_forgotten_is_sent_anew(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, date_of_birth="31/02/1990")])
    residents.run()
    assert forget(residents, 401) == (2, 1)
    kept = residents.in_ledger()
    assert (kept["residents.rows"], kept["residents.file_rows"], kept["residents.files"], kept["residents.reports"]) == (0, 0, 0, 0)
    assert kept["ledger.loads"] == 1, "the file is known, and not loaded again by itself"
    residents.run()
    assert residents.calls("create") == 1
    residents.drop("nsss/b.csv", [nsss(1)])
    residents.run()
    assert residents.calls("create") == 2
    assert residents.counts == (1, 1, 1), "the API knows it"


def test_a_row_that_came_again_is_kept_for_that_long_again(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    residents.query("UPDATE residents.rows SET seen_at = now() - interval '300 days'")
    residents.query("UPDATE ledger.loads SET finished_at = now() - interval '300 days'")
    residents.drop("nsss/b.csv", [nsss(1)])
    residents.run()
    assert forget(residents, 200) == (2, 1)
    residents.drop("nsss/c.csv", [nsss(1)])
    residents.run()
    assert residents.calls("create") == 2


def test_a_forgotten_report_is_not_written_again(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    forget(residents, 401)
    for name in residents.outbound("nsss"):
        (residents.drive / "nsss" / "outbound" / name).unlink()
    assert residents.tidy() == 0


def test_a_file_whose_rows_are_on_their_way_is_not_forgotten(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.query("UPDATE residents.rows SET step = 'created'")
    residents.query("UPDATE ledger.loads SET status = 'ready', finished_at = NULL")
    assert forget(residents, 401) == (0, 0)


def test_a_row_that_was_begun_and_never_came_again_is_forgotten_too(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.query("DELETE FROM residents.file_rows")
    residents.query("UPDATE residents.rows SET step = 'created'")
    assert forget(residents, 401)[1] == 1


# Entering


def test_rows_that_an_earlier_reading_had_more_of_are_left_out(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    with residents.database.connect() as connection:
        load, dataset = load_id(connection, "a.csv"), row_ledger.dataset_id(connection, "nsss")
        more = [Entry(number, RowStatus.REFUSED, code="bad_date") for number in (2, 3)]
        row_ledger.enter(connection, load, dataset, more, ids_name_people=True)
        assert len(row_ledger.states(connection, load)) == 3
        row_ledger.end_of_file(connection, load, 2)
        assert [(row.number, row.reason_code) for row in row_ledger.states(connection, load)] == [(1, None), (2, "bad_date")]


def test_a_row_that_was_judged_anew_is_what_it_was_judged_last(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    with residents.database.connect() as connection:
        load, dataset = load_id(connection, "a.csv"), row_ledger.dataset_id(connection, "nsss")
        row_ledger.enter(connection, load, dataset, [Entry(1, RowStatus.SKIPPED, code="other_utla")], ids_name_people=True)
        [state] = row_ledger.states(connection, load)
    assert (state.status, state.reason_code) == ("skipped", "other_utla")


def test_what_would_cost_no_call_is_known_by_position(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(3)])
    residents.run()
    with residents.database.connect() as connection:
        by = hasher(residents.settings)
        raw = as_csv([nsss(0), nsss(1), nsss(2), nsss(3), nsss(4, date_of_birth="31/02/1990")])
        found = predict(connection, residents.settings, by, "nsss", "b.csv", raw, AS_OF)
    assert found == {"rows": 5, "created": 2, "skipped": 2, "refused": 1}


# Counts


def test_counts_are_by_status_and_reason_and_add_up(residents: Residents) -> None:
    residents.reject(3)
    rows = [nsss(1), nsss(1), nsss(2, date_of_birth="31/02/1990"), nsss(3), nsss(4, ID="%")]
    residents.drop("nsss/a.csv", rows)
    residents.run()
    partition = residents.state("a.csv")["partition"]
    with residents.database.connect() as connection:
        found = row_ledger.counts(connection, "nsss", [partition])
        assert row_ledger.counts(connection, "spl", [partition]) == []
        assert row_ledger.open_rows(connection, "nsss") == 0
    assert sum(count for _, _, count in found) == len(rows)
    assert set(found) >= {("refused", "bad_date", 1), ("refused", "unsafe_dedupe_id", 1), ("failed", "api_rejected", 1)}


@pytest.mark.parametrize("step", ["validated", "creating", "created", "fetched"])
def test_a_row_left_open_in_a_finished_file_is_counted(residents: Residents, step: str) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run(run_id="this-run")
    residents.query("UPDATE residents.rows SET step = %s WHERE id = (SELECT min(id) FROM residents.rows)", [step])
    with residents.database.connect() as connection:
        assert row_ledger.open_rows(connection, "nsss") == 1
        assert row_ledger.open_rows(connection, "nsss", "this-run") == 1
        assert row_ledger.open_rows(connection, "nsss", "another") == 0
        assert row_ledger.open_rows(connection, "spl") == 0


# Names of reports


def test_names_are_reserved_once_and_for_all(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("nsss/b.csv", [nsss(2)])
    residents.run()
    with residents.database.connect() as connection:
        a, b, dataset = load_id(connection, "a.csv"), load_id(connection, "b.csv"), row_ledger.dataset_id(connection, "nsss")
        assert row_ledger.reserve(connection, a, dataset, ["same"]) == ("same",)
        assert row_ledger.reserve(connection, b, dataset, ["same"]) == ("same (2)",)
        assert row_ledger.reserve(connection, b, dataset, ["same"]) == ("same (2)",)
        assert row_ledger.reserve(connection, b, dataset, ["same", "other"]) == ("same (2)", "other (2)")
        assert row_ledger.reserve(connection, a, dataset, ["else"]) == ("else",)
        assert row_ledger.reserve(connection, b, dataset, ["same"]) == ("same",)

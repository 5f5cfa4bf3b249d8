"""What residents does before each tick and run: its datasets are known, and a drop folder that gives way hinders nothing."""

from datetime import UTC, datetime, timedelta

import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.local_drop_folder import LocalDropFolder
from ingestion_dagster.residents import upkeep
from ingestion_dagster.residents.places import NAMES
from ingestion_dagster_tests.residents.scene import Residents, api, nsss, residents

__all__ = ["api", "residents"]


def test_the_datasets_are_entered_once(residents: Residents) -> None:
    with residents.database.connect() as connection:
        assert upkeep.sync(connection, residents.settings) == []
        assert upkeep.sync(connection, residents.settings) == []
    entered = residents.query("SELECT name FROM ledger.datasets WHERE pipeline = 'residents' ORDER BY name")
    assert entered == [(name,) for name in sorted(NAMES)]


def test_an_outbound_folder_that_cannot_be_listed_is_asked_the_next_time(residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    (residents.drive / "nsss" / "outbound" / residents.outbound("nsss")[0]).unlink()

    def gives_way(*_: object) -> object:
        raise Transient("drive_unavailable", "not now")

    with monkeypatch.context() as broken:
        broken.setattr(LocalDropFolder, "answers", gives_way)
        assert residents.tidy() == 0
    assert residents.tidy() == 1


def test_what_came_of_forgetting_is_counted(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, date_of_birth="31/02/1990")])
    residents.run()
    with residents.database.connect() as connection:
        later = datetime.now(UTC) + timedelta(days=residents.settings.residents_retention_days + 1)
        assert upkeep.forget(connection, residents.settings, later) == (2, 1)
        assert upkeep.forget(connection, residents.settings, later) == (0, 0)

"""What the databases complain of during a copy: said by place and next step, and without a value."""

import psycopg
import pytest

from ingestion_dagster.catalog import copy_errors
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster_tests.catalog.copy_scene import CopyScene, databases, world

__all__ = ["databases", "world"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE image SET url = 'https://' || repeat('x', 1000) WHERE foreign_identifier = '2'", "value_too_long"),
        ("ALTER TABLE image ALTER license DROP NOT NULL; UPDATE image SET license = NULL WHERE foreign_identifier = '2'", "null_value"),
    ],
)
def test_values_that_the_api_does_not_take_are_refused_by_column(world: CopyScene, change: str, code: str) -> None:
    world.fill(1, 3)
    with world.upstream() as connection:
        for statement in change.split(";"):
            connection.execute(statement)
    with pytest.raises(Refused) as refused:
        world.copy()
    assert [problem.code for problem in refused.value.problems] == [code]
    assert "image" in refused.value.problems[0].place
    assert "xxxx" not in str(refused.value.problems)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", Transient, "disk_full"),
        ("25006", Transient, "database_read_only"),
        ("57014", Transient, "query_cancelled"),
        ("57P01", Transient, "connection_lost"),
        ("40001", Transient, "database_conflict"),
        ("42501", ConfigurationError, "INGESTION_CATALOG_UPSTREAM_URL"),
        ("22P05", Refused, "unsupported_character"),
        ("0A000", Refused, "copy_failed"),
    ],
)
def test_errors_say_what_to_do_and_no_value(state: str, kind: type[Exception], code: str) -> None:
    error = psycopg.errors.lookup(state)("secret value")
    outcome = copy_errors.outcome(error, copy_errors.UPSTREAM, "image")
    assert isinstance(outcome, kind)
    assert code in str(outcome)
    assert "secret" not in str(outcome)


def test_json_that_the_table_cannot_hold_is_refused_by_name_and_all_other_unicode_is_kept(world: CopyScene) -> None:
    world.change("ALTER TABLE image ALTER meta_data TYPE json")
    world.fill(1, 2)
    world.change("""UPDATE image SET meta_data = '{"a": "\\ud83d\\ude00 \\u0001 é", "b": "\\\\u0000"}' WHERE foreign_identifier = '1'""")
    world.copy()
    assert world.rows("SELECT meta_data FROM catalog_next.image WHERE foreign_identifier = '1'") == [({"a": "😀 \x01 é", "b": "\\u0000"},)]
    world.change("""UPDATE image SET meta_data = '{"a": "marrow\\u0000fat"}' WHERE foreign_identifier = '2'""")
    with pytest.raises(Refused) as refused:
        world.copy()
    (problem,) = refused.value.problems
    assert (problem.code, "image" in problem.place) == ("unsupported_character", True)
    assert "marrow" not in str(problem) + str(refused.value.__cause__)
    assert world.rows("SELECT count(*) FROM public.image") == [(0,)]

"""A dataset is one entry: its folders, its asset, its checks, its template and its report come with it."""

from pathlib import Path

from ingestion_dagster import runs
from ingestion_dagster_tests.adding import followed
from ingestion_dagster_tests.edited import copied, imported
from ingestion_dagster_tests.residents.scene import Residents, api, in_memory, residents

__all__ = ["api", "in_memory", "residents"]

FILE = """First name,Surname,Postcode,Phone,Date of birth,Comments
Testy,McFictional,ZZ99 3VZ,020 7946 0001,22/02/1963,Mornings are best
Testina,Placeholder,ZZ99 3VZ,020 7946 0002,22/02/1973,
"""


def test_a_dataset_that_is_added_by_one_entry_is_loaded(residents: Residents, in_memory: Path, tmp_path: Path) -> None:
    root = copied(tmp_path, "residents")
    followed("residents: a dataset", root)
    residents.drop("befriending/january.csv", FILE.encode())
    with imported(root):
        from ingestion_dagster.definitions import defs
        from ingestion_dagster.pipelines import PIPELINES

        pipeline = PIPELINES["residents"]
        assert pipeline.check(residents.settings, "befriending/january.csv", FILE.encode(), lambda _key: None) == ()
        run = runs.run(pipeline, residents.settings, runs.Request(dataset="befriending"))
        checks = {f"{key.asset_key.to_user_string()}:{key.name}" for key in defs.resolve_asset_graph().asset_check_keys}
    assert (run.loads, run.errored, run.rows_written) == (1, 0, 2)
    assert residents.state("january.csv")["dataset"] == "befriending"
    assert residents.counts == (2, 2, 1), "residents, requests, notes"
    assert [row["status"] for row in residents.report("befriending", "PROCESSED_").rows] == ["done", "done"]
    assert checks >= {"residents/befriending:rows_add_up", "residents/befriending:nothing_errored"}

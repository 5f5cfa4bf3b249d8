"""Files through the load step: each sample, repeats, days, mended and duplicate files, turns, and an API or a folder that gives way."""

from ingestion_dagster_tests.residents.scene import SAMPLES, Residents, api, nsss, residents

__all__ = ["api", "residents"]


def test_try(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    assert residents.counts == (2, 2, 2)
    print(residents.report("nsss"), residents.states())
    assert 0

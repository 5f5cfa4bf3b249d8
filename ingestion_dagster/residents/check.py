"""What would be said of a spreadsheet, before anybody uploads it: every problem of the file and of its rows, and no call to anything."""

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import sheets
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.model import Rules


def check_file(name: str, raw: bytes, dataset_name: str, rules: Rules) -> tuple[Problem, ...]:
    """All there is to say of a file of a dataset, in the order of its rows; empty if every row would be sent and nothing is odd."""
    dataset = DATASETS[dataset_name]
    try:
        sheet = sheets.read(name, raw, dataset)
    except Refused as refused:
        return refused.problems
    found = [problem for number, cells in sheet.rows() for problem in dataset.judge(cells, number, rules).problems]
    return (*sheet.problems, *found)

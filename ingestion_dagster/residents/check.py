"""What would be said of a spreadsheet, before anybody uploads it: every problem of the file and of its rows, and no call to anything."""

import secrets
from dataclasses import replace

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import sheets
from ingestion_dagster.residents.datasets import DATASETS, IDS_NAME_NO_PERSON
from ingestion_dagster.residents.identity import COLLISION, Hasher, Namesakes
from ingestion_dagster.residents.model import Rules


def check_file(name: str, raw: bytes, dataset_name: str, rules: Rules) -> tuple[Problem, ...]:
    """All there is to say of a file of a dataset, in the order of its rows; empty if every row would be sent and nothing is odd."""
    dataset = DATASETS[dataset_name]
    try:
        sheet = sheets.read(name, raw, dataset)
    except Refused as refused:
        return refused.problems
    by, first_of = Hasher(secrets.token_bytes()), Namesakes()
    found: list[Problem] = []
    for number, cells in sheet.rows():
        judged = dataset.judge(cells, number, rules)
        found += judged.problems
        if judged.prepared is None or dataset_name in IDS_NAME_NO_PERSON:
            continue
        if first_of.is_somebody_else(by.of_row(dataset_name, judged.prepared)):
            found.append(replace(COLLISION, place=f"row {number}"))
    return (*sheet.problems, *found)

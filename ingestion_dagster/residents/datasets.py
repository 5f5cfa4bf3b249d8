"""The datasets by name, in the order in which people are shown them. A new one is an entry here."""

from ingestion_dagster.residents.contact_tracing import CONTACT_TRACING
from ingestion_dagster.residents.generic import GENERIC
from ingestion_dagster.residents.nsss import NSSS
from ingestion_dagster.residents.registry import Dataset
from ingestion_dagster.residents.self_isolation import SELF_ISOLATION
from ingestion_dagster.residents.spl import SPL

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        CONTACT_TRACING,
        NSSS,
        SPL,
        SELF_ISOLATION,
        GENERIC,
    )
}

IDS_NAME_NO_PERSON = frozenset(name for name, dataset in DATASETS.items() if not dataset.ids_name_people)
"""Datasets whose ids stand for a kind of help, and not for anybody."""

"""Who may be whom: rows of one person are never sent side by side, and rows of strangers do not wait for each other."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_dagster.residents.identity import Hasher
from ingestion_dagster.residents.model import Person, Prepared
from ingestion_dagster.residents.people import Groups, keys_of, lock_ids

HASHER = Hasher(b"k" * 32)


def row(first: str = "", last: str = "", nhs: str = "", dedupe_id: str = "") -> Prepared:
    return Prepared({}, Person(first, last, nhs), dedupe_id)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row(nhs="999 000 0115"), row("A", "B", nhs="9990000115")),
        (row("Zoë  Ann", "O'Null"), row(" ZOË ann ", "o'null")),
        (row("Mary Ann", "B"), row("Maryann", "b")),
        (row("Jürgen", "Straße"), row("JÜRGEN", "STRASSE")),
        (row("A", "B", dedupe_id="e95HX"), row("C", "D", dedupe_id="e95hx")),
    ],
    ids=["nhs", "names", "blanks", "folded", "dedupe"],
)
def test_one_person_written_two_ways_shares_a_key(one: Prepared, other: Prepared):
    assert set(keys_of(one, "nsss")) & set(keys_of(other, "nsss"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row("A", "BC"), row("AB", "C")),
        (row("A", ""), row("A", "")),
        (row("", "B"), row("", "B")),
        (row(nhs="9990000115"), row(dedupe_id="9990000115")),
        (row(), row()),
    ],
    ids=["names", "no_last", "no_first", "nhs_and_dedupe", "nothing"],
)
def test_strangers_share_no_key(one: Prepared, other: Prepared):
    assert not set(keys_of(one, "nsss")) & set(keys_of(other, "nsss"))


def test_a_dedupe_id_is_good_within_its_dataset_and_no_persons_in_generic():
    either = row("A", "B", dedupe_id="1")
    assert set(keys_of(either, "nsss")) & set(keys_of(either, "spl")) == {"name:a:b"}
    assert keys_of(row("A", "B", dedupe_id="EUSS"), "generic") == ("name:a:b",)
    assert keys_of(row(dedupe_id="7"), "contact_tracing") == ("contact_tracing:7",)


def test_lock_ids_are_numbers_postgres_takes_the_same_in_every_process_and_sorted():
    ids = lock_ids((f"nhs:{number}" for number in range(500)), HASHER.of)
    assert ids == sorted(set(ids))
    assert len(ids) == 500
    assert min(ids) < 0 < max(ids)
    assert all(-(2**63) <= each < 2**63 for each in ids)
    assert lock_ids(["a", "b", "a"], HASHER.of) == lock_ids(["b", "a"], HASHER.of)
    assert lock_ids(["nhs:9990000115"], HASHER.of) == lock_ids(["nhs:9990000115"], Hasher(b"k" * 32).of)
    assert lock_ids(["nhs:9990000115"], HASHER.of) != lock_ids(["nhs:9990000115"], Hasher(b"another").of)
    assert lock_ids([], HASHER.of) == []


KEYS = st.lists(st.sampled_from("abcdefghijklmnop"), max_size=3)


def naive(rows: list[list[str]]) -> list[tuple[list[int], set[str]]]:
    """Each row joins, and joins together, all groups that it shares a key with."""
    groups: list[tuple[list[int], set[str]]] = []
    for number, keys in enumerate(rows, 1):
        related = [group for group in groups if group[1] & set(keys)]
        numbers = sorted([number, *(each for group in related for each in group[0])])
        groups = [*(group for group in groups if group not in related), (numbers, set(keys).union(*(group[1] for group in related)))]
    return sorted(groups)


@given(st.lists(KEYS, max_size=25))
def test_groups_are_those_that_a_naive_search_finds(rows: list[list[str]]):
    groups = Groups()
    for number, keys in enumerate(rows, 1):
        groups.add(number, keys)
    found = groups.groups()
    assert [(group.rows, set(group.keys)) for group in found] == naive(rows)
    assert all(len(set(group.keys)) == len(group.keys) for group in found)


def test_rows_that_a_third_one_brings_together_keep_the_order_of_the_file():
    groups = Groups()
    for number, keys in ((1, "a"), (2, "b"), (3, "x"), (5, "ab"), (6, "")):
        groups.add(number, keys)
    assert [group.rows for group in groups.groups()] == [[1, 2, 5], [3], [6]]


@pytest.mark.parametrize("shared", [False, True], ids=["strangers", "one_chain"])
def test_a_hundred_thousand_rows_take_a_moment_and_little_memory(shared: bool):
    rows = [keys_of(row(f"First{n}", f"Last{n}", f"{n:010d}", f"id-{n - n % 2 if shared else n}"), "nsss") for n in range(100_000)]

    def fill() -> int:
        groups = Groups()
        for number, keys in enumerate(rows, 1):
            groups.add(number, keys)
            if shared:
                groups.add(number, [f"link-{number}", f"link-{number + 1}"])
        return len(groups.groups())

    begun = time.process_time()
    assert fill() == (1 + 50_000 if shared else 100_000)
    assert time.process_time() - begun < 5
    tracemalloc.start()
    fill()
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()

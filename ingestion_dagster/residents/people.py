"""Which rows may be of one person: they go to the API one after the other, for it tells people apart badly when they come at once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ingestion_dagster.residents.model import Prepared

_NAMESPACE = "lock"


class Group(NamedTuple):
    """Rows that may be of one person, by their numbers in file order, and all the keys that say so."""

    rows: list[int]
    keys: tuple[str, ...]


def keys_of(prepared: Prepared, dataset: str) -> tuple[str, ...]:
    """By what the API could take a row for another's, in the form that is the same however it is written.

    An NHS number; a first and a last name, for it compares nothing without both; and the dedupe id, which is only good within its
    dataset, and is no person's but a kind of help in `generic`.
    """
    person = prepared.person
    keys = []
    if nhs_number := "".join(each for each in person.nhs_number if each.isdigit()):
        keys.append(f"nhs:{nhs_number}")
    first_name, last_name = _folded(person.first_name), _folded(person.last_name)
    if first_name and last_name:
        keys.append(f"name:{first_name}:{last_name}")
    if dataset != "generic" and (dedupe_id := _folded(prepared.dedupe_id)):
        keys.append(f"{dataset}:{dedupe_id}")
    return tuple(keys)


def lock_ids(keys: Iterable[str], hash_of: Callable[..., bytes]) -> list[int]:
    """Numbers for advisory locks on keys: signed, of 64 bits, each once, and sorted, so that nobody waits in a circle.

    The database shows them to whoever may look, so `hash_of` is to be keyed (`Hasher.of`).
    """
    return sorted({int.from_bytes(hash_of(_NAMESPACE, key)[:8], signed=True) for key in keys})


class Groups:
    """Rows that share a key, also by way of others, are one group; a row without keys is one of its own."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._above: list[int] = []
        self._by_key: dict[str, int] = {}

    def add(self, number: int, keys: Iterable[str]) -> None:
        """Add a row; those of a file in their order."""
        own = len(self._rows)
        self._rows.append(number)
        self._above.append(own)
        for key in keys:
            self._join(self._by_key.setdefault(key, own), own)

    def groups(self) -> list[Group]:
        """The groups, by their first rows."""
        rows: dict[int, list[int]] = {}
        for place, number in enumerate(self._rows):
            rows.setdefault(self._root(place), []).append(number)
        keys: dict[int, list[str]] = {}
        for key, place in self._by_key.items():
            keys.setdefault(self._root(place), []).append(key)
        return [Group(numbers, tuple(keys.get(root, ()))) for root, numbers in rows.items()]

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._above[second] = first

    def _root(self, place: int) -> int:
        above = self._above
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place


def _folded(text: str) -> str:
    return "".join(text.split()).casefold()

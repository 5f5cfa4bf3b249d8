"""What reading a file brings: good records sealed, bad ones told of by place, and never a value in what is told."""

from typing import Any

import orjson
import pytest

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.life_events import reading, record
from ingestion_dagster.life_events.reading import Reading, Rules, Sealer, check_file
from ingestion_dagster.life_events.spool import Accepted, Spool
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.life_events.loading import group, numbered, registration, sample
from ingestion_dagster_tests.life_events.stores import hashing, vault_of

HASHER, VAULT = hashing("k2", "k1"), vault_of("e1")


def read(raw: bytes, rules: Rules | None = None, *, keep_record: bool = False) -> tuple[Reading, list[Accepted]]:
    """A file read to its end, and what is in the spool then."""
    with Spool(len(HASHER.older)) as spool:
        found = Reading(rules or Rules(), Sealer(HASHER, VAULT, spool, keep_record=keep_record))
        found.read([raw])
        return found, [each for chunk in spool.chunks(100) for each in chunk]


def opened(each: Accepted) -> Any:
    return orjson.loads(VAULT.open(each.record_key, "e1", each.payload))


def test_a_good_record_is_sealed_under_what_it_is_known_by() -> None:
    found, [first, second] = read(numbered(1, 2))
    canonical = orjson.dumps(dict(_fields(registration(1))), option=orjson.OPT_SORT_KEYS)
    assert first.record_key == HASHER.of(canonical)
    assert first.older == tuple(HASHER.older_of(canonical))
    assert [first.ordinal, second.ordinal] == [1, 2]
    assert opened(first)["hash"] == first.record_key.hex()
    assert opened(first)["surname"] == "PLACEHOLDER 1"
    assert "record" not in opened(first)
    assert (found.good, found.bad, found.records, found.record_count) == (2, 0, 2, 2)


def _fields(content: Any) -> Any:
    return {name: inner if isinstance(inner, str) else dict(_fields(inner)) for name, inner in content}.items()


def test_the_record_itself_goes_along_only_if_it_is_wanted() -> None:
    _, [only] = read(numbered(1), keep_record=True)
    assert opened(only)["record"]["RegistrationID"] == "900000001"


def test_payload_and_key_show_nothing_of_the_record() -> None:
    _, [only] = read(numbered(1))
    assert b"PLACEHOLDER" not in only.payload + only.record_key + b"".join(only.older)
    assert "PLACEHOLDER" not in repr(only.record_key) + repr(only.payload)


@pytest.mark.parametrize("dress", ["plain", "prefixed", "spread"])
def test_dress_is_no_part_of_what_a_record_is_known_by(dress: str) -> None:
    keys = [[each.record_key for each in read(raw)[1]] for raw in (numbered(1, 2), numbered(1, 2, dress=dress))]
    assert keys[0] == keys[1]


def test_the_same_bytes_have_the_same_hash_and_others_another() -> None:
    hashes = [read(raw)[0].file_hmac for raw in (numbered(1), numbered(1), numbered(1, dress="spread"))]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] == HASHER.of(numbered(1))
    assert Reading(Rules()).file_hmac is None


def test_a_bad_record_is_kept_out_and_told_of_by_place() -> None:
    found, accepted = read(group(registration(1), registration(2, bad=True), registration(3)))
    assert [each.ordinal for each in accepted] == [1, 3]
    [rejected] = found.rejected
    assert (rejected.ordinal, [problem.code for problem in rejected.problems]) == (2, ["missing_timestamp"])
    assert len(rejected.record_key) == 32
    assert found.too_bad() is None
    assert "PLACEHOLDER" not in repr(found.rejected) + repr(found.problems())


def test_a_record_whose_event_no_store_would_take_is_a_bad_one() -> None:
    """What is in quotes doubles in JSON, and the first line of an address stands there twice."""
    lines = [["Line", '"' * 60_000] for _ in range(4)]
    large = [*registration(2)[:-1], ["DeceasedAddress", lines]]
    found, accepted = read(group(registration(1), large))
    assert [each.ordinal for each in accepted] == [1]
    assert [problem.code for problem in found.rejected[0].problems] == ["record_too_large"]
    assert (found.good, found.bad) == (1, 1)
    assert len(VAULT.seal(b"k", orjson.dumps(record.attributes(_nested(large), "0" * 64)))) > reading.LARGEST_EVENT


def _nested(content: Any) -> dict[str, Any]:
    fields: dict[str, Any] = dict(_fields(content))
    fields["DeceasedAddress"] = {"Line": [text for _, text in content[-1][1]]}
    return fields


@pytest.mark.parametrize(
    ("good", "bad", "is_too_bad"),
    [
        (0, 0, False),
        (1, 0, False),
        (1, 1, False),
        (1, 10, False),
        (1, 11, True),
        (0, 1, True),
        (209, 11, False),
        (208, 11, True),
        (19_000, 1001, True),
    ],
)
def test_how_many_bad_records_are_too_many(good: int, bad: int, is_too_bad: bool) -> None:
    found = Reading(Rules())
    found.good, found.bad = good, bad
    assert (found.too_bad() is not None) == is_too_bad


def test_what_is_told_of_a_thoroughly_bad_file_is_bounded_and_counted_by_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PROBLEMS_KEPT", 5)
    found, _ = read(group(*(registration(number, bad=True) for number in range(20))), Rules(bad_records=8))
    told = found.problems()
    assert [problem.code for problem in told] == ["missing_timestamp"] * 5 + ["more_problems"]
    assert "20 missing_timestamp" in told[-1].message
    assert len(found.rejected) == 8
    assert found.too_bad() is not None


def test_problems_of_the_file_come_first_and_warnings_last() -> None:
    unusual = [*registration(1), ["Unheard", "of"]]
    found = Reading(Rules())
    with pytest.raises(Refused) as refused:
        found.read([group(unusual, registration(2, bad=True), count=5)])
    codes = [problem.code for problem in found.problems(refused.value.problems)]
    assert codes == ["record_count_mismatch", "missing_timestamp", "unknown_element"]


@pytest.mark.parametrize("name", ["01", "03", "04", "06", "07", "09", "12", "14", "16", "20"])
def test_a_check_without_any_key_says_what_a_load_would(name: str) -> None:
    raw = sample(name)
    try:
        found, _ = read(raw)
        expected = found.problems([refusal] if (refusal := found.too_bad()) else [])
    except Refused as refused:
        expected = refused.problems
    assert [problem.code for problem in check_file(raw, Rules())] == [problem.code for problem in expected]


def test_the_rules_are_those_of_the_settings() -> None:
    settings = Settings(
        life_events_encodings=" UTF-8, iso-8859-1,,", life_events_max_file_bytes=10, life_events_bad_records=3, life_events_bad_percent=50
    )
    rules = Rules.of(settings)
    assert rules.limits.encodings == {"utf-8", "iso-8859-1"}
    assert (rules.max_file_bytes, rules.bad_records, rules.bad_percent) == (10, 3, 50)
    assert [problem.code for problem in check_file(numbered(1), rules)] == ["file_too_large"]

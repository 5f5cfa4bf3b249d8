"""What a dry run says: it is what sending does, and it changes nothing."""

from typing import Any

import pytest

from ingestion_dagster.residents.model import Action, Prepared, Progress, Step
from ingestion_dagster.residents.predict import predict
from ingestion_dagster.residents.send import send
from ingestion_dagster_tests.residents.talking import NOW, REQUEST, Talk, prepared, talk

PERSON = {**REQUEST, "Uprn": "900000000001", "EmailAddress": "testy@example.invalid", "ContactMobileNumber": "07700900101"}
OLD = {"DateTimeRecorded": "2020-01-02T03:04:05Z"}


def generic(**fields: Any) -> Prepared:
    drop = tuple(name for name in ("NhsNumber", "NhsCtasId", "DobDay", "DobMonth", "DobYear") if name not in fields)
    return prepared(without=drop, **{"HelpNeeded": "EUSS", "Metadata": {"Author": "x", "generic_ingestion_id": "EUSS"}, **fields})


def told_and_done(row: Prepared, *there: dict[str, Any]) -> tuple[Action, Action | None]:
    """What is said of a row, and what comes of it, where such requests are."""

    async def go(both: Talk) -> tuple[Action, Action | None]:
        store = both.sandbox.store
        for body in there:
            store.create_request(store.find_resident(body) or store.create_resident(body), {**body, **OLD})
        before = store.dump()
        told = await predict(both.api, row)
        assert store.dump() == before

        async def save(_: Progress) -> None:
            return

        done = await send(both.api, row, Progress(), save, lambda: NOW)
        assert done.step is Step.DONE
        return told, done.action

    return talk(go)


CREATED, MATCHED = (Action.CREATED, Action.CREATED), (Action.MATCHED, Action.MATCHED)
EUSS = {"HelpNeeded": "EUSS", "Metadata": {"generic_ingestion_id": "EUSS"}, "NhsCtasId": None}


@pytest.mark.parametrize(
    ("row", "there", "expected"),
    [
        (prepared(), [], CREATED),
        (prepared(), [PERSON], MATCHED),
        (prepared(), [{**PERSON, "NhsCtasId": "E95HX001"}], CREATED),
        (prepared(), [{**PERSON, "HelpNeeded": "welfare call"}], MATCHED),
        (prepared(), [{**PERSON, "HelpNeeded": "Contact Tracing"}], CREATED),
        (prepared(FirstName="TESTY", DobYear="1999"), [PERSON], MATCHED),
        (prepared(without=("NhsCtasId",), Metadata={"nsss_id": "n1"}), [{**PERSON, "Metadata": {"nsss_id": "n1"}}], MATCHED),
        (prepared(without=("NhsCtasId",), Metadata={"nsss_id": "n2"}), [{**PERSON, "Metadata": {"nsss_id": "n1"}}], CREATED),
        (prepared(without=("NhsCtasId",), Metadata={"spl_id": "n1"}), [{**PERSON, "Metadata": {"nsss_id": "n1"}}], CREATED),
        (generic(EmailAddress="TESTY@example.invalid"), [{**PERSON, **EUSS}], MATCHED),
        (generic(EmailAddress="other@example.invalid"), [{**PERSON, **EUSS}], CREATED),
        (generic(Uprn="900000000001"), [{**PERSON, **EUSS}], MATCHED),
        (generic(ContactTelephoneNumber="07700900101"), [{**PERSON, **EUSS}], MATCHED),
        (generic(DobDay="22", DobMonth="02", DobYear="1963"), [{**PERSON, **EUSS}], MATCHED),
        (generic(DobDay="22", DobMonth="3", DobYear="1963"), [{**PERSON, **EUSS}], CREATED),
        (
            generic(Uprn="900000000001", HelpNeeded="Link Work", Metadata={"generic_ingestion_id": "LinkWork"}),
            [{**PERSON, **EUSS}],
            CREATED,
        ),
    ],
    ids=[
        *("nobody", "same", "id_of_other_case", "help_of_other_case", "other_help", "other_birth"),
        *("nsss", "other_nsss", "spl_is_not_nsss", "email", "other_email", "uprn", "phone", "birth", "other_birth_generic", "other_type"),
    ],
)
def test_what_is_told_is_what_is_done(row: Prepared, there: list[dict[str, Any]], expected: tuple[Action, Action]):
    assert told_and_done(row, *there) == expected


def test_of_two_people_of_one_name_the_one_is_looked_at_whom_the_api_would_take():
    twin = {**PERSON, "NhsNumber": "9990000123", "Uprn": "900000000002", "EmailAddress": "twin@example.invalid", "DobYear": "1999"}
    twin["ContactMobileNumber"] = "07700900102"
    assert told_and_done(generic(Uprn="900000000002"), {**PERSON, **EUSS}, twin) == CREATED
    assert told_and_done(generic(Uprn="900000000001"), twin, {**PERSON, **EUSS}) == MATCHED
    # The UPRN decides before the e-mail address does.
    assert told_and_done(generic(Uprn="900000000002", EmailAddress="testy@example.invalid"), {**PERSON, **EUSS}, twin) == CREATED


def test_a_row_that_lacks_a_name_makes_no_call_and_is_said_to_create():
    async def go(both: Talk) -> None:
        for blank in ("FirstName", "LastName"):
            assert await predict(both.api, prepared(without=(blank,))) is Action.CREATED
        assert both.sandbox.calls.told()["total"] == 0

    talk(go)

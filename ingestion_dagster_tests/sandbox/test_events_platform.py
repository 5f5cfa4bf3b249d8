"""The sandbox's events platform answers as the contract says: publishing, reading page by page, consuming, and who may do what."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from ingestion_dagster.sandbox.events_platform_schema import FIELDS, GRO, GRO_FIELDS
from ingestion_dagster_tests.sandbox.platform_asking import RECORD, TIME, Everybody, Supplier, answering, platform, supplying

NOON = datetime(2031, 2, 5, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def they(clock: Clock) -> Iterator[Everybody]:
    with answering(platform(clock=clock)) as they:
        yield they


@pytest.fixture
def supplier(they: Everybody) -> Iterator[Supplier]:
    with supplying() as supplier:
        they.nobody.switch("callbacks", {"url": supplier.url}, "PUT")
        yield supplier


def host(they: Everybody) -> str:
    return they.nobody.url.removeprefix("http://")


def test_published_is_answered_with_201_and_nothing(they: Everybody):
    answer = they.publisher.publish("h1", unknownKey="left out")
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert they.nobody.switch("events", method="GET") == ["h1"]


def test_the_same_id_again_is_accepted_and_counted_and_not_kept_twice(they: Everybody):
    for data_id in ("h1", "h2", "h1", "h1"):
        assert they.publisher.publish(data_id).status == 201
    state = they.nobody.state()
    assert (state["supplier_events"], state["acquirer_events_open"]) == (2, 2)
    assert (state["posts"], state["duplicate_posts"]) == (4, 2)
    assert they.nobody.switch("posts", method="GET") == {"h1": 3, "h2": 1}
    assert len(they.acquirer.ids()) == 2


def test_an_id_that_was_consumed_and_deleted_is_still_known(they: Everybody, supplier: Supplier):
    they.publisher.publish("h1")
    [event] = they.acquirer.ids()
    they.acquirer.ask("DELETE", f"/events/{event}")
    assert they.nobody.switch("delete-job")["deleted"] == 1
    assert they.publisher.publish("h1").status == 201
    assert they.acquirer.ids() == []
    assert they.nobody.state()["duplicate_posts"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"h1"',
        b'{"eventType": "GRO_DEATH_NOTIFICATION"}',
        b'{"eventType": "NO_SUCH_TYPE", "id": "h1"}',
        b'{"eventType": ["LIFE_EVENT"], "id": "h1"}',
        b'{"id": "h1"}',
        b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": null}',
        b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": "h1", "eventTime": "yesterday"}',
        b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": "h1", "eventTime": "2031-02-30T09:30:00"}',
        b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": "h1", "eventTime": "2031-02-04T09:30:00+01:00"}',
        b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": "h1", "eventTime": 1}',
    ],
    ids=lambda raw: raw.decode()[:75] or "nothing",
)
def test_what_cannot_be_read_is_answered_with_500_and_never_echoed(they: Everybody, raw: bytes):
    answer = they.publisher.ask("POST", "/events", raw=raw)
    assert (answer.status, answer.json["status"]) == (500, 500)
    assert set(answer.json) == {"status", "userMessage", "developerMessage"}
    assert b"NO_SUCH" not in answer.body
    assert b"yesterday" not in answer.body
    assert they.nobody.state()["posts"] == 0


def test_an_id_has_at_most_80_characters(they: Everybody):
    assert they.publisher.publish("h" * 80).status == 201
    assert they.publisher.publish("h" * 81).status == 400
    assert they.publisher.publish("h1", eventTime=None).status == 201
    assert they.publisher.publish("h2", eventTime="2031-02-04T09:30:00.123").status == 201


def test_only_json_is_read(they: Everybody):
    body = b'{"eventType": "GRO_DEATH_NOTIFICATION", "id": "h1"}'
    assert they.publisher.ask("POST", "/events", raw=body, headers={"Content-Type": "text/plain"}).status == 415
    assert they.publisher.ask("POST", "/events", raw=body, headers={"Content-Type": "application/json; charset=utf-8"}).status == 201


def test_a_supplier_publishes_only_what_it_has_a_live_subscription_for(they: Everybody):
    assert they.publisher.publish("h1", "LIFE_EVENT").status == 403
    [subscription] = they.admin.get("/suppliers/subscriptions")
    assert they.admin.ask("DELETE", f"/suppliers/subscriptions/{subscription['supplierSubscriptionId']}").status == 204
    answer = they.publisher.publish("h1")
    assert (answer.status, answer.json["status"]) == (403, 403)
    assert they.nobody.state()["posts"] == 0


CALLS = {
    "publish": ("POST", "/events", {"eventType": GRO, "id": "h1"}),
    "list": ("GET", "/events", None),
    "get": ("GET", f"/events/{uuid4()}", None),
    "consume": ("DELETE", f"/events/{uuid4()}", None),
    "acquirers": ("GET", "/acquirers", None),
    "supplier": ("POST", "/admin/supplier", {"clientName": "another", "eventType": GRO}),
}


@pytest.mark.parametrize("call", CALLS)
def test_without_a_token_or_with_a_wrong_one_401(they: Everybody, call: str):
    method, path, body = CALLS[call]
    token = they.publisher.login()
    cut, changed = token.rpartition(".")[0], token[:-20] + ("A" if token[-20] != "A" else "B") + token[-19:]
    for header in ({}, *({"Authorization": each} for each in ("Bearer x", f"Bearer {cut}.", f"Bearer {changed}", f"Basic {token}", token))):
        answer = they.nobody.ask(method, path, body, headers=header)
        assert (answer.status, answer.body, answer.headers["WWW-Authenticate"]) == (401, b"", "Bearer"), header


@pytest.mark.parametrize(
    ("who", "call"),
    [
        ("acquirer", "publish"),
        ("admin", "publish"),
        ("publisher", "list"),
        ("publisher", "get"),
        ("publisher", "consume"),
        ("admin", "list"),
        ("publisher", "acquirers"),
        ("acquirer", "supplier"),
    ],
)
def test_a_token_of_another_scope_is_answered_with_403(they: Everybody, who: str, call: str):
    answer = getattr(they, who).ask(*CALLS[call])
    assert (answer.status, answer.json["status"]) == (403, 403)
    assert they.nobody.state()["posts"] == 0


def test_a_list_of_one(they: Everybody):
    they.publisher.publish("h1")
    [event] = they.acquirer.ids()
    answer = they.acquirer.ask("GET", "/events")
    assert answer.headers["Content-Type"].partition(";")[0] == "application/vnd.api+json"
    own = f"https://{host(they)}/events"
    assert answer.json == {
        "data": [
            {
                "id": event,
                "type": "events",
                "attributes": {"eventType": GRO, "sourceId": "h1", "dataIncluded": False},
                "links": {"self": f"{own}/{event}"},
                "meta": {"enrichmentFields": list(GRO_FIELDS)},
            }
        ],
        "links": {"self": f"{own}?page%5Bnumber%5D=0&page%5Bsize%5D=100"},
        "meta": {"page": {"size": 100, "totalElements": 1, "totalPages": 1, "number": 0}},
    }


def test_page_2_of_5_has_all_four_links(they: Everybody):
    for number in range(5):
        they.publisher.publish(f"h{number}")
    every = they.acquirer.ids()
    found = they.acquirer.get("/events", **{"page[number]": 1, "page[size]": 1})
    own = f"https://{host(they)}/events?"
    assert [each["id"] for each in found["data"]] == [every[1]]
    assert found["links"] == {
        "self": f"{own}page%5Bnumber%5D=1&page%5Bsize%5D=1",
        "first": f"{own}page%5Bsize%5D=1&page%5Bnumber%5D=0",
        "prev": f"{own}page%5Bsize%5D=1&page%5Bnumber%5D=0",
        "next": f"{own}page%5Bsize%5D=1&page%5Bnumber%5D=2",
        "last": f"{own}page%5Bsize%5D=1&page%5Bnumber%5D=4",
    }
    assert found["meta"] == {"page": {"size": 1, "totalElements": 5, "totalPages": 5, "number": 1}}


@pytest.mark.parametrize(
    ("number", "size", "links", "count", "pages"),
    [
        (0, 2, {"self", "next", "last"}, 2, 3),
        (1, 2, {"self", "first", "prev", "next", "last"}, 2, 3),
        (2, 2, {"self", "first", "prev"}, 1, 3),
        (9, 2, {"self", "first", "prev"}, 0, 3),
        (0, 5, {"self"}, 5, 1),
        (2**31 - 1, 2**31 - 1, {"self", "first", "prev"}, 0, 1),
    ],
)
def test_links_lead_only_where_there_is_something(they: Everybody, number: int, size: int, links: set[str], count: int, pages: int):
    for each in range(5):
        they.publisher.publish(f"h{each}")
    found = they.acquirer.get("/events", **{"page[number]": number, "page[size]": size})
    assert set(found["links"]) == links
    assert len(found["data"]) == count
    assert found["meta"]["page"] == {"size": size, "totalElements": 5, "totalPages": pages, "number": number}


def test_pages_together_hold_everything_oldest_first(they: Everybody, clock: Clock):
    for number in range(7):
        clock.now = NOON + number // 2
        they.publisher.publish(f"h{number}")
    pages = [they.acquirer.get("/events", **{"page[number]": number, "page[size]": 3})["data"] for number in range(3)]
    assert [each["attributes"]["sourceId"] for page in pages for each in page] == [f"h{number}" for number in range(7)]


def test_times_are_after_from_and_until_to(they: Everybody, clock: Clock):
    for second in (0, 1, 2):
        clock.now = NOON + second
        they.publisher.publish(f"h{second}")

    def found(**times: str) -> list[str]:
        page = they.acquirer.get("/events", **{f"filter[{name}Time]": at for name, at in times.items()})
        return [each["attributes"]["sourceId"] for each in page["data"]]

    assert found() == ["h0", "h1", "h2"]
    assert found(**{"from": "2031-02-05T12:00:00"}) == ["h1", "h2"]
    assert found(to="2031-02-05T12:00:01") == ["h0", "h1"]
    assert found(**{"from": "2031-02-05T12:00:00.5", "to": "2031-02-05T12:00"}) == []
    assert found(**{"from": "1999-01-01T00:00:00", "to": "2031-02-05T12:00:00"}) == ["h0"]


def test_what_is_asked_for_stays_in_the_links(they: Everybody):
    they.publisher.publish("h1")
    they.publisher.publish("h2")
    query = [("filter[eventType]", GRO), ("filter[fromTime]", TIME), ("page[size]", "1")]
    links = they.acquirer.get("/events", **dict(query))["links"]
    filters = f"https://{host(they)}/events?filter%5BeventType%5D={GRO}&filter%5BfromTime%5D={TIME}&"
    assert links["self"] == f"{filters}page%5Bnumber%5D=0&page%5Bsize%5D=1"
    assert links["next"] == f"{filters}page%5Bsize%5D=1&page%5Bnumber%5D=1"


def test_types_by_repetition_or_comma(they: Everybody):
    they.publisher.publish("h1")
    for asked in ([GRO], [f"LIFE_EVENT,{GRO}"], ["LIFE_EVENT", GRO], [""]):
        assert len(they.acquirer.ids(**{"filter[eventType]": asked})) == 1, asked
    nothing = they.acquirer.get("/events", **{"filter[eventType]": "LIFE_EVENT"})
    assert (nothing["data"], nothing["meta"]["page"]) == ([], {"size": 100, "totalElements": 0, "totalPages": 0, "number": 0})
    assert set(nothing["links"]) == {"self"}


@pytest.mark.parametrize(
    "query",
    [
        "page[number]=-1",
        "page[number]=x",
        "page[number]=²",
        "page[number]=99999999999",
        "page[size]=0",
        "page[size]=1.5",
        "filter[eventType]=NO_SUCH_TYPE",
        "filter[fromTime]=yesterday",
        "filter[toTime]=2031-02-04",
        "filter[toTime]=2031-02-04T09:30:00Z",
    ],
)
def test_bad_parameters_are_answered_with_400(they: Everybody, query: str):
    answer = they.acquirer.ask("GET", "/events?" + query.replace("[", "%5B").replace("]", "%5D").replace("²", "%C2%B2"))
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert b"NO_SUCH" not in answer.body


def test_one_event_with_all_its_fields(they: Everybody, supplier: Supplier):
    supplier.known["h1"] = RECORD
    they.publisher.publish("h1")
    [event] = they.acquirer.ids()
    answer = they.acquirer.ask("GET", f"/events/{event}")
    assert answer.headers["Content-Type"].partition(";")[0] == "application/vnd.api+json"
    shown = {name: RECORD[name] for name in GRO_FIELDS if name != "sourceId"} | {"eventTime": "2031-02-04", "dateOfBirth": None}
    assert len(shown) == 16
    own = f"https://{host(they)}/events"
    assert answer.json == {
        "data": {
            "id": event,
            "type": "events",
            "attributes": {"eventType": GRO, "sourceId": "h1", "eventData": shown},
            "meta": {},
        },
        "links": {"self": f"{own}/{event}", "collection": f"{own}?page%5Bnumber%5D=0&page%5Bsize%5D=100"},
    }
    assert supplier.asked == [("enrich", "h1", None)]


def test_an_acquirer_sees_only_what_it_has_subscribed_to(they: Everybody, supplier: Supplier):
    wanted = {"acquirerName": "another", "eventType": GRO, "enrichmentFields": ["surname", "maidenSurname", "eventTime"]}
    another = they.admin.ask("POST", "/admin/acquirer", wanted).json
    other = they.nobody.as_((another["clientId"], another["clientSecret"]))
    supplier.known["h1"] = RECORD
    they.publisher.publish("h1")
    [event] = other.ids()
    attributes = other.get(f"/events/{event}")["data"]["attributes"]
    assert attributes == {"eventType": GRO, "eventData": {"surname": "PLACEHOLDER", "maidenSurname": None, "eventTime": "2031-02-04"}}
    [listed] = other.get("/events")["data"]
    assert listed["attributes"] == {"eventType": GRO, "dataIncluded": False}
    assert listed["meta"] == {"enrichmentFields": ["surname", "maidenSurname", "eventTime"]}


def test_a_list_holds_the_data_where_the_subscription_says_so(they: Everybody, supplier: Supplier):
    wanted = {"acquirerName": "thick", "eventType": GRO, "enrichmentFields": ["surname"], "enrichmentFieldsIncludedInPoll": True}
    thick = they.admin.ask("POST", "/admin/acquirer", wanted).json
    supplier.known |= {"h1": RECORD, "h2": RECORD}
    they.publisher.publish("h1")
    they.publisher.publish("h2")
    client = they.nobody.as_((thick["clientId"], thick["clientSecret"]))
    found = client.get("/events")["data"]
    assert [each["attributes"] for each in found] == [{"eventType": GRO, "dataIncluded": True, "eventData": {"surname": "PLACEHOLDER"}}] * 2
    assert supplier.calls("enrich") == ["h1", "h2"]


def test_consumed_once_is_gone_for_this_client_and_no_other(they: Everybody):
    another = they.admin.ask("POST", "/admin/acquirer", {"acquirerName": "another", "eventType": GRO, "enrichmentFields": []}).json
    other = they.nobody.as_((another["clientId"], another["clientSecret"]))
    they.publisher.publish("h1")
    [mine], [theirs] = they.acquirer.ids(), other.ids()
    assert mine != theirs
    assert they.acquirer.ask("DELETE", f"/events/{theirs}").status == 404
    answer = they.acquirer.ask("DELETE", f"/events/{mine}")
    assert (answer.status, answer.body) == (204, b"")
    assert they.acquirer.ids() == []
    assert other.ids() == [theirs]
    for method in ("DELETE", "GET"):
        answer = they.acquirer.ask(method, f"/events/{mine}")
        assert (answer.status, answer.json["status"]) == (404, 404)
        assert answer.json["userMessage"].startswith("Event Not Found: ")
        assert set(answer.json) == {"status", "userMessage", "developerMessage"}
    assert they.acquirer.ask("GET", f"/events/{theirs}").status == 404
    assert they.acquirer.ask("GET", f"/events/{uuid4()}").status == 404
    assert they.acquirer.ask("DELETE", f"/events/{uuid4()}").status == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("event", ["1", "not-a-uuid", "0" * 32, "urn:uuid:00000000-0000-0000-0000-000000000000"])
def test_an_id_that_is_no_uuid_is_answered_with_400(they: Everybody, method: str, event: str):
    assert they.acquirer.ask(method, f"/events/{event}").status == 400


def test_what_there_is_no_route_for_is_answered_in_the_platforms_words(they: Everybody):
    assert they.publisher.ask("GET", "/nowhere").json == {"status": 404, "userMessage": "Not Found", "developerMessage": "Not Found"}
    assert they.publisher.ask("PATCH", "/events").json["status"] == 405


def test_there_are_17_fields_of_death_registrations():
    assert (len(GRO_FIELDS), len(set(GRO_FIELDS)), FIELDS[GRO]) == (17, 17, GRO_FIELDS)
    assert list(FIELDS) == ["GRO_DEATH_NOTIFICATION", "DEATH_NOTIFICATION", "LIFE_EVENT", "TEST_EVENT"]


def test_publishers_at_once_lose_and_double_nothing(they: Everybody):
    answers: list[int] = []
    they.publisher.token = they.publisher.login()

    def publish(thread: int) -> None:
        answers.extend(they.publisher.publish(f"h{number}").status for number in range(thread, thread + 40))

    threads = [threading.Thread(target=publish, args=(each * 20,)) for each in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=30)
    assert answers == [201] * 240
    state: dict[str, Any] = they.nobody.state()
    assert (state["supplier_events"], state["acquirer_events"], state["posts"], state["duplicate_posts"]) == (140, 140, 240, 100)


def test_two_that_consume_at_once_consume_once(they: Everybody):
    for number in range(20):
        they.publisher.publish(f"h{number}")
    events = they.acquirer.ids()
    answers: list[int] = []

    def consume() -> None:
        answers.extend(they.acquirer.ask("DELETE", f"/events/{event}").status for event in events)

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=30)
    assert (answers.count(204), answers.count(404)) == (20, 40)
    assert they.nobody.state()["deletable"] == 20

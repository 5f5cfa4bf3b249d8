"""The sandbox's events platform and the supplier it calls back: nothing is told of an event that is gone, nothing is lost by a failure."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.sandbox.events_consumer import PlatformError, await_deletion, consume
from ingestion_dagster.sandbox.events_platform_schema import GRO
from ingestion_dagster_tests.sandbox.platform_asking import RECORD, Client, Everybody, Supplier, answering, platform, supplying


@pytest.fixture
def they() -> Iterator[Everybody]:
    with answering(platform()) as they:
        yield they


@pytest.fixture
def supplier(they: Everybody) -> Iterator[Supplier]:
    with supplying() as supplier:
        they.nobody.switch("callbacks", {"url": supplier.url}, "PUT")
        yield supplier


def published(they: Everybody, supplier: Supplier, count: int) -> list[str]:
    """So many events that the supplier knows; the acquirer's ids of them."""
    for number in range(count):
        supplier.known[f"h{number}"] = RECORD
        they.publisher.publish(f"h{number}")
    return they.acquirer.ids()


def consumed(they: Everybody, events: list[str]) -> None:
    for event in events:
        assert they.acquirer.ask("DELETE", f"/events/{event}").status == 204


def turn(client: Client) -> tuple[int, int, int]:
    """A turn of the delete job: due, deleted, failed."""
    result = client.switch("delete-job")
    return result["due"], result["deleted"], result["failed"]


@pytest.mark.parametrize(
    ("known", "status"),
    [
        (None, 404),
        (b"no json", 503),
        ([], 503),
        ("text", 503),
        (RECORD | {"dateOfDeath": "the first"}, 503),
        (RECORD | {"eventTime": "2031-02-04Tnoon"}, 503),
        (RECORD | {"dateOfBirth": 5}, 503),
        ({}, 200),
    ],
    ids=["null", "no JSON", "list", "text", "no date", "no time", "number", "nothing"],
)
def test_what_the_supplier_tells_is_read_with_care(they: Everybody, supplier: Supplier, known: Any, status: int):
    [event] = published(they, supplier, 1)
    supplier.known["h0"] = known
    answer = they.acquirer.ask("GET", f"/events/{event}")
    assert answer.status == status
    assert b"PLACEHOLDER" not in answer.body
    if status == 200:
        assert set(answer.json["data"]["attributes"]["eventData"].values()) == {None}
    assert they.acquirer.ids() == [event]


def test_an_event_the_supplier_does_not_know_is_answered_with_404(they: Everybody, supplier: Supplier):
    [event] = published(they, supplier, 1)
    supplier.known.clear()
    answer = they.acquirer.ask("GET", f"/events/{event}")
    assert (answer.status, answer.json["status"]) == (404, 404)
    assert they.acquirer.ask("DELETE", f"/events/{event}").status == 204


@pytest.mark.parametrize("status", [401, 422, 500, 503])
def test_an_event_is_not_lost_when_its_supplier_fails(they: Everybody, supplier: Supplier, status: int):
    [event] = published(they, supplier, 1)
    supplier.statuses["h0"] = [status]
    answer = they.acquirer.ask("GET", f"/events/{event}")
    assert (answer.status, answer.json["status"]) == (503, 503)
    assert they.acquirer.ask("GET", f"/events/{event}").status == 200
    assert they.nobody.state()["callbacks"]["enrich"] == {str(status): 1, "200": 1}


def test_a_supplier_that_is_not_there(they: Everybody):
    they.publisher.publish("h0")
    [event] = they.acquirer.ids()
    assert they.nobody.switch("callbacks", method="GET") == {"url": None}
    assert they.acquirer.ask("GET", f"/events/{event}").status == 503
    they.nobody.switch("callbacks", {"url": "http://127.0.0.1:9"}, "PUT")
    assert they.acquirer.ask("GET", f"/events/{event}").status == 503
    consumed(they, [event])
    assert turn(they.nobody) == (1, 0, 1)
    they.nobody.switch("callbacks", method="DELETE")
    assert turn(they.nobody) == (1, 0, 1)
    assert they.nobody.state()["deleted"] == 0


def test_a_supplier_that_does_not_answer_in_time(they: Everybody, supplier: Supplier):
    [event] = published(they, supplier, 1)
    they.nobody.switch("settings", {"callback_seconds": 0.2})
    supplier.goes_on.clear()
    assert they.acquirer.ask("GET", f"/events/{event}").status == 503
    consumed(they, [event])
    assert turn(they.nobody) == (1, 0, 1)
    supplier.goes_on.set()
    they.nobody.switch("settings", {"callback_seconds": 10})
    assert turn(they.nobody) == (1, 1, 0)


def test_a_supplier_that_asks_for_patience_gets_it(they: Everybody, supplier: Supplier):
    [event] = published(they, supplier, 1)
    supplier.statuses["h0"] = [429, 429]
    assert they.acquirer.ask("GET", f"/events/{event}").status == 200
    assert supplier.calls("enrich") == ["h0"] * 3


def test_the_token_of_the_callbacks_is_sent_and_never_told(they: Everybody, supplier: Supplier):
    they.nobody.switch("callbacks", {"url": f"{supplier.url}/", "token": "synthetic-token"}, "PUT")
    [event] = published(they, supplier, 1)
    they.acquirer.ask("GET", f"/events/{event}")
    assert supplier.asked == [("enrich", "h0", "Bearer synthetic-token")]
    assert they.nobody.switch("callbacks", method="GET") == {"url": f"{supplier.url}/"}
    assert they.nobody.ask("PUT", "/sandbox/callbacks", {"url": "nowhere"}).status == 400
    assert they.nobody.ask("PUT", "/sandbox/callbacks", {"url": None}).status == 400


def test_without_a_switch_the_private_api_of_this_home_is_called_back(tmp_path: Path):
    with supplying() as supplier, answering(platform(home=tmp_path)) as they:
        assert they.nobody.switch("callbacks", method="GET") == {"url": None}
        [event] = published(they, supplier, 1)
        assert they.acquirer.ask("GET", f"/events/{event}").status == 503
        folder = tmp_path / "sandbox"
        folder.mkdir()
        # A process is known by its id and a word that it was started with; this test is one.
        word = sys.argv[-1]
        (folder / "api.json").write_text(json.dumps({"pid": os.getpid(), "url": supplier.url, "token": word}), encoding="utf-8")
        assert they.acquirer.ask("GET", f"/events/{event}").status == 200
        (folder / "api.json").unlink()
        assert they.acquirer.ask("GET", f"/events/{event}").status == 503


def test_what_an_event_is_about_is_nowhere_kept(tmp_path: Path):
    with supplying() as supplier, answering(platform(file=tmp_path / "platform.sqlite3")) as they:
        they.nobody.switch("callbacks", {"url": supplier.url}, "PUT")
        [event] = published(they, supplier, 1)
        assert b"PLACEHOLDER" in they.acquirer.ask("GET", f"/events/{event}").body
        consumed(they, [event])
        assert turn(they.nobody) == (1, 1, 0)
        kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"h0" in kept
        for value in ("PLACEHOLDER", "TESTY", "ZZ99", "900000001"):
            assert value.encode() not in kept


def test_only_what_everybody_has_consumed_is_deleted_and_each_once(they: Everybody, supplier: Supplier):
    another = they.admin.ask("POST", "/admin/acquirer", {"acquirerName": "another", "eventType": GRO, "enrichmentFields": []}).json
    other = they.nobody.as_((another["clientId"], another["clientSecret"]))
    mine = published(they, supplier, 3)
    theirs = other.ids()
    consumed(they, mine[:2])
    assert other.ask("DELETE", f"/events/{theirs[0]}").status == 204
    assert other.ask("DELETE", f"/events/{theirs[2]}").status == 204
    assert turn(they.nobody) == (1, 1, 0)
    assert supplier.calls("delete") == ["h0"]
    assert they.nobody.switch("events?deleted=true", method="GET") == ["h0"]
    assert they.nobody.switch("events?deleted=false", method="GET") == ["h1", "h2"]
    assert turn(they.nobody) == (0, 0, 0)
    consumed(they, mine[2:])
    assert turn(they.nobody) == (1, 1, 0)
    assert supplier.calls("delete") == ["h0", "h2"]
    assert sorted(supplier.known) == ["h1"]


def test_only_death_registrations_are_deleted(they: Everybody, supplier: Supplier):
    test = they.admin.ask("POST", "/admin/supplier", {"clientName": "registry", "eventType": "TEST_EVENT"}).json
    they.nobody.as_((test["clientId"], test["clientSecret"])).publish("t1", "TEST_EVENT")
    assert they.nobody.state()["deletable"] == 0
    assert turn(they.nobody) == (0, 0, 0)


def test_one_that_cannot_be_deleted_stays_and_holds_up_no_other(they: Everybody, supplier: Supplier):
    events = published(they, supplier, 20)
    consumed(they, events)
    supplier.statuses |= {"h3": [500, 500], "h7": [503], "h9": [401], "h11": [302]}
    supplier.known.pop("h5")
    assert turn(they.nobody) == (20, 16, 4)
    assert they.nobody.switch("events?deleted=false", method="GET") == ["h3", "h7", "h9", "h11"]
    assert turn(they.nobody) == (4, 3, 1)
    assert turn(they.nobody) == (1, 1, 0)
    assert (supplier.known, they.nobody.state()["deleted"]) == ({}, 20)


def test_what_nobody_subscribed_to_is_deleted_at_once_unless_it_is_to_be_kept(they: Everybody, supplier: Supplier):
    [subscription] = they.admin.get("/acquirers/subscriptions")
    they.admin.ask("DELETE", f"/acquirers/subscriptions/{subscription['acquirerSubscriptionId']}")
    supplier.known["h1"] = RECORD
    they.publisher.publish("h1")
    they.nobody.switch("settings", {"keep_unsubscribed": 1})
    assert they.nobody.state()["deletable"] == 0
    assert turn(they.nobody) == (0, 0, 0)
    they.nobody.switch("settings", {"keep_unsubscribed": 0})
    assert turn(they.nobody) == (1, 1, 0)
    assert supplier.known == {}


def test_the_job_makes_its_turns_by_itself(they: Everybody, supplier: Supplier):
    consumed(they, published(they, supplier, 3))
    they.nobody.switch("settings", {"delete_seconds": 0.1})
    assert await_deletion(they.nobody.url, 20) == 3
    assert supplier.known == {}


def test_a_consumer_gets_everything_once_and_tells_numbers_only(they: Everybody, supplier: Supplier):
    published(they, supplier, 230)
    del supplier.known["h7"]
    pages = list(consume(they.nobody.url))
    assert [each.listed for each in pages] == [100, 100, 30]
    assert (sum(each.enriched for each in pages), sum(each.gone for each in pages)) == (229, 1)
    assert sum(each.consumed for each in pages) == 230
    # 16 fields, of which the record has no date of birth, maiden name, partial month and year, nor fourth address line.
    assert sum(each.values for each in pages) == 229 * 11
    assert "PLACEHOLDER" not in repr(pages)
    assert list(consume(they.nobody.url)) == []
    assert turn(they.nobody) == (230, 230, 0)


def test_a_consumer_leaves_what_is_unavailable_and_goes_on(they: Everybody, supplier: Supplier):
    published(they, supplier, 120)
    supplier.statuses |= {f"h{number}": [503] for number in range(105)}
    pages = list(consume(they.nobody.url))
    assert sum(each.unavailable for each in pages) == 105
    assert sum(each.consumed for each in pages) == 15
    assert sum(each.consumed for each in consume(they.nobody.url)) == 105


def test_a_consumer_renews_a_token_that_was_ended(they: Everybody, supplier: Supplier):
    published(they, supplier, 101)
    pages = consume(they.nobody.url)
    assert next(pages).consumed == 100
    they.nobody.switch("tokens/expire")
    assert next(pages).consumed == 1
    they.nobody.switch("faults", {"kind": "401", "op": "list", "until": True})
    with pytest.raises(PlatformError, match="GET /events: 401"):
        list(consume(they.nobody.url))


def test_waiting_for_a_deletion_that_does_not_come_ends(they: Everybody):
    they.publisher.publish("h0")
    consumed(they, they.acquirer.ids())
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^1 consumed"):
        await_deletion(they.nobody.url, 0.2)
    assert time.monotonic() - began < 5

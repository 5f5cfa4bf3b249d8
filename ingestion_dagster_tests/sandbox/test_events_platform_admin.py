"""The admin API of the sandbox's events platform: who takes part, by which rules, and what it means to take somebody out."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from ingestion_dagster.sandbox.events_platform_schema import GRO, GRO_FIELDS
from ingestion_dagster_tests.sandbox.platform_asking import Client, Everybody, answering, platform

ARN = "arn:aws:iam::000000000000:role/synthetic"


@pytest.fixture
def they() -> Iterator[Everybody]:
    with answering(platform()) as they:
        yield they


def made(they: Everybody, path: str, body: dict[str, Any], method: str = "POST") -> Any:
    answer = they.admin.ask(method, path, body)
    assert answer.status == 200, answer
    return answer.json


def acquirer(they: Everybody, **more: Any) -> tuple[Client, str]:
    """A further acquirer of death notifications: its client and the id of its subscription."""
    client = made(they, "/admin/acquirer", {"acquirerName": "another", "eventType": GRO, "enrichmentFields": ["surname"]} | more)
    [mine] = [each for each in they.admin.get("/acquirers/subscriptions") if each.get("oauthClientId") == client["clientId"]]
    return they.nobody.as_((client["clientId"], client["clientSecret"])), mine["acquirerSubscriptionId"]


def test_there_are_a_publisher_and_an_acquirer_of_all_fields_from_the_start(they: Everybody):
    [supplier] = they.admin.get("/suppliers/subscriptions")
    assert (supplier["clientId"], supplier["eventType"]) == ("sandbox-gro-publisher", GRO)
    [acquirer] = they.admin.get("/acquirers/subscriptions")
    assert (acquirer["oauthClientId"], acquirer["eventType"]) == ("sandbox-acquirer", GRO)
    assert (acquirer["enrichmentFields"], acquirer["enrichmentFieldsIncludedInPoll"]) == (list(GRO_FIELDS), False)
    assert [each["name"] for each in they.admin.get("/acquirers") + they.admin.get("/suppliers")] == [
        "sandbox-acquirer",
        "sandbox-gro-publisher",
    ]


def test_a_new_acquirer_has_a_client_and_gets_what_is_published_from_then_on(they: Everybody):
    they.publisher.publish("h1")
    answer = made(they, "/admin/acquirer", {"acquirerName": "another", "eventType": GRO, "enrichmentFields": ["sourceId"]})
    assert (set(answer), answer["clientName"]) == ({"clientName", "clientId", "clientSecret"}, "another")
    client = they.nobody.as_((answer["clientId"], answer["clientSecret"]))
    assert client.ids() == []
    they.publisher.publish("h2")
    [event] = client.get("/events")["data"]
    assert event["attributes"]["sourceId"] == "h2"
    assert len(they.acquirer.ids()) == 2
    assert client.publish("h3").status == 403


def test_a_new_supplier_publishes_its_type_alone(they: Everybody):
    answer = made(they, "/admin/supplier", {"clientName": "registry", "eventType": "TEST_EVENT"})
    assert (set(answer), answer["clientName"]) == ({"clientName", "clientId", "clientSecret"}, "registry")
    client = they.nobody.as_((answer["clientId"], answer["clientSecret"]))
    assert client.publish("t1", "TEST_EVENT").status == 201
    assert client.publish("h1").status == 403
    assert client.ask("GET", "/events").status == 403
    assert they.acquirer.ids() == []


@pytest.mark.parametrize(
    "change",
    [
        {"acquirerName": "ab"},
        {"acquirerName": "Upper"},
        {"acquirerName": None},
        {"acquirerName": "a" * 81},
        {"eventType": "NO_SUCH_TYPE"},
        {"eventType": None},
        {"enrichmentFields": None},
        {"enrichmentFields": "surname"},
        {"enrichmentFields": ["noSuchField"]},
        {"enrichmentFields": ["lastName"]},
        {"enrichmentFields": [1]},
        {"enrichmentFieldsIncludedInPoll": "yes"},
        {"queueName": "acq_another"},
        {"principalArn": ARN},
        {"queueName": "another", "principalArn": ARN},
        {"queueName": "acq_", "principalArn": ARN},
        {"queueName": "acq_an other", "principalArn": ARN},
        {"queueName": "acq_another.fifo.fifo", "principalArn": ARN},
        {"queueName": "acq_" + "a" * 77, "principalArn": ARN},
    ],
    ids=str,
)
def test_an_acquirer_against_the_rules_is_answered_with_400_and_not_made(they: Everybody, change: dict[str, Any]):
    body = {"acquirerName": "another", "eventType": GRO, "enrichmentFields": ["surname"]} | change
    answer = they.admin.ask("POST", "/admin/acquirer", body)
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert len(they.admin.get("/acquirers")) == 1


@pytest.mark.parametrize(
    ("event_type", "fields"),
    [("TEST_EVENT", ["sourceId", "eventTime"]), ("DEATH_NOTIFICATION", ["lastName", "retired"]), ("LIFE_EVENT", []), (GRO, [*GRO_FIELDS])],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_type_has_fields_of_its_own(they: Everybody, event_type: str, fields: list[str]):
    made(they, "/admin/acquirer", {"acquirerName": "another", "eventType": event_type, "enrichmentFields": fields})
    wrong = {"acquirerName": "another", "eventType": event_type, "enrichmentFields": [*fields, "sourceID"]}
    assert they.admin.ask("POST", "/admin/acquirer", wrong).status == 400


@pytest.mark.parametrize("queue", ["acq_another", "acq_another.fifo"])
def test_a_queue_is_named_and_has_no_client(they: Everybody, queue: str):
    body = {"acquirerName": "queued", "eventType": GRO, "enrichmentFields": ["surname"], "queueName": queue, "principalArn": ARN}
    answer = made(they, "/admin/acquirer", body)
    assert list(answer) == ["queueUrl"]
    assert answer["queueUrl"].endswith(f"/{queue}")
    [subscription] = [each for each in they.admin.get("/acquirers/subscriptions") if "queueName" in each]
    assert (subscription["queueUrl"], "oauthClientId" in subscription) == (answer["queueUrl"], False)
    they.publisher.publish("h1")
    [event] = they.acquirer.ids()
    they.acquirer.ask("DELETE", f"/events/{event}")
    assert they.nobody.state()["deletable"] == 0
    they.admin.ask("DELETE", f"/acquirers/subscriptions/{subscription['acquirerSubscriptionId']}")
    assert they.nobody.state()["deletable"] == 1


def test_a_subscription_has_exactly_one_way_to_be_consumed(they: Everybody):
    party = made(they, "/acquirers", {"name": "another"})["id"]
    path = f"/acquirers/{party}/subscriptions"
    base = {"eventType": GRO, "enrichmentFields": ["surname"]}
    queue = {"queueName": "acq_another", "principalArn": ARN}
    assert they.admin.ask("POST", path, base).status == 400
    assert they.admin.ask("POST", path, base | queue | {"oauthClientId": "sandbox-acquirer"}).status == 400
    assert made(they, path, base | queue)["queueName"] == "acq_another"
    assert made(they, path, base | {"oauthClientId": "sandbox-acquirer"})["oauthClientId"] == "sandbox-acquirer"
    assert len(they.admin.get(path)) == 2
    assert len(they.admin.get("/acquirers/subscriptions")) == 3


def test_two_subscriptions_of_one_client_are_read_as_one(they: Everybody):
    party = they.admin.get("/acquirers")[0]["id"]
    more = {"eventType": "TEST_EVENT", "enrichmentFields": ["sourceId"], "oauthClientId": "sandbox-acquirer"}
    made(they, f"/acquirers/{party}/subscriptions", more)
    supplier = they.admin.get("/suppliers")[0]["id"]
    made(they, f"/suppliers/{supplier}/subscriptions", {"clientId": "sandbox-gro-publisher", "eventType": "TEST_EVENT"})
    they.publisher.publish("h1")
    they.publisher.publish("t1", "TEST_EVENT")
    found = they.acquirer.get("/events")
    assert [each["attributes"]["eventType"] for each in found["data"]] == [GRO, "TEST_EVENT"]
    assert found["meta"]["page"]["totalElements"] == 2
    assert len(they.acquirer.ids(**{"filter[eventType]": "TEST_EVENT"})) == 1


def test_a_changed_subscription_shows_other_fields_of_events_that_wait(they: Everybody):
    client, subscription = acquirer(they)
    they.publisher.publish("h1")
    [own] = [each for each in they.admin.get("/acquirers/subscriptions") if each["acquirerSubscriptionId"] == subscription]
    path = f"/acquirers/{own['acquirerId']}/subscriptions/{subscription}"
    changed = {"eventType": GRO, "enrichmentFields": ["sourceId", "forenames"], "oauthClientId": own["oauthClientId"]}
    assert made(they, path, changed, "PUT")["enrichmentFields"] == ["sourceId", "forenames"]
    [event] = client.get("/events")["data"]
    assert (event["attributes"]["sourceId"], event["meta"]) == ("h1", {"enrichmentFields": ["sourceId", "forenames"]})
    assert they.admin.ask("PUT", path, changed | {"enrichmentFields": ["lastName"]}).status == 400
    assert they.admin.ask("PUT", f"/acquirers/{own['acquirerId']}/subscriptions/{uuid4()}", changed).status == 404


def test_a_deleted_subscription_releases_its_events_and_its_client(they: Everybody):
    client, subscription = acquirer(they)
    for data_id in ("h1", "h2"):
        they.publisher.publish(data_id)
    first, second = they.acquirer.ids()
    they.acquirer.ask("DELETE", f"/events/{first}")
    client.ask("DELETE", f"/events/{client.ids()[1]}")
    assert they.nobody.state()["deletable"] == 0
    assert they.admin.ask("DELETE", f"/acquirers/subscriptions/{subscription}").status == 204
    state = they.nobody.state()
    assert (state["acquirer_events_open"], state["deletable"]) == (1, 1)
    assert they.admin.ask("DELETE", f"/acquirers/subscriptions/{subscription}").status == 404
    assert client.form(grant_type="client_credentials", client_id=client.client[0], client_secret=client.client[1]).status == 400  # type: ignore[index]
    assert client.ids() == []
    they.publisher.publish("h3")
    they.acquirer.ask("DELETE", f"/events/{second}")
    state = they.nobody.state()
    assert (state["acquirer_events"], state["acquirer_events_open"], state["deletable"]) == (5, 1, 2)


def test_a_client_stays_as_long_as_one_of_its_subscriptions(they: Everybody):
    party = made(they, "/acquirers", {"name": "another"})["id"]
    body = {"eventType": GRO, "enrichmentFields": [], "oauthClientId": "sandbox-acquirer"}
    second = made(they, f"/acquirers/{party}/subscriptions", body)["acquirerSubscriptionId"]
    they.admin.ask("DELETE", f"/acquirers/subscriptions/{second}")
    assert they.acquirer.login()


def test_an_acquirer_goes_with_all_its_subscriptions(they: Everybody):
    [party] = they.admin.get("/acquirers")
    they.publisher.publish("h1")
    assert they.admin.ask("DELETE", f"/acquirers/{party['id']}").status == 204
    assert they.admin.get("/acquirers") == they.admin.get("/acquirers/subscriptions") == []
    assert they.nobody.state()["deletable"] == 1
    assert they.admin.ask("DELETE", f"/acquirers/{party['id']}").status == 404


def test_a_supplier_goes_with_its_client_and_its_events_stay(they: Everybody):
    they.publisher.publish("h1")
    [party] = they.admin.get("/suppliers")
    assert they.admin.ask("DELETE", f"/suppliers/{party['id']}").status == 204
    assert they.publisher.publish("h2").status == 403
    assert they.nobody.form(grant_type="client_credentials", client_id="sandbox-gro-publisher").json == {"error": "invalid_client"}
    assert len(they.acquirer.ids()) == 1


def test_suppliers_and_their_subscriptions(they: Everybody):
    party = made(they, "/suppliers", {"name": "registry"})["id"]
    path = f"/suppliers/{party}/subscriptions"
    made_one = made(they, path, {"clientId": "sandbox-gro-publisher", "eventType": "LIFE_EVENT"})
    assert they.publisher.publish("l1", "LIFE_EVENT").status == 201
    assert they.admin.get(path) == [made_one]
    assert they.admin.ask("POST", path, {"clientId": "sandbox-gro-publisher", "eventType": "LIFE_EVENT"}).status == 400
    changed = made(they, f"{path}/{made_one['supplierSubscriptionId']}", {"clientId": "other", "eventType": "LIFE_EVENT"}, "PUT")
    assert changed["clientId"] == "other"
    assert they.publisher.publish("l2", "LIFE_EVENT").status == 403
    assert they.admin.ask("POST", path, {"eventType": "LIFE_EVENT"}).status == 400
    assert they.admin.ask("PUT", f"{path}/{uuid4()}", {"clientId": "other", "eventType": GRO}).status == 404


@pytest.mark.parametrize("kind", ["acquirers", "suppliers"])
def test_what_there_is_not_is_answered_with_404_and_what_is_no_id_with_400(they: Everybody, kind: str):
    body = {"eventType": GRO, "enrichmentFields": [], "oauthClientId": "x", "clientId": "x"}
    assert they.admin.ask("POST", f"/{kind}/{uuid4()}/subscriptions", body).status == 404
    assert they.admin.ask("DELETE", f"/{kind}/{uuid4()}").status == 404
    assert they.admin.ask("DELETE", f"/{kind}/subscriptions/{uuid4()}").status == 404
    assert they.admin.get(f"/{kind}/{uuid4()}/subscriptions") == []
    assert they.admin.ask("DELETE", f"/{kind}/1").status == 400
    assert they.admin.ask("DELETE", f"/{kind}/subscriptions/1").status == 400
    assert they.admin.ask("POST", f"/{kind}", {"name": "NO"}).status == 400
    assert they.admin.ask("POST", f"/{kind}", raw=b"{").status == 400
    assert they.admin.ask("POST", f"/{kind}", raw=b"[]").status == 400

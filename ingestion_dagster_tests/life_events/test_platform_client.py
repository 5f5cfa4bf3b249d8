"""What the platform is asked, and what is believed of its answers; nothing that it says is in a message."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.life_events.places import PlatformAddress
from ingestion_dagster.life_events.platform_client import BAD_ANSWER, NoToken, Platform, Rejected, open_platform
from ingestion_dagster_tests.life_events.stand_in import CLIENT_ID, CLIENT_SECRET, StandIn, standing_in

T = TypeVar("T")

ID, TIME = "ab" * 32, "2031-02-04T09:30:00"


@pytest.fixture(scope="module")
def listening() -> Iterator[StandIn]:
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture
def there(listening: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr("ingestion_dagster.engine.http.Http.pause", lambda self, attempt, asked: None if asked and asked > 60 else 0.01)
    monkeypatch.setattr("ingestion_dagster.life_events.platform_client._TOKEN_PAUSE", 0.01)
    listening.forget()
    return listening


def address(there: StandIn) -> PlatformAddress:
    return PlatformAddress(there.url, f"{there.url}/oauth2/token", CLIENT_ID, CLIENT_SECRET)


def asked(
    where: PlatformAddress, what: Callable[[Platform], Awaitable[T]], clock: Callable[[], float] | None = None, patience: float = 0.3
) -> T:
    async def ask() -> T:
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        async with open_platform(where, in_flight=8, patience_seconds=patience, **more) as platform:
            return await what(platform)

    return asyncio.run(ask())


async def publish(platform: Platform) -> None:
    await platform.publish(ID, TIME)


async def publish_many(platform: Platform) -> None:
    await asyncio.gather(*(platform.publish(f"{number:064x}", TIME) for number in range(40)))


def test_requests_are_as_the_contract_has_them(there: StandIn) -> None:
    asked(address(there), publish)
    assert there.token_forms == [{"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}]
    assert there.token_headers[0]["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in there.token_headers[0]
    assert there.bodies == [f'{{"eventType":"GRO_DEATH_NOTIFICATION","eventTime":"{TIME}","id":"{ID}"}}'.encode()]
    assert there.headers[0]["Authorization"] == "Bearer token-1"
    assert there.headers[0]["Content-Type"] == "application/json; charset=utf-8"
    asked(replace(address(there), url=f"{there.url}/"), publish)
    assert there.events == {ID: 2}


def test_one_token_serves_all(there: StandIn) -> None:
    asked(address(there), publish_many)
    assert (len(there.token_forms), len(there.bodies)) == (1, 40)


def test_tokens_that_are_not_taken_any_more_are_replaced_once_by_all(there: StandIn) -> None:
    async def expired_midway(platform: Platform) -> None:
        await platform.publish(ID, TIME)
        there.tokens.clear()
        await publish_many(platform)

    asked(address(there), expired_midway)
    assert len(there.token_forms) == 2
    assert sum(there.events.values()) == 41


LIVES = [(3600, 3539, 3541), (100, 89, 91), (None, 269, 271), ("soon", 269, 271), (-1, 269, 271)]


@pytest.mark.parametrize(("expires_in", "good", "ended"), LIVES)
def test_a_token_is_replaced_shortly_before_its_end(there: StandIn, expires_in: Any, good: float, ended: float) -> None:
    there.expires_in = expires_in
    now = [1000.0]

    async def later(platform: Platform) -> list[int]:
        counts = []
        for seconds in (0, good, ended):
            now[0] = 1000.0 + seconds
            await platform.publish(ID, TIME)
            counts.append(len(there.token_forms))
        return counts

    assert asked(address(there), later, clock=lambda: now[0]) == [1, 1, 2]


def test_a_platform_that_does_not_know_a_new_token_is_told_of_by_the_settings(there: StandIn) -> None:
    there.tokens = Unwanted()
    with pytest.raises(ConfigurationError, match=r"401.*INGESTION_LIFE_EVENTS_PLATFORM_URL and INGESTION_LIFE_EVENTS_TOKEN_URL") as raised:
        asked(address(there), publish)
    assert (len(there.token_forms), len(there.bodies)) == (2, 2)
    assert_says_nothing(there, raised.value)


class Unwanted(set[str]):
    def __contains__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
def test_what_is_refused_is_not_asked_again(there: StandIn, status: int) -> None:
    there.always = status
    with pytest.raises(Rejected) as raised:
        asked(address(there), publish)
    assert raised.value.code == f"platform_{status}"
    assert (raised.value.if_everybody is not None) == (status in (403, 404))
    assert len(there.bodies) == 1
    assert_says_nothing(there, raised.value)


def test_a_redirect_is_not_followed(there: StandIn) -> None:
    there.answers = [(302, {"Location": f"{there.url}/oauth2/token"})]
    with pytest.raises(ConfigurationError, match="redirects elsewhere"):
        asked(address(there), publish)
    assert len(there.token_forms) == 1


def test_a_page_that_answers_in_place_of_the_platform_has_taken_nothing(there: StandIn) -> None:
    there.answers = [(200, {"Content-Type": "text/html; charset=utf-8"})] * 2
    asked(address(there), publish)
    assert (len(there.bodies), there.events) == (3, {ID: 1})


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_asked_again(there: StandIn, status: int) -> None:
    there.answers = [(status, {})] * 3
    asked(address(there), publish)
    assert (len(there.bodies), there.events) == (4, {ID: 1})


def test_a_platform_that_stays_away_is_told_of(there: StandIn) -> None:
    there.always = 503
    with pytest.raises(Transient) as raised:
        asked(address(there), publish)
    assert raised.value.code == "http_server_error"
    assert_says_nothing(there, raised.value)


def test_an_address_where_nobody_is(there: StandIn) -> None:
    nobody = "http://127.0.0.1:1"
    with pytest.raises(Transient) as raised:
        asked(replace(address(there), url=nobody), publish)
    assert raised.value.code in ("http_unreachable", "http_unavailable")
    with pytest.raises(NoToken):
        asked(replace(address(there), token_url=nobody), publish)


@pytest.mark.parametrize(("field", "setting"), [("url", "PLATFORM_URL"), ("token_url", "TOKEN_URL")])
@pytest.mark.parametrize("text", ["platform.example", "ftp://platform", "http://"])
def test_what_is_no_address_names_its_setting(there: StandIn, field: str, setting: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"INGESTION_LIFE_EVENTS_{setting} is no address"):
        asked(replace(address(there), **{field: text}), publish)


NO_CLIENT = [({"error": "invalid_client"}, "invalid_client"), ({"error": "PLACEHOLDER"}, "no known code"), ([1], "no known code")]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize(("content", "told"), NO_CLIENT)
def test_a_client_that_gets_no_token_is_told_which_settings_to_look_at(there: StandIn, status: int, content: Any, told: str) -> None:
    there.token_answers = [(status, content)] * 40
    with pytest.raises(ConfigurationError, match=rf"\({status}, {told}\).*INGESTION_LIFE_EVENTS_CLIENT_ID") as raised:
        asked(address(there), publish_many)
    assert (len(there.token_forms), len(there.bodies)) == (1, 0)
    assert_says_nothing(there, raised.value)


NO_TOKEN = [{}, {"access_token": ""}, {"access_token": 1}, {"access_token": "a\r\nX: b"}, {"access_token": "a b"}, [], "ü"]


@pytest.mark.parametrize("content", NO_TOKEN)
def test_a_token_that_is_none_is_not_sent(there: StandIn, content: Any) -> None:
    there.token_answers = [(200, content)] * 2
    asked(address(there), publish, patience=5)
    assert [each["Authorization"] for each in there.headers] == ["Bearer token-3"]


def test_a_token_endpoint_that_never_gives_one_is_told_of(there: StandIn) -> None:
    there.token_answers = [(200, {})] * 100
    with pytest.raises(NoToken, match=f"^({BAD_ANSWER}|http_unavailable): no access token can be had") as raised:
        asked(address(there), publish)
    assert_says_nothing(there, raised.value)


def test_a_token_endpoint_that_is_away_for_a_while_is_waited_for(there: StandIn) -> None:
    there.token_answers = [(503, {}), (500, {})]
    asked(address(there), publish_many, patience=10)
    assert (len(there.token_forms), len(there.bodies)) == (3, 40)


def test_a_reply_that_is_lost_is_asked_for_again(there: StandIn) -> None:
    there.lost = 1
    asked(address(there), publish)
    assert there.events == {ID: 2}


def assert_says_nothing(there: StandIn, error: BaseException) -> None:
    """Neither what the platform says nor a secret is in an exception, nor in what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        text = f"{seen} {seen!r}"
        assert there.says not in text
        assert "PLACEHOLDER" not in text
        assert CLIENT_SECRET not in text
        assert "token-" not in text
        assert TIME not in text
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)

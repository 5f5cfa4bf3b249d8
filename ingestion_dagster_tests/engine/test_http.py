"""The HTTP client, against a real server: what it asks again, how long it waits, and what it must never tell or send."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from queue import SimpleQueue
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ingestion_dagster.engine.breaker import Breaker
from ingestion_dagster.engine.errors import Refused, Transient
from ingestion_dagster.engine.http import Client, Http, Lost
from ingestion_dagster.engine.rate import Rate

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """Answers one request after the other as it was told; the last answer is given for ever."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[web.Request] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.asked.append(request)
        self.connections.add(request.transport.get_extra_info("peername"))
        return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)


@pytest.fixture(scope="module")
def listening() -> Iterator[Server]:
    server = Server()
    urls: SimpleQueue[str] = SimpleQueue()
    loops: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        until = asyncio.Event()
        loops.put((asyncio.get_running_loop(), until))
        urls.put(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await until.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    server.url = urls.get(timeout=10)
    yield server
    loop, until = loops.get()
    loop.call_soon_threadsafe(until.set)
    thread.join(10)


@pytest.fixture
def server(listening: Server) -> Server:
    listening.asked.clear()
    listening.connections.clear()
    listening.answers[:] = [status(200)]
    return listening


def status(code: int, text: str = "fine", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    answer.content_length = 100
    await answer.prepare(request)
    await answer.write(b"half")
    assert request.transport is not None
    request.transport.close()
    return answer


async def text(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    return answer.status, await answer.text()


@dataclass
class Asking:
    """A client whose pauses are written down instead of being made."""

    http: Http
    pauses: list[float] = field(default_factory=list)

    def get(self, url: str, receive: Any = text, **options: Any) -> Any:
        return self._ask(lambda client: client.get(url, receive, **options))

    def post(self, url: str, receive: Any = text, **options: Any) -> Any:
        """What must not be done twice."""
        return self._ask(lambda client: client.request("POST", url, receive, **{"repeat": False, "json": {}, **options}))

    def _ask(self, what: Callable[[Client], Awaitable[Any]]) -> Any:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        async def ask() -> Any:
            async with replace(self.http, sleep=sleep).open() as client:
                return await what(client)

        return asyncio.run(ask())


def asking(**options: Any) -> Asking:
    return Asking(Http(**{"first_pause": 4.0, "longest_pause": 10.0, "chance": lambda: 0.5, **options}))


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again_three_times_and_no_more(server: Server, code: int):
    server.answers[:] = [status(code), status(code), status(code), status(200)]
    client = asking()
    assert client.get(server.url) == (200, "fine")
    assert client.pauses == [2.0, 4.0, 5.0]
    server.answers[:] = [status(code)]
    server.asked.clear()
    with pytest.raises(Transient) as raised:
        asking().get(server.url)
    assert raised.value.code == ("http_throttled" if code == 429 else "http_server_error")
    assert len(server.asked) == 4


@pytest.mark.parametrize("code", [301, 302, 307, 400, 401, 403, 404, 410])
def test_an_answer_that_will_not_change_is_handed_over_at_once(server: Server, code: int):
    server.answers[:] = [status(code, Location="/elsewhere")]
    assert asking().get(server.url)[0] == code
    assert len(server.asked) == 1


def test_pauses_are_drawn_anew_from_zero_on_so_that_clients_do_not_come_back_together():
    http = Http(first_pause=4, longest_pause=10)
    drawn = {http.pause(1, None) for _ in range(50)}
    assert len(drawn) > 10
    assert all(pause is not None and 0 <= pause <= 4 for pause in drawn)
    assert replace(http, chance=lambda: 1.0).pause(9, None) == 10


def test_retry_after_is_honoured_in_seconds_and_as_a_date(server: Server):
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.answers[:] = [status(429, Retry_After="7"), status(503, Retry_After=in_a_minute), status(200)]
    client = asking()
    assert client.get(server.url)[0] == 200
    assert client.pauses[0] == 7.5
    assert 55 < client.pauses[1] < 62


@pytest.mark.parametrize("unreadable", ["soon", "-5", "\uff11", "1e9", ""])
def test_a_retry_after_that_cannot_be_read_is_passed_over(server: Server, unreadable: str):
    server.answers[:] = [status(503, Retry_After=unreadable.encode().decode("latin-1")), status(200)]
    client = asking()
    assert client.get(server.url)[0] == 200
    assert client.pauses == [2.0]


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server: Server):
    server.answers[:] = [status(429, Retry_After="3600")]
    client = asking()
    with pytest.raises(Transient):
        client.get(server.url)
    assert (client.pauses, len(server.asked)) == ([], 1)


def test_an_answer_that_hangs_is_given_up_and_asked_for_again(server: Server):
    server.answers[:] = [hang, status(200)]
    assert asking(silence_timeout=0.1).get(server.url)[0] == 200
    server.answers[:] = [hang]
    with pytest.raises(Transient, match="http_timeout"):
        asking(silence_timeout=0.1, retries=1).get(server.url)
    with pytest.raises(Transient, match="http_timeout"):
        asking(request_timeout=0.1, retries=0).get(server.url)


def test_an_answer_that_breaks_off_is_asked_for_again(server: Server):
    server.answers[:] = [break_off, status(200)]
    assert asking().get(server.url)[0] == 200
    server.answers[:] = [break_off]
    with pytest.raises(Transient, match="http_broken"):
        asking().get(server.url)


def test_what_the_receiver_finds_wanting_is_asked_for_again_and_what_it_refuses_is_not(server: Server):
    found: list[Exception] = [Transient("not_yet", "try again"), Transient("not_yet", "try again")]

    async def receive(answer: aiohttp.ClientResponse) -> int:
        if found:
            raise found.pop()
        return answer.status

    assert asking().get(server.url, receive) == 200
    assert len(server.asked) == 3

    async def refuse(_: aiohttp.ClientResponse) -> int:
        raise Refused

    with pytest.raises(Refused):
        asking().get(server.url, refuse)
    assert len(server.asked) == 4


def test_a_full_disk_is_not_taken_for_a_network_that_fails(server: Server):
    async def receive(_: aiohttp.ClientResponse) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        asking().get(server.url, receive)
    assert len(server.asked) == 1


def test_nobody_is_told_the_address_or_the_key(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    for url in ("http://127.0.0.1:9/marker?signature=marker", "http://marker.invalid:1/", "https://127.0.0.1:9/marker"):
        with pytest.raises(Transient) as raised:
            asking(retries=1).get(url, headers={"apikey": "marker"})  # pragma: allowlist secret
        assert raised.value.code == "http_unreachable"
        assert "marker" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
    assert "marker" not in caplog.text


def test_what_is_no_address_is_refused():
    with pytest.raises(Refused) as refused:
        asking().get("http:///x")
    assert [problem.code for problem in refused.value.problems] == ["http_bad_url"]


def test_a_signed_address_is_sent_letter_by_letter(server: Server):
    path = "/a%20b/%E2%82%AC+~?signature=%2B%2F%3D&x=%2c;y&z"
    asking().get(server.url + path)
    assert server.asked[0].raw_path == path


def test_parameters_are_quoted_and_headers_sent(server: Server):
    asking().get(server.url + "/list", params={"limit": "100", "q": "a&b"}, headers={"apikey": "k"})
    assert server.asked[0].path_qs == "/list?limit=100&q=a%26b"
    assert server.asked[0].headers["apikey"] == "k"


def test_a_packed_answer_arrives_as_it_was_sent(server: Server):
    import gzip

    packed = gzip.compress(b"a,b\n", mtime=0)

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async def receive(answer: aiohttp.ClientResponse) -> bytes:
        return await answer.read()

    server.answers[:] = [answer]
    assert asking().get(server.url, receive) == packed


def test_connections_are_used_again_and_are_no_more_than_allowed(server: Server):
    async def ask() -> None:
        async with Http(connections=2).open() as client:
            await asyncio.gather(*(client.get(server.url, text) for _ in range(20)))

    asyncio.run(ask())
    assert len(server.asked) == 20
    assert len(server.connections) <= 2


def test_a_client_keeps_no_cookie(server: Server):
    async def answer(_: web.Request) -> web.Response:
        made = web.Response()
        made.set_cookie("marker", "1")
        return made

    async def ask(client: Client) -> None:
        await client.get(server.url, text)
        await client.get(server.url, text)

    async def twice() -> None:
        async with Http().open() as client:
            await ask(client)

    server.answers[:] = [answer]
    asyncio.run(twice())
    assert "Cookie" not in server.asked[1].headers


async def silent_end(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (status(500), "http_server_error"),
        (status(503, Retry_After="1"), "http_server_error"),
        (status(408), "http_server_error"),
        (silent_end, "http_broken"),
        (break_off, "http_broken"),
        (hang, "http_timeout"),
    ],
    ids=["500", "503", "408", "reset", "half", "hang"],
)
def test_what_may_have_been_done_is_not_asked_again(server: Server, answer: Answer, code: str):
    server.answers[:] = [answer, status(200)]
    with pytest.raises(Lost) as raised:
        asking(silence_timeout=0.1).post(server.url)
    assert (raised.value.code, len(server.asked)) == (code, 1)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_an_answer_that_cannot_be_believed_may_mean_that_it_was_done(server: Server):
    async def doubt(_: aiohttp.ClientResponse) -> None:
        raise Transient("not_clear", "no id")

    with pytest.raises(Lost, match="not_clear"):
        asking().post(server.url, doubt)
    assert len(server.asked) == 1


def test_what_was_certainly_not_done_is_asked_again(server: Server):
    server.answers[:] = [status(429), status(429, Retry_After="7"), status(200)]
    client = asking()
    assert client.post(server.url) == (200, "fine")
    assert (client.pauses, len(server.asked)) == ([2.0, 9.0 - 1.5], 3)
    nobody = asking(retries=2)
    with pytest.raises(Transient) as raised:
        nobody.post("http://127.0.0.1:9/")
    assert (raised.value.code, type(raised.value), len(nobody.pauses)) == ("http_unreachable", Transient, 2)
    server.answers[:] = [status(429)]
    with pytest.raises(Transient) as raised:
        asking(retries=2).post(server.url)
    assert (raised.value.code, type(raised.value)) == ("http_throttled", Transient)


def test_a_body_is_sent_as_json_and_once(server: Server):
    bodies: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append((request.content_type, await request.read()))
        return web.Response(status=429 if len(bodies) == 1 else 201)

    server.answers[:] = [answer]
    assert asking().post(server.url, json={"a": 'ü"\n'})[0] == 201
    assert bodies == [("application/json", b'{"a":"\xc3\xbc\\"\\n"}')] * 2
    assert {request.method for request in server.asked} == {"POST"}


def test_a_server_that_throttles_one_makes_all_wait(server: Server):
    async def ask() -> list[float]:
        server.answers[:] = [status(429, Retry_After="1"), status(200)]
        loop = asyncio.get_running_loop()
        async with Http(rate=Rate(1000)).open() as client:
            begun, ended = loop.time(), []

            async def one() -> None:
                await client.get(server.url, text)
                ended.append(loop.time() - begun)

            first = asyncio.create_task(one())
            await asyncio.sleep(0.3)
            await asyncio.gather(first, *(one() for _ in range(4)))
            return ended

    assert all(1.0 <= seconds < 3 for seconds in asyncio.run(ask()))
    assert len(server.asked) == 6


def test_waiting_for_a_connection_is_not_waiting_for_an_answer(server: Server):
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response()

    async def ask() -> None:
        async with Http(connections=1, request_timeout=0.4, retries=0).open() as client:
            await asyncio.gather(*(client.get(server.url, text) for _ in range(8)))

    server.answers[:] = [slow]
    asyncio.run(ask())
    assert len(server.asked) == 8


def test_what_fails_while_the_breaker_is_open_is_no_attempt_spent(server: Server):
    breaker = Breaker(failures=2, patience=20, first_pause=0.01, longest_pause=0.01)
    server.answers[:] = [*([status(503)] * 20), status(200)]
    assert asking(retries=2, breaker=breaker).get(server.url) == (200, "fine")
    assert len(server.asked) == 21
    assert not breaker.is_open


def test_one_question_that_always_fails_is_given_up_while_others_are_answered(server: Server):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500 if request.path == "/bad" else 200)

    async def ask() -> None:
        breaker = Breaker(failures=6, first_pause=30)
        async with Http(first_pause=0.01, breaker=breaker).open() as client:
            for _ in range(4):
                with pytest.raises(Transient, match="http_server_error"):
                    await client.get(server.url + "/bad", text)
                await client.get(server.url, text)
            assert not breaker.is_open

    server.answers[:] = [answer]
    asyncio.run(ask())
    assert len(server.asked) == 4 * (4 + 1)


def test_an_answer_that_is_refused_shows_a_server_that_is_well(server: Server):
    breaker = Breaker(failures=2)
    breaker.bad()
    server.answers[:] = [status(403)]

    async def refuse(_: aiohttp.ClientResponse) -> int:
        raise Refused

    with pytest.raises(Refused):
        asking(breaker=breaker).get(server.url, refuse)
    breaker.bad()
    assert not breaker.is_open


def test_after_a_server_asked_for_an_hour_nobody_asks_it(server: Server):
    client = asking(breaker=Breaker(), rate=Rate(1000))
    server.answers[:] = [status(429, Retry_After="3600"), status(200)]
    with pytest.raises(Transient, match="http_throttled"):
        client.post(server.url)
    with pytest.raises(Transient, match="http_unavailable"):
        client.get(server.url)
    assert (len(server.asked), client.pauses) == (1, [])


def test_a_form_is_sent_as_forms_are_and_again_when_it_has_to_be(server: Server):
    bodies: list[tuple[str, bytes]] = []

    async def read(request: web.Request) -> web.Response:
        bodies.append((request.headers["Content-Type"], await request.read()))
        return web.Response(status=503 if len(bodies) == 1 else 200, text="fine")

    server.answers[:] = [read]
    assert asking().post(server.url, repeat=True, json=None, form={"a": "b & c=ü", "d": ""}) == (200, "fine")
    assert bodies == [("application/x-www-form-urlencoded", b"a=b+%26+c%3D%C3%BC&d=")] * 2

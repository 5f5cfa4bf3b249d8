"""Discovery from a queue, on moto's SQS and S3: what a listing would have entered, once, whatever befalls the messages."""

import json
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
from botocore.exceptions import ClientError

from ingestion_dagster.engine import aws, discovery, landing, notice_queue
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.notice_queue import Away, NoticeQueue
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.s3_store import S3Store
from ingestion_dagster_tests.engine.notices_scene import PREFIX, Post, eventbridge, sns, zone_of
from ingestion_dagster_tests.engine.scene import NOON, Scene

ODD_KEYS = ["a b.json", "1+1=2.json", "é ü.json", "日本.json", "sub/folder/x.json", "100%.json", "a%20b.json", "no suffix"]
ROWS = """
    SELECT l.pipeline, d.name, l.landing_zone, l.key, l.version, l.size, l.modified, l.partition, l.status, l.waiting_for
    FROM ledger.loads AS l LEFT JOIN ledger.datasets AS d ON d.id = l.dataset_id ORDER BY l.key, l.modified, l.id
"""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto knows at once that a queue is empty."""
    monkeypatch.setattr(notice_queue, "_WAIT_SECONDS", 0)


@pytest.fixture(params=[False, True], ids=["unversioned", "versioned"])
def any_post(request: pytest.FixtureRequest, new_bucket: Callable[..., str]) -> Iterator[Post]:
    made = Post(new_bucket(versioned=request.param))
    yield made
    made.close()


@pytest.fixture
def post(new_bucket: Callable[..., str]) -> Iterator[Post]:
    made = Post(new_bucket())
    yield made
    made.close()


def keys(scene: Scene) -> list[str]:
    return [row[0] for row in scene.rows("SELECT key FROM ledger.loads ORDER BY key")]


def test_rows_are_those_that_a_listing_makes(scene: Scene, any_post: Post) -> None:
    any_post.notify()
    any_post.put(*ODD_KEYS)
    heard = any_post.drain(scene.connection)
    assert (heard.new, heard.seen, heard.others, heard.unreadable, heard.complete) == (8, 8, 1, 0, True)
    told = scene.rows(ROWS)
    assert any_post.waiting() == 0
    assert landing.discover(scene.connection, any_post.zone(), NOON).new == 0, "a listed and a notified object are one load"
    scene.connection.execute("TRUNCATE ledger.load_events, ledger.loads CASCADE")
    assert landing.discover(scene.connection, any_post.zone(), NOON).new == 8
    assert scene.rows(ROWS) == told
    assert {row[1] for row in told} == {"boxes", "letters"}


@pytest.mark.parametrize("envelope", [sns, eventbridge, lambda event: sns(eventbridge(event))], ids=["sns", "eventbridge", "both"])
def test_every_envelope_leads_to_the_same_load(scene: Scene, post: Post, envelope: Callable[[Any], Any]) -> None:
    post.put("a b+c.json")
    post.tell("a b+c.json", envelope=envelope)
    assert post.drain(scene.connection).new == 1
    assert keys(scene) == ["a b+c.json"]
    assert post.waiting() == 0


def test_duplicates_and_events_out_of_order_make_no_second_load(scene: Scene, any_post: Post) -> None:
    any_post.put("a", content=b"old")
    any_post.put("a", content=b"newer")
    any_post.tell("a", "a", "a")
    assert any_post.drain(scene.connection).new == 1
    [found] = any_post.zone().landing.list()
    assert [row[4] for row in scene.rows(ROWS)] == [found.version]
    any_post.tell("a")
    assert any_post.drain(scene.connection).new == 0
    assert any_post.waiting() == 0


def test_what_is_gone_deleted_elsewhere_or_nobodys_is_counted_and_no_load(scene: Scene, post: Post) -> None:
    post.put(".hidden")
    post.tell("gone")
    post.tell("a", name="ObjectRemoved:Delete")
    post.tell("a", prefix="archive/")
    post.tell("a", bucket="another")
    post.tell(".hidden", "folder/", "n" * 1020)
    heard = post.drain(scene.connection)
    assert (heard.messages, heard.gone, heard.others, heard.elsewhere, heard.new) == (7, 1, 4, 2, 0)
    assert keys(scene) == []
    assert post.waiting() == 0
    assert "2 of other places" in str(heard)


def test_what_can_never_be_read_is_left_to_the_dead_letter_queue_and_told(scene: Scene, post: Post) -> None:
    post.put("a")
    post.send("no JSON", {"Records": [{"eventSource": "aws:s3"}]})
    post.tell("a")
    heard = post.drain(scene.connection)
    assert (heard.new, heard.unreadable, heard.dead) == (1, 2, 0)
    assert post.waiting() == 2
    for _ in range(3):
        post.let_time_pass()
        heard = post.drain(scene.connection)
    assert (heard.messages, heard.dead) == (0, 2)
    assert "2 in the dead-letter queue" in str(heard)


def test_a_queue_without_a_redrive_policy_has_no_dead_letters(post: Post) -> None:
    with NoticeQueue(post.dead_url) as queue:
        assert queue.dead() is None


KILLED_AT = ["notices.enter.before", "notices.enter.after", "notices.delete.after"]


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_anywhere_nothing_is_lost_and_nothing_doubled(point: str, scene: Scene, post: Post) -> None:
    names = [f"{number}.json" for number in range(12)]
    post.put(*names)
    post.tell(*names)
    code, complaint = post.start(scene.database, fault=point).end()
    assert code == -signal.SIGKILL, complaint
    assert post.waiting() == (0 if point == "notices.delete.after" else 12), "deleted before the commit"
    assert len(keys(scene)) == (0 if point == "notices.enter.before" else 12)
    post.let_time_pass()
    post.drain(scene.connection)
    assert keys(scene) == sorted(names)
    assert post.waiting() == 0
    assert scene.rows("SELECT count(*) FROM ledger.load_events") == [(12,)]


def test_two_at_once_share_the_messages(scene: Scene, post: Post) -> None:
    names = [f"{number:03}.json" for number in range(60)]
    post.put(*names)
    post.tell(*names, *names[::3])
    for process in [post.start(scene.database), post.start(scene.database)]:
        code, complaint = process.end()
        assert code == 0, complaint
    post.let_time_pass()  # moto may give a message to both, and then knows the younger receipt only
    post.drain(scene.connection)
    assert keys(scene) == names
    assert post.waiting() == 0
    assert scene.rows("SELECT count(*) FROM ledger.load_events") == [(60,)]


def test_time_ends_a_drain_and_the_next_one_goes_on(scene: Scene, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_MESSAGES", 10)
    names = [f"{number:02}" for number in range(30)]
    post.put(*names)
    post.tell(*names)
    first = post.drain(scene.connection, seconds=-1)
    assert (first.messages, first.complete) == (10, False)
    assert post.waiting() == 20, "what is entered is deleted, whatever the time"
    while not post.drain(scene.connection, seconds=-1).complete:
        pass
    assert keys(scene) == names


def test_a_queue_that_vanishes_in_the_midst_is_told_of_and_what_it_told_is_entered(
    scene: Scene, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.put("a", "b")
    post.tell("a", "b")
    entered = landing.enter

    def then_delete(*arguments: Any) -> None:
        entered(*arguments)
        post.sqs.delete_queue(QueueUrl=post.url)

    monkeypatch.setattr(landing, "enter", then_delete)
    heard = post.drain(scene.connection)
    assert heard.trouble is not None
    assert heard.trouble.startswith(f"{post.name} is not there")
    assert keys(scene) == ["a", "b"]
    monkeypatch.setattr(landing, "enter", entered)
    assert post.drain(scene.connection).trouble is not None
    post.url = post.sqs.create_queue(QueueName=post.name)["QueueUrl"]
    post.tell("a", "b")
    heard = post.drain(scene.connection)
    assert (heard.new, heard.trouble) == (0, None)
    assert keys(scene) == ["a", "b"]


def test_messages_that_are_not_deleted_at_first_are_deleted_later(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.tell(*[f"{number:02}" for number in range(12)])
    pauses: list[float] = []
    with NoticeQueue(post.url, sleep=pauses.append) as queue:
        delete, calls = queue._client.delete_message_batch, []

        def failing(**asked: Any) -> Any:
            first, *others = asked["Entries"]
            calls.append(1 + len(others))
            if len(calls) > 2:
                return delete(**asked)
            done = delete(**asked | {"Entries": others})["Successful"]
            return {"Successful": done, "Failed": [{"Id": first["Id"], "SenderFault": False, "Code": "InternalError"}]}

        monkeypatch.setattr(queue._client, "delete_message_batch", failing)
        receipts = [message.receipt for message in queue.receive(100)]
        assert len(receipts) == 12
        assert queue.delete(receipts) == 0
        assert (sorted(calls), len(pauses)) == ([2, 2, 10], 1)
        monkeypatch.setattr(queue._client, "delete_message_batch", lambda **_asked: {"Failed": [{"Id": "0"}]})
        assert queue.delete(["r"]) == 1
        assert len(pauses) == 3
        monkeypatch.setattr(queue._client, "delete_message_batch", lambda **_asked: {"Failed": [{"Id": "0", "SenderFault": True}]})
        assert queue.delete(["received again since"]) == 1
        assert len(pauses) == 3, "asked again for what cannot be"
    assert post.waiting() == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://sqs.eu-west-2.amazonaws.com/123456789012/nobodys", "nobodys is not there, or not open to us"),
        ("arrivals", "a queue is given by its URL"),
        ("http://127.0.0.1:9/123456789012/deaf", "deaf does not answer"),
    ],
)
def test_a_queue_that_cannot_be_read_is_told_of_and_raises_nothing(
    scene: Scene, post: Post, url: str, says: str, aws_environment: pytest.MonkeyPatch
) -> None:
    if "deaf" in url:
        aws_environment.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9")
    heard = post.drain(scene.connection, replace(post.zone(), queue=url))
    assert says in str(heard.trouble)
    assert "123456789012" not in str(heard)
    assert heard.complete


def test_a_refused_answer_names_the_permission(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_asked: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "arn:aws:iam::123456789012:user/x"}}, "ReceiveMessage")

    with NoticeQueue(post.url) as queue:
        monkeypatch.setattr(queue._client, "receive_message", refused)
        with pytest.raises(Away, match=r"AccessDenied.*sqs:ReceiveMessage") as told:
            queue.receive(1)
    assert "123456789012" not in str(told.value)


def test_a_queue_for_a_folder_is_a_mistake_of_setup(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_PARCELS_QUEUE_URL"):
        discovery.discover(scene.connection, replace(scene.zone, queue="https://sqs.eu-west-2.amazonaws.com/123456789012/q"), NOON)


def test_an_object_that_came_before_its_companion_goes_on_when_that_has_come(scene: Scene, post: Post) -> None:
    zone = post.zone(
        complete=lambda seen, _now: post.zone().landing.find(f"{seen.key}.meta") is not None,
        arrival=lambda seen: None if seen.key.endswith(".meta") else Arrival(seen, "letters"),
    )
    post.notify()
    post.put("a")
    assert post.drain(scene.connection, zone).settling == 1
    assert scene.rows("SELECT waiting_for FROM ledger.loads") == [("metadata",)]
    post.put("a.meta")
    heard = post.drain(scene.connection, zone)
    assert (heard.settling, heard.new) == (0, 0)
    assert scene.rows("SELECT waiting_for FROM ledger.loads") == [(None,)]


def test_what_decides_about_others_is_looked_for_though_nobody_has_told_of_it(scene: Scene, post: Post) -> None:
    decided: list[list[str]] = []
    zone = post.zone(decisive=lambda _connection: ["marker", "none"], assign=lambda _connection: decided.append(keys(scene)))
    post.put("marker", "change")
    post.tell("change")
    assert post.drain(scene.connection, zone).new == 1
    assert decided == [["change", "marker"]]


# Reconciliation


def test_the_listing_that_follows_finds_what_nobody_told_of_and_doubles_nothing(
    scene: Scene, any_post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PAGE", 4)
    names = [f"{number:02}" for number in range(20)]
    any_post.put(*names, "sub/a", "sub-b")
    any_post.tell(*[name for name in names if name not in ("03", "17")])
    any_post.drain(scene.connection)
    found, calls = discovery.Reconciled(after=""), 0
    while found.after is not None:
        found += discovery.reconcile(scene.connection, any_post.zone(), NOON, after=found.after, seconds=-1)
        calls += 1
    assert (found.seen, found.new, found.late, calls) == (22, 4, 0, 7)
    assert keys(scene) == sorted([*names, "sub/a", "sub-b"])
    assert discovery.reconcile(scene.connection, any_post.zone(), NOON).new == 0


def test_a_reconciliation_that_ends_between_two_pages_keeps_what_it_has_entered_and_the_next_doubles_nothing(
    scene: Scene, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PAGE", 4)
    names = [f"{number:02}" for number in range(10)]
    post.put(*names)
    entered = landing.enter

    def two_pages(*arguments: Any) -> None:
        if len(keys(scene)) == 8:
            raise KeyboardInterrupt
        entered(*arguments)

    monkeypatch.setattr(landing, "enter", two_pages)
    with pytest.raises(KeyboardInterrupt):
        discovery.reconcile(scene.connection, post.zone(), NOON)
    assert keys(scene) == names[:8]
    monkeypatch.setattr(landing, "enter", entered)
    found = discovery.reconcile(scene.connection, post.zone(), NOON)
    assert (found.seen, found.new) == (10, 2)
    assert keys(scene) == names
    assert scene.rows("SELECT count(*) FROM ledger.load_events") == [(10,)]


def test_what_has_stood_there_untold_for_long_is_late(scene: Scene, post: Post) -> None:
    post.put("a")
    found = discovery.reconcile(scene.connection, post.zone(), NOON, late=timedelta(seconds=-2))
    assert (found.new, found.late, found.after) == (1, 1, None)


def test_a_folder_is_reconciled_by_its_listing(scene: Scene) -> None:
    for name in ("b", "a/x", "a.y"):
        scene.land(name)
    zone = replace(scene.zone, assign=lambda _connection: decided.append(True))
    decided: list[bool] = []
    found = discovery.reconcile(scene.connection, zone, datetime.now(UTC))
    assert (found.seen, found.new, found.late, found.after, decided) == (3, 3, 0, None, [True])


def test_the_order_of_a_listing_is_that_of_its_keys_wherever_it_begins(any_post: Post, scene: Scene) -> None:
    names = ["B", "a", "a-b", "a/b", "a/c/d", "a0", "é", "日", "😀"]
    any_post.put(*names)
    for store in (any_post.zone().landing, scene.landing):
        for name in names if store is scene.landing else ():
            scene.land(name if name != "a" else "a.")
        listed = [seen.key for seen in store.list_after("")]
        assert listed == sorted(listed)
        assert len(listed) == len(names)
        for position, name in enumerate(listed):
            assert [seen.key for seen in store.list_after(name)] == listed[position + 1 :]


def test_looking_for_many_is_looking_for_each(any_post: Post) -> None:
    store = any_post.zone().landing
    any_post.put(*ODD_KEYS)
    wanted = [*ODD_KEYS, "gone"]
    assert [*store.find_all(wanted)] == [store.find(key) for key in wanted]
    assert {seen.key: seen for seen in store.list()} == {
        key: seen for key, seen in zip(wanted, store.find_all(wanted), strict=True) if seen
    }


# Many


class FewWires:
    """What a queue's client and a bucket answer, without a wire: a million of it would be the same, only longer."""

    def __init__(self, keys: list[str], told: list[str]) -> None:
        self.standing = {key: StoredObject(key, 9, NOON, f"etag:{key}") for key in sorted(keys)}
        self.queue = [json.dumps({"Records": [record(f"{PREFIX}/{key}")]}) for key in told]
        self.in_hand: dict[str, str] = {}
        self.most_in_hand = 0
        self.turn = threading.Lock()

    def receive_message(self, **_asked: Any) -> Any:
        with self.turn:
            messages = [{"ReceiptHandle": str(len(self.queue)), "Body": self.queue.pop()} for _ in range(min(10, len(self.queue)))]
            self.in_hand |= {each["ReceiptHandle"]: each["Body"] for each in messages}
            self.most_in_hand = max(self.most_in_hand, len(self.in_hand))
        return {"Messages": messages} if messages else {}

    def delete_message_batch(self, **asked: Any) -> Any:
        with self.turn:
            for entry in asked["Entries"]:
                del self.in_hand[entry["ReceiptHandle"]]
        return {}

    def get_queue_attributes(self, **_asked: Any) -> Any:
        return {}

    def close(self) -> None:
        """Nothing is open."""

    def find_all(self, keys: list[str]) -> list[StoredObject | None]:
        return [self.standing.get(key) for key in keys]

    def list_after(self, after: str) -> Iterator[StoredObject]:
        return (seen for key, seen in self.standing.items() if key > after)


def record(path: str) -> Any:
    return {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "many"}, "object": {"key": quote_plus(path)}},
    }


def test_of_twenty_thousand_at_random_keys_none_is_missed_and_few_are_in_hand(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(7)
    names = [f"{dice.getrandbits(16):04x}/{number}.json" for number in range(20_000)]
    told = dice.sample(names, 19_800)
    wires = FewWires(names, [*told, *told[:100]])
    monkeypatch.setattr(aws, "connect", lambda *_asked: wires)
    zone = zone_of("many", "https://sqs.eu-west-2.amazonaws.com/123456789012/many")
    for name in ("find_all", "list_after"):
        monkeypatch.setattr(S3Store, name, staticmethod(getattr(wires, name)))
    ticks = 0
    while not discovery.discover(scene.connection, zone, NOON, seconds=0.5).complete:
        ticks += 1
    assert (wires.queue, wires.in_hand) == ([], {})
    assert wires.most_in_hand < 600
    assert scene.rows("SELECT count(*), count(DISTINCT key) FROM ledger.loads") == [(19_800, 19_800)]
    found = discovery.Reconciled(after="")
    while found.after is not None:
        found += discovery.reconcile(scene.connection, zone, NOON, after=found.after, seconds=0.5)
    assert (found.seen, found.new, found.late) == (20_000, 200, 200)
    assert scene.rows("SELECT count(*), count(DISTINCT key) FROM ledger.loads") == [(20_000, 20_000)]

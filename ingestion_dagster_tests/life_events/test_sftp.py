"""The daily file comes whole, once, and from the server whose key is pinned; whatever goes wrong on the way lands nothing."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import SecretStr

from ingestion_dagster.engine import entries, postgres
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient
from ingestion_dagster.engine.object_store import ObjectStore
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events import sftp
from ingestion_dagster.life_events.places import zone
from ingestion_dagster.life_events.sftp import Pulled
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.processes import await_end_of_sessions, environment_of

DAY = date(2031, 2, 5)
NAME = "DI_D_20310205.xml"
CONTENT = b"<DeathRegistrationGroup>PLACEHOLDER</DeathRegistrationGroup>"
MODIFIED = datetime(2031, 2, 5, 4, 0, 7, tzinfo=UTC)
CLIENT = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
HOST = {kind: asyncssh.generate_private_key(kind) for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256")}

Reading = Callable[[asyncssh.SFTPServer, int], None]


class Server:
    """An SFTP server on a port of its own, over a folder; `on_read` is called before each read with its offset."""

    def __init__(self, folder: Path, host_keys: list[asyncssh.SSHKey]) -> None:
        self.folder = folder
        self.on_read: Reading = lambda _server, _offset: None
        self.asked: list[str] = []
        """Users who have begun to authenticate."""
        self._host_keys = host_keys
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def put(self, content: bytes = CONTENT, modified: datetime = MODIFIED, name: str = NAME) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (modified.timestamp(),) * 2)
        return path

    async def _serve(self) -> None:
        outer = self

        class Folder(asyncssh.SFTPServer):
            def __init__(self, channel: Any) -> None:
                super().__init__(channel, chroot=str(outer.folder).encode())

            def read(self, file_obj: Any, offset: int, size: int) -> Any:
                outer.on_read(self, offset)
                return super().read(file_obj, offset, size)

        class Login(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                outer.asked.append(username)
                return True

        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        authorized = asyncssh.import_authorized_keys(CLIENT.export_public_key().decode())
        async with await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=self._host_keys,
            server_factory=Login,
            authorized_client_keys=authorized,
            sftp_factory=Folder,
            config=None,
        ) as acceptor:
            self.port = acceptor.get_port()
            self._ready.set()
            await self._over.wait()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "remote").mkdir()
    with Server(tmp_path / "remote", [HOST["ssh-ed25519"]]) as running:
        yield running


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with postgres.locate(settings).connect() as opened:
        sync_datasets(opened, "life_events", ["source_file"])
        yield opened


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "PAUSE_SECONDS", 0.01)


def configured(settings: Settings, there: Server, **changes: Any) -> Settings:
    usual = {
        "life_events_sftp_host": "127.0.0.1",
        "life_events_sftp_port": there.port,
        "life_events_sftp_user": "gro",
        "life_events_sftp_private_key": SecretStr(CLIENT.export_private_key().decode()),
        "life_events_sftp_host_fingerprint": HOST["ssh-ed25519"].get_fingerprint(),
    }
    return settings.model_copy(update=usual | changes)


def landing(settings: Settings) -> ObjectStore:
    return zone(settings).landing


def landed(settings: Settings) -> list[tuple[str, bytes, datetime]]:
    store = landing(settings)
    assert list(store.scratch().iterdir()) == []
    return sorted((seen.key, store.read(seen), seen.modified) for seen in store.list())


def discover(connection: Connection, settings: Settings) -> None:
    store = landing(settings)
    entries.discover(connection, "life_events", store.url, [Arrival(seen, "source_file") for seen in store.list()], datetime.now(UTC))


def test_the_file_of_the_day_lands_with_its_time_and_stays_where_it_was(settings: Settings, there: Server, connection: Connection):
    remote = there.put()
    there.put(b"another day", name="DI_D_20310204.xml")
    wanted = configured(settings, there)
    assert sftp.pull(connection, wanted, DAY, landing(settings)) == Pulled(NAME, len(CONTENT))
    assert landed(settings) == [(NAME, CONTENT, MODIFIED)]
    assert remote.read_bytes() == CONTENT
    assert there.asked == ["gro"]


def test_it_is_looked_for_in_the_folder_that_is_set(settings: Settings, there: Server, connection: Connection):
    there.put(name=f"out going/{NAME}")
    wanted = configured(settings, there, life_events_sftp_folder="out going")
    assert sftp.pull(connection, wanted, DAY, landing(settings)) == Pulled(NAME, len(CONTENT))


def test_an_empty_file_is_pulled_to_be_refused_by_its_reader(settings: Settings, there: Server, connection: Connection):
    there.put(b"")
    assert sftp.pull(connection, configured(settings, there), DAY, landing(settings)) == Pulled(NAME, 0)
    assert landed(settings) == [(NAME, b"", MODIFIED)]


def test_what_stands_in_the_landing_zone_is_not_pulled_again(settings: Settings, there: Server, connection: Connection):
    there.put()
    wanted = configured(settings, there)
    assert sftp.pull(connection, wanted, DAY, landing(settings))
    assert sftp.pull(connection, wanted, DAY, landing(settings)) is None


def test_what_has_been_loaded_and_deleted_is_not_pulled_again_until_it_changes(settings: Settings, there: Server, connection: Connection):
    there.put()
    wanted, store = configured(settings, there), landing(settings)
    assert sftp.pull(connection, wanted, DAY, store)
    discover(connection, settings)
    connection.execute("UPDATE ledger.loads SET status = 'archived'")
    for seen in store.list():
        store.remove(seen)
    assert sftp.pull(connection, wanted, DAY, store) is None
    assert landed(settings) == []

    there.put(modified=MODIFIED.replace(hour=5))
    assert sftp.pull(connection, wanted, DAY, store)
    discover(connection, settings)
    there.put(CONTENT + b" ", modified=MODIFIED)
    assert sftp.pull(connection, wanted, DAY, store)
    assert landed(settings) == [(NAME, CONTENT + b" ", MODIFIED)]


def test_in_a_bucket_what_landed_after_the_last_change_is_not_pulled_again(settings: Settings, there: Server, connection: Connection):
    there.put()
    store = landing(settings)

    class Bucket(type(store)):  # type: ignore[misc]  # as a folder whose objects are dated as a bucket dates them
        dated_by_arrival = True

    wanted = configured(settings, there)
    bucket = Bucket(store.url, store.url.removeprefix("file://"))
    assert sftp.pull(connection, wanted, DAY, store)
    discover(connection, settings)
    for seen in store.list():
        store.remove(seen)
    connection.execute("UPDATE ledger.loads SET modified = %s", [MODIFIED.replace(minute=9)])
    assert sftp.pull(connection, wanted, DAY, store) == Pulled(NAME, len(CONTENT))
    store.remove(next(iter(store.list())))
    assert sftp.pull(connection, wanted, DAY, bucket) is None
    there.put(modified=MODIFIED.replace(minute=10))
    assert sftp.pull(connection, wanted, DAY, bucket)


@pytest.mark.parametrize("changes", [{"life_events_sftp_host": None}, {"life_events_expected_file": "off"}], ids=["no server", "no file"])
def test_where_nothing_is_to_be_pulled_nobody_is_asked(settings: Settings, there: Server, connection: Connection, changes: dict[str, Any]):
    there.put()
    assert sftp.pull(connection, configured(settings, there, **changes), DAY, landing(settings)) is None
    assert there.asked == []


@pytest.mark.parametrize("missing", ["user", "private_key", "host_fingerprint"])
def test_nothing_is_pulled_without_all_that_makes_it_safe(settings: Settings, there: Server, connection: Connection, missing: str):
    there.put()
    wanted = configured(settings, there, **{f"life_events_sftp_{missing}": None})
    with pytest.raises(ConfigurationError, match=f"set INGESTION_LIFE_EVENTS_SFTP_{missing.upper()}$"):
        sftp.pull(connection, wanted, DAY, landing(settings))
    assert there.asked == []


@pytest.mark.parametrize("fingerprint", ["MD5:00:11", "SHA256:short", "SHA256:" + "A" * 43 + "B", "*"])
def test_a_fingerprint_that_is_none_is_no_permission(settings: Settings, there: Server, connection: Connection, fingerprint: str):
    wanted = configured(settings, there, life_events_sftp_host_fingerprint=fingerprint)
    with pytest.raises(ConfigurationError, match="ssh-keygen"):
        sftp.pull(connection, wanted, DAY, landing(settings))
    assert there.asked == []


def test_a_private_key_that_is_none_is_refused_without_being_quoted(settings: Settings, there: Server, connection: Connection):
    wanted = configured(settings, there, life_events_sftp_private_key=SecretStr("-----BEGIN PLACEHOLDER-----"))
    with pytest.raises(ConfigurationError) as refused:
        sftp.pull(connection, wanted, DAY, landing(settings))
    assert "INGESTION_LIFE_EVENTS_SFTP_PRIVATE_KEY" in str(refused.value)
    assert "PLACEHOLDER" not in str(refused.value)


def test_line_breaks_of_the_private_key_may_be_written_out(settings: Settings, there: Server, connection: Connection):
    there.put()
    flat = CLIENT.export_private_key().decode().replace("\n", "\\n")
    assert sftp.pull(connection, configured(settings, there, life_events_sftp_private_key=SecretStr(flat)), DAY, landing(settings))


def test_a_server_with_another_host_key_is_left_before_it_hears_who_we_are(settings: Settings, there: Server, connection: Connection):
    there.put()
    wanted = configured(settings, there, life_events_sftp_host_fingerprint=OTHER.get_fingerprint())
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_SFTP_HOST_FINGERPRINT"):
        sftp.pull(connection, wanted, DAY, landing(settings))
    assert there.asked == []
    assert landed(settings) == []


@pytest.mark.parametrize("kind", HOST)
def test_any_of_a_servers_host_keys_may_be_the_pinned_one(settings: Settings, tmp_path: Path, connection: Connection, kind: str):
    (tmp_path / "several").mkdir()
    with Server(tmp_path / "several", list(HOST.values())) as several:
        several.put()
        wanted = configured(settings, several, life_events_sftp_host_fingerprint=f"{HOST[kind].get_fingerprint()}=")
        assert sftp.pull(connection, wanted, DAY, landing(settings)) == Pulled(NAME, len(CONTENT))


def test_a_user_key_that_the_server_does_not_know_is_a_setting_to_mend(settings: Settings, there: Server, connection: Connection):
    there.put()
    wanted = configured(settings, there, life_events_sftp_private_key=SecretStr(OTHER.export_private_key().decode()))
    with pytest.raises(ConfigurationError, match="INGESTION_LIFE_EVENTS_SFTP_USER"):
        sftp.pull(connection, wanted, DAY, landing(settings))
    assert there.asked == ["gro"]


@pytest.mark.parametrize("folder", [".", "no/such/folder"])
def test_a_file_that_is_missing_is_not_there_yet(settings: Settings, there: Server, connection: Connection, folder: str):
    with pytest.raises(Transient) as missing:
        sftp.pull(connection, configured(settings, there, life_events_sftp_folder=folder), DAY, landing(settings))
    assert missing.value.code == sftp.NOT_THERE_YET
    assert there.asked == ["gro"]
    assert landed(settings) == []


def test_a_folder_under_the_files_name_is_no_file(settings: Settings, there: Server, connection: Connection):
    (there.folder / NAME).mkdir()
    with pytest.raises((ConfigurationError, Transient)):
        sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert landed(settings) == []


def test_a_file_that_is_too_large_is_not_pulled(settings: Settings, there: Server, connection: Connection):
    there.put()
    with pytest.raises(Refused) as refused:
        sftp.pull(connection, configured(settings, there, life_events_max_file_bytes=len(CONTENT) - 1), DAY, landing(settings))
    assert [problem.code for problem in refused.value.problems] == [sftp.TOO_LARGE]
    assert landed(settings) == []


LARGE = os.urandom(1 << 20) * 12


def test_a_connection_that_drops_midway_is_made_anew_and_the_file_comes_whole(settings: Settings, there: Server, connection: Connection):
    there.put(LARGE)
    dropped: list[int] = []

    def drop_twice(within: asyncssh.SFTPServer, offset: int) -> None:
        if offset > len(LARGE) // 2 and len(dropped) < 2:
            dropped.append(offset)
            within.channel.get_connection().abort()

    there.on_read = drop_twice
    assert sftp.pull(connection, configured(settings, there), DAY, landing(settings)) == Pulled(NAME, len(LARGE))
    assert len(dropped) == 2
    assert landed(settings) == [(NAME, LARGE, MODIFIED)]


def test_a_connection_that_always_drops_lands_nothing_and_is_given_up(settings: Settings, there: Server, connection: Connection):
    there.put(LARGE)
    there.on_read = lambda within, offset: within.channel.get_connection().abort() if offset > len(LARGE) // 2 else None
    with pytest.raises(Transient) as broken:
        sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert broken.value.code == sftp.UNAVAILABLE
    assert len(there.asked) == sftp.ATTEMPTS
    assert landed(settings) == []


def test_a_server_that_is_not_there_is_unavailable(settings: Settings, there: Server, connection: Connection):
    with pytest.raises(Transient) as absent:
        sftp.pull(connection, configured(settings, there, life_events_sftp_port=1), DAY, landing(settings))
    assert absent.value.code == sftp.UNAVAILABLE


def test_a_server_that_falls_silent_is_not_waited_for(
    settings: Settings, there: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    there.put()
    monkeypatch.setattr(sftp, "_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(sftp, "ATTEMPTS", 1)
    over = threading.Event()
    there.on_read = lambda _within, _offset: (over.wait(20), None)[1]
    try:
        with pytest.raises(Transient) as silent:
            sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    finally:
        over.set()
    assert silent.value.code == sftp.UNAVAILABLE
    assert landed(settings) == []


def appended(there: Server) -> None:
    with (there.folder / NAME).open("ab") as file:
        file.write(b"more")


def replaced(there: Server) -> None:
    there.put(CONTENT[::-1], modified=MODIFIED.replace(second=8), name="aside")
    (there.folder / "aside").rename(there.folder / NAME)


def cut_off(there: Server) -> None:
    os.truncate(there.folder / NAME, 10)


def removed(there: Server) -> None:
    (there.folder / NAME).unlink(missing_ok=True)


@pytest.mark.parametrize("change", [appended, replaced, cut_off, removed], ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_pulled_is_left_for_later(
    settings: Settings, there: Server, connection: Connection, change: Callable[[Server], None]
):
    there.put()
    there.on_read = lambda _within, _offset: change(there)
    with pytest.raises(Transient) as changing:
        sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert changing.value.code == (sftp.NOT_THERE_YET if change is removed else sftp.STILL_CHANGING)
    assert landed(settings) == []
    there.on_read = lambda _within, _offset: None
    there.put()
    assert sftp.pull(connection, configured(settings, there), DAY, landing(settings)) == Pulled(NAME, len(CONTENT))


def test_a_writer_who_pauses_is_waited_for(settings: Settings, there: Server, connection: Connection):
    path = there.put()
    timer = threading.Timer(0.3, path.write_bytes, [CONTENT + CONTENT])
    there.on_read = lambda _within, _offset: timer.start() if not timer.is_alive() else None
    with pytest.raises(Transient) as changing:
        sftp.pull(connection, configured(settings, there, settle_seconds=1.0), DAY, landing(settings))
    timer.join()
    assert changing.value.code == sftp.STILL_CHANGING


def test_two_at_once_do_not_pull_the_file_twice(settings: Settings, there: Server, connection: Connection):
    there.put()
    inside: list[str] = []

    def second(_within: asyncssh.SFTPServer, _offset: int) -> None:
        with postgres.locate(settings).connect() as other, pytest.raises(Transient) as busy:
            sftp.pull(other, configured(settings, there), DAY, landing(settings))
        inside.append(busy.value.code)

    there.on_read = second
    assert sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert set(inside) == {sftp.IN_PROGRESS}
    assert there.asked == ["gro"]


def test_a_disk_that_is_full_is_no_fault_of_the_server(
    settings: Settings, there: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    there.put()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sftp, "_write", full)
    with pytest.raises(Transient) as unusable:
        sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert unusable.value.code == sftp.SCRATCH_UNUSABLE
    assert there.asked == ["gro"]
    assert landed(settings) == []


def test_what_a_server_says_is_not_repeated(settings: Settings, there: Server, connection: Connection, caplog: pytest.LogCaptureFixture):
    there.put()
    caplog.set_level(logging.DEBUG)

    def talk(_within: asyncssh.SFTPServer, _offset: int) -> None:
        raise asyncssh.SFTPFailure("PLACEHOLDER was here")

    there.on_read = talk
    with pytest.raises(Transient) as failed:
        sftp.pull(connection, configured(settings, there), DAY, landing(settings))
    assert "PLACEHOLDER" not in f"{failed.value!r} {failed.value}"
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__ or failed.value.__context__ is None
    assert "PLACEHOLDER" not in caplog.text


_PULL = """
import re, sys
from datetime import date
from pathlib import Path
from ingestion_dagster.engine import postgres
from ingestion_dagster.life_events import sftp
from ingestion_dagster.life_events.places import zone
from ingestion_dagster.settings import current

with postgres.locate(current()).connect() as connection:
    for day in map(int, sys.argv[1:]):
        assert sftp.pull(connection, current(), date(2031, 2, day), zone(current()).landing)
        print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def pull_elsewhere(settings: Settings, *days: int, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Pull in a process of its own, which prints its peak of memory in megabytes after each day's file."""
    environment = environment_of(settings) | ({"INGESTION_TEST_FAULT": fault} if fault else {})
    environment |= {"INGESTION_HOME": str(settings.home), "INGESTION_DATABASE_URL": str(settings.database_url)}
    arguments = [sys.executable, "-c", _PULL, *map(str, days)]
    started = datetime.now(UTC)
    outcome = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if outcome.returncode < 0:
        await_end_of_sessions(Database.at(settings.database_url or ""), started)
    return outcome


def test_memory_does_not_go_by_the_files_size(settings: Settings, there: Server):
    there.put(LARGE, name="DI_D_20310204.xml")
    there.put(LARGE * 4)
    outcome = pull_elsewhere(configured(settings, there), 4, 5)
    assert outcome.returncode == 0, outcome.stderr
    small, large = map(int, outcome.stdout.split())
    assert large - small < 12
    assert {len(content) for _, content, _ in landed(settings)} == {len(LARGE), 4 * len(LARGE)}


def test_a_pull_that_is_killed_lands_the_file_whole_or_not_at_all_and_leaves_nothing(
    settings: Settings, there: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    there.put()
    wanted, store = configured(settings, there), landing(settings)
    outcome = pull_elsewhere(wanted, 5, fault="life_events.pull.before")
    assert outcome.returncode == -signal.SIGKILL
    assert list(store.list()) == []
    (left,) = store.scratch().iterdir()
    assert left.stat().st_mode & 0o077 == 0

    monkeypatch.setattr(sftp, "_LEFT_SECONDS", -sftp.ATTEMPTS * sftp._WHOLE_SECONDS)
    assert pull_elsewhere(wanted, 5, fault="life_events.pull.after").returncode == -signal.SIGKILL
    assert left.exists()
    assert sftp.pull(connection, wanted, DAY, store) is None
    assert landed(settings) == [(NAME, CONTENT, MODIFIED)]

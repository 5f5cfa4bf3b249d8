"""The spool gives back what was put in, holds nothing in plain, and says what to do about a full disk."""

import io
from contextlib import suppress
from pathlib import Path

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.life_events import spool
from ingestion_dagster.life_events.spool import Accepted, Spool


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def filled(records: int, older_keys: int = 0, size: int = 100) -> tuple[Spool, list[Accepted]]:
    made, expected = Spool(older_keys), []
    for number in range(1, records + 1):
        older = [key(1000 * number + each) for each in range(older_keys)]
        payload = bytes([number % 256]) * (size + number % 7)
        made.add(number, key(number), older, payload)
        expected.append(Accepted(number, key(number), tuple(older), payload))
    return made, expected


def on_a_full_disk(monkeypatch: pytest.MonkeyPatch, in_memory: int = 0) -> None:
    """Temporary files are on a disk without room; up to so many bytes are kept in memory."""

    class Full(io.BytesIO):
        def __init__(self, **_: object) -> None:
            super().__init__()
            self._file = Path("/dev/full").open("r+b", buffering=1 << 20)  # noqa: SIM115 - closed below
            self._kept = 0

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self._kept += len(data)
            written = self._file.write(data)
            if self._kept > in_memory:
                self._file.flush()
            return written

        def seek(self, *_: int) -> int:
            self._file.flush()
            return 0

        def close(self) -> None:
            super().close()
            self._file.close()

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", Full)


@pytest.mark.parametrize("older_keys", [0, 1, 3])
@pytest.mark.parametrize("records", [0, 1, 5, 6, 7])
def test_what_was_added_comes_back_in_order_and_in_chunks(records: int, older_keys: int) -> None:
    made, expected = filled(records, older_keys)
    with made:
        chunks = list(made.chunks(3))
    assert [each for chunk in chunks for each in chunk] == expected
    assert [len(chunk) for chunk in chunks] == [3] * (records // 3) + ([records % 3] if records % 3 else [])


def test_a_spool_larger_than_memory_is_the_same_and_lies_nowhere_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(spool, "_IN_MEMORY", 10_000)
    made, expected = filled(300)
    with made:
        assert list(tmp_path.iterdir()) == []
        assert any(str(tmp_path) in target for target in open_files())
        assert [each for chunk in made.chunks(50) for each in chunk] == expected
    assert made.records == 300


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


def test_a_disk_that_is_full_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_full_disk(monkeypatch)
    with pytest.raises(ConfigurationError, match=r"is full; .* make room, or set TMPDIR") as raised, Spool(0) as made:
        made.add(1, key(1), [], b"sealed")
    assert raised.value.__cause__ is None


def test_a_disk_that_is_full_when_the_last_bytes_go_there_is_told_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written when the spool is read, or closed."""
    on_a_full_disk(monkeypatch, in_memory=1 << 20)
    with Spool(0) as made:
        made.add(1, key(1), [], b"sealed")
        with pytest.raises(ConfigurationError, match="is full"):
            next(made.chunks(1))


def test_a_spool_that_nobody_reads_does_not_mind_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_full_disk(monkeypatch, in_memory=1 << 20)
    with Spool(0) as made:
        made.add(1, key(1), [], b"sealed")

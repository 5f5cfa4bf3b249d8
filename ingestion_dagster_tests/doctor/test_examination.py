"""A check that hangs, breaks or quotes a secret is one finding, and no other check's."""

import threading
from collections.abc import Iterator

from ingestion_dagster.doctor.examination import Check, Level, Said, examine, ok
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.settings import Settings

SECRET = "hunter2hunter2"  # pragma: allowlist secret


def test_the_others_are_told_of_when_one_hangs_and_one_breaks(settings: Settings) -> None:
    end = threading.Event()

    def hangs() -> Iterator[Said]:
        yield ok("so far")
        end.wait()

    def breaks() -> list[Said]:
        raise KeyError(SECRET)

    def refuses() -> list[Said]:
        raise Transient("http_timeout", "it did not answer")

    try:
        found = examine(
            [Check("hangs", hangs, 0.2), Check("breaks", breaks), Check("refuses", refuses), Check("fine", lambda: [ok("well")])], settings
        )
    finally:
        end.set()
    assert [(finding.check, finding.level) for finding in found] == [
        ("hangs", Level.OK),
        ("hangs", Level.PROBLEM),
        ("breaks", Level.PROBLEM),
        ("refuses", Level.PROBLEM),
        ("fine", Level.OK),
    ]
    assert "no answer within 0.2 s" in found[1].what
    assert found[2].what == "it could not be looked at (KeyError)"
    assert found[3].do == "ingestion explain http_timeout"


def test_no_finding_tells_a_secret_or_breaks_its_line(settings: Settings) -> None:
    url = f"postgresql://me:{SECRET}@db/ledger"  # pragma: allowlist secret

    def tells() -> list[Said]:
        raise ConfigurationError(f"{url}\nand more")

    [found] = examine([Check("tells", tells)], settings.model_copy(update={"database_url": url}))
    assert found.what == r"postgresql://me:***@db/ledger\nand more"

"""The jars of OpenSearch: fetched once by Maven, kept in the user's cache, shared by all checkouts with the same pom."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingestion_dagster.engine.errors import ConfigurationError

POM = Path(__file__).parents[2] / "tools" / "opensearch" / "pom.xml"
"""What is fetched, in which versions."""

INSTALL = "install both Java and Maven (Debian: apt-get install default-jre-headless maven; macOS: brew install openjdk maven)"

_FETCH_SECONDS = 900.0
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def folder() -> Path:
    """The folder with the jars, fetched now if they are not there yet; processes that want them at once take turns.

    Raises `ConfigurationError` without the pom (outside of a checkout), without Maven, or if it cannot fetch them.
    """
    try:
        pom = POM.read_bytes()
    except OSError:
        raise ConfigurationError(f"there is no {POM}: OpenSearch can be started from a checkout only") from None
    version = re.search(rb"<opensearch\.version>([\w.]+)<", pom)
    if version is None:
        raise ConfigurationError(f"{POM} does not say opensearch.version")
    jars = _cache() / f"opensearch-{version[1].decode()}-{hashlib.sha256(pom).hexdigest()[:12]}"
    if not jars.is_dir():
        with locked():
            if not jars.is_dir():
                _fetch(jars)
    return jars


@contextmanager
def locked() -> Iterator[None]:
    """Nobody else changes the cache meanwhile. Raises `ConfigurationError` if it cannot be used."""
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("a", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{cache}, where OpenSearch is kept, cannot be used ({error.strerror}): correct that") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(jars: Path) -> None:
    """Fetch into a folder beside, which gets its name once it is whole. The caller holds the lock."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigurationError(f"OpenSearch is fetched by Maven, once, and there is no mvn command: {INSTALL}")
    for leftover in jars.parent.glob("fetching-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix="fetching-", dir=jars.parent))
    command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={staging}"]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_FETCH_SECONDS, check=False)
        if fetched.returncode:
            said = [line for line in _COLOURS.sub("", fetched.stdout + fetched.stderr).splitlines() if line.strip()]
            raise ConfigurationError("\n".join(["Maven could not fetch OpenSearch; its last lines:", *said[-12:]]))
        staging.rename(jars)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"Maven did not fetch OpenSearch within {_FETCH_SECONDS:.0f} seconds: try again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _cache() -> Path:
    return Path.home() / ".cache" / "ingestion_dagster"

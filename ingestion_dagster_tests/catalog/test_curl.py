"""What old callers do with curl, from the first refresh to the last deletion, against the server, Dagster and all."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.catalog import places, samples
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.postgres import Database

_ROOT = Path(__file__).parents[2]
SECONDS = 90


@pytest.fixture
def url(places: Places, upstream: Database, tmp_path: Path) -> Iterator[str]:
    """The private API of an installation with sample rows upstream."""
    samples.fill_upstream(upstream)
    file, log = tmp_path / "address", tmp_path / "log"
    with log.open("wb") as writing:
        command = [sys.executable, "-m", "ingestion_dagster.api.server", str(file)]
        started = subprocess.Popen(command, cwd=_ROOT, stdout=writing, stderr=writing)
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield str(json.loads(file.read_text())["url"])
    finally:
        started.terminate()
        started.wait(20)


def curl(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and body of what curl gets."""
    program = shutil.which("curl")
    assert program is not None
    sent = [] if body is None else ["-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    answer = subprocess.run([program, "-s", "-w", "\n%{http_code}", *sent, url], capture_output=True, text=True, timeout=60, check=True)
    content, _, status = answer.stdout.rpartition("\n")
    return int(status), json.loads(content)


def done(url: str, **body: Any) -> Any:
    """How a task has ended that is asked for."""
    status, accepted = curl(f"{url}/task", body)
    assert status == 202, accepted
    deadline = time.monotonic() + SECONDS
    while True:
        _, found = curl(accepted["status_check"])
        if not found["active"]:
            assert not found["error"], found
            assert found["progress"] == 100
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.timeout(400)
def test_the_life_of_an_index_as_old_callers_drive_it(url: str, catalog_settings: Any, tmp_path: Path):
    assert curl(f"{url}/task") == (200, [])
    done(url, model="image", action="INGEST_UPSTREAM", index_suffix="init")
    assert curl(f"{url}/stat/image-init")[1] == {"exists": True, "is_alias": False, "alt_names": [], "indexes": ["image-init"]}
    done(url, model="image", action="CREATE_AND_POPULATE_FILTERED_INDEX", origin_index_suffix="init", destination_index_suffix="init")
    done(url, model="image", action="PROMOTE", index_suffix="init", alias="image")
    assert curl(f"{url}/stat/image")[1]["alt_names"] == "image-init"
    done(url, model="image", action="POINT_ALIAS", index_suffix="init-filtered", alias="image-filtered")
    assert curl(f"{url}/stat/image-filtered")[1]["alt_names"] == "image-init-filtered"
    with closing(places.search_engine(catalog_settings)) as engine:
        assert engine.count("image") > engine.count("image-filtered") > 0
    done(url, model="image", action="UPDATE_INDEX", index_suffix="init", since_date="1999-01-01")
    done(url, model="image", action="REINDEX", index_suffix="again")
    done(url, model="image", action="POINT_ALIAS", index_suffix="again", alias="image-spare")
    assert curl(f"{url}/task", {"model": "image", "action": "DELETE_INDEX", "alias": "image-spare"})[0] == 400
    assert curl(f"{url}/stat/image-again")[1]["exists"]
    done(url, model="image", action="DELETE_INDEX", alias="image-spare", force_delete=True)
    assert not curl(f"{url}/stat/image-again")[1]["exists"]
    assert len(curl(f"{url}/task")[1]) == 8
    assert curl(f"{url}/?check_deps=true") == (200, {"status": "200 OK"})
    log = (tmp_path / "log").read_text()
    assert log.count(" asked for ") == 9
    assert "127.0.0.1 asked for INGEST_UPSTREAM of image: 202, task " in log
    assert "postgresql" not in log

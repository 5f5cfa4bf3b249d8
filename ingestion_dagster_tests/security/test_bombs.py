"""Files that are small until they are opened: none makes a reader hold more than a few blocks of what it unpacks to.

They are read by a process of their own, whose memory ends a few hundred megabytes above what it has after reading good files.
"""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ingestion_dagster_tests.security.surfaces import FILES, FileSurface

BYTES = 600_000_000
"""What a bomb unpacks to."""
MEGABYTES = 350

READ = """
import json, resource, sys
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
def codes(pipeline, key, path):
    return [problem.code for problem in PIPELINES[pipeline].check(Settings(), key, open(path, "rb").read(), lambda _name: None)]
asked = json.loads(sys.argv[2])
for name, pipeline, key, good, bomb in asked:
    codes(pipeline, key, good)
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, pipeline, key, good, bomb in asked:
    print(json.dumps([name, codes(pipeline, key, bomb)]), flush=True)
"""

OF_KIND = {surface.kind: surface for surface in FILES}
MESSAGES = FileSurface("cubic", "gzip", "cubic/kafka/sample/a.json.gz", "cubic/good/cubic/kafka/sample/rZEQNSL8v8wREw4SK5wXZC.json.gz")
BLOCK = b"x" * 2**20


def packed(head: bytes) -> bytes:
    """A gzip file that begins so, and goes on with one letter."""
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(head)
        for _ in range(BYTES // len(BLOCK)):
            file.write(BLOCK)
    assert len(made.getvalue()) < BYTES / 100
    return made.getvalue()


def laughs() -> bytes:
    """Entities of entities."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))
    return f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{entities}]><a>&l29;</a>'.encode()


def bombs() -> Iterator[tuple[str, FileSurface, bytes]]:
    header = gzip.decompress(OF_KIND["ods"].raw).split(b"\n")[0]
    yield "an endless field", OF_KIND["ods"], packed(header + b"\n")
    yield "an endless header", OF_KIND["dmap"], packed(b"")
    yield "an endless message", MESSAGES, packed(b'{"topic": "')
    yield "endless lists", OF_KIND["time_series"], b'{"time_series":' + b"[" * 20_000_000
    yield "entities of entities", OF_KIND["registrations"], laughs()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The codes of each, as far as the process came."""
    asked = []
    for name, surface, bomb in bombs():
        folder = tmp_path_factory.mktemp("bomb")
        (folder / "good").write_bytes(surface.raw)
        (folder / "bomb").write_bytes(bomb)
        asked.append([name, surface.pipeline, surface.key, str(folder / "good"), str(folder / "bomb")])
    done = subprocess.run([sys.executable, "-c", READ, str(MEGABYTES), json.dumps(asked)], capture_output=True, text=True, check=False)
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("name", ["an endless field", "an endless header", "an endless message"])
def test_a_gzip_bomb_is_refused_and_never_held(said: dict[str, list[str]], name: str) -> None:
    assert said.get(name) == ["record_too_long"]


def test_json_that_is_nested_without_end_is_refused(said: dict[str, list[str]]) -> None:
    assert said.get("endless lists") == ["unreadable_json"]


def test_xml_that_would_expand_is_refused(said: dict[str, list[str]]) -> None:
    assert said.get("entities of entities") == ["doctype_forbidden"]

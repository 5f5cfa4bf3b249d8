"""Files that are small until they are opened: none makes a reader hold more than a few blocks of what it unpacks to.

Each is read in a process of its own whose memory ends a few hundred megabytes above what its imports take.
"""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_dagster_tests.security.surfaces import FILES, FileSurface

BYTES = 800_000_000
"""What a bomb unpacks to."""
MEGABYTES = 400

READ = """
import json, resource, sys
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings
pipeline, key, path, warm = sys.argv[1:5]
check = PIPELINES[pipeline].check
check(Settings(), key, open(warm, "rb").read(), lambda _name: None)
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + %d * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(json.dumps([problem.code for problem in check(Settings(), key, open(path, "rb").read(), lambda _name: None)]))
"""


def packed(pieces: Iterator[bytes]) -> bytes:
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=1, mtime=0) as file:
        for piece in pieces:
            file.write(piece)
    return made.getvalue()


def of(kind: str) -> FileSurface:
    [surface] = [each for each in FILES if each.kind == kind]
    return surface


BOMBS = {
    "one endless field": ("ods", lambda: gzip.decompress(of("ods").raw).split(b"\n")[0] + b"\n", b"x" * 2**20),
    "one endless header": ("dmap", lambda: b"", b"x" * 2**20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_gzip_bomb_is_refused_and_never_held(tmp_path: Path, name: str) -> None:
    kind, head, block = BOMBS[name]
    bomb = tmp_path / "bomb"
    bomb.write_bytes(packed(iter([head(), *([block] * (BYTES // len(block)))])))
    assert bomb.stat().st_size < BYTES / 100
    assert read(of(kind), bomb, tmp_path) == ["record_too_long"]


def test_a_gzip_bomb_of_messages_is_refused_and_never_held(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(packed(iter([b'{"topic": "', *([b"x" * 2**20] * 350)])))
    surface = FileSurface("cubic", "kafka", "cubic/kafka/sample/a.json.gz", "cubic/good/cubic/kafka/sample/rZEQNSL8v8wREw4SK5wXZC.json.gz")
    assert read(surface, bomb, tmp_path) == ["record_too_long"]


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(b'{"time_series":' + b"[" * 20_000_000)
    assert read(of("time_series"), bomb, tmp_path) == ["unreadable_json"]


def test_xml_that_would_expand_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))
    bomb.write_bytes(f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>&l29;</a>'.encode())
    assert read(of("registrations"), bomb, tmp_path) == ["doctype_forbidden"]


def read(surface: FileSurface, bomb: Path, folder: Path) -> list[str]:
    """What a process with little memory says of a file, after it has read a good one."""
    good = folder / "good"
    good.write_bytes(surface.raw)
    command = [sys.executable, "-c", READ % MEGABYTES, surface.pipeline, surface.key, str(bomb), str(good)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    codes: list[str] = json.loads(done.stdout)
    return codes

"""The sample upstream: what its generator writes, loaded once and whole, and counted as its rows are."""

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ingestion_dagster.catalog import cleaning, samples, sensitive
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings

SOURCE_DATA = Path(__file__).parents[2] / "source_data"


def generate(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(gzip.decompress((SOURCE_DATA / "catalog" / name).read_bytes()).decode(), newline="")))


def counted(database: Database, query: str) -> Any:
    with database.connect() as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_committed_files_hold_what_the_generator_writes() -> None:
    outcome = generate(SOURCE_DATA / "generate_catalog.py", "--check")
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_check_sees_changed_missing_and_stray_files_and_a_rewrite_repairs_them(tmp_path: Path) -> None:
    script = Path(shutil.copy(SOURCE_DATA / "generate_catalog.py", tmp_path))
    folder = Path(shutil.copytree(SOURCE_DATA / "catalog", tmp_path / "catalog"))
    (folder / "expected.json").unlink()
    (folder / "audio.csv.gz").write_bytes(gzip.compress(b"identifier\n"))
    (folder / "stray.csv").write_text("x")
    (folder / "image.csv.gz").write_bytes(gzip.compress(gzip.decompress((folder / "image.csv.gz").read_bytes()), 1))

    outcome = generate(script, "--check")
    assert outcome.returncode == 1
    assert outcome.stdout.splitlines() == ["differs: audio.csv.gz", "differs: expected.json", "differs: stray.csv"]
    assert generate(script).returncode == 0
    assert generate(script, "--check").returncode == 0
    assert not (folder / "stray.csv").exists()


def test_the_files_stay_small_and_name_no_host_that_exists() -> None:
    assert sum(path.stat().st_size for path in (SOURCE_DATA / "catalog").iterdir()) < 1_500_000
    for name in ("image.csv.gz", "audio.csv.gz"):
        for row in rows(name):
            for column in ("url", "foreign_landing_url", "creator_url", "thumbnail"):
                host = row[column].partition("://")[2].partition("/")[0] or row[column].partition("/")[0]
                assert not host or host.partition(":")[0].endswith((".example", "data", "mailto")), row[column]


def test_an_empty_upstream_gets_every_row_once(upstream: Database) -> None:
    started = time.monotonic()
    samples.fill_upstream(upstream)
    assert time.monotonic() - started < 10
    samples.fill_upstream(upstream)
    for model, media in MEDIA_TYPES.items():
        expected = samples.expected(model)
        assert counted(upstream, f"SELECT count(*) FROM {media.table.upstream}") == expected["rows"]
        by_provider = f"SELECT json_object_agg(provider, n) FROM (SELECT provider, count(*) AS n FROM {model} GROUP BY 1) AS counts"
        assert counted(upstream, by_provider) == expected["rows_by_provider"]
    assert counted(upstream, "SELECT count(*) FROM audioset_view") == samples.expected("audio")["audiosets"]
    assert counted(upstream, "SELECT count(*) FROM (SELECT DISTINCT provider, foreign_identifier FROM audioset_view) AS sets") == 50
    assert counted(upstream, "SELECT count(*) FROM audio WHERE (audio_set IS NULL) <> (audio_set_foreign_identifier IS NULL)") == 0
    assert counted(upstream, "SELECT count(DISTINCT url) FROM image") == samples.expected("image")["rows"]


def test_texts_arrays_and_nulls_survive_the_way_through_csv(upstream: Database) -> None:
    samples.fill_upstream(upstream)
    assert counted(upstream, "SELECT count(*) FROM image WHERE title = ''") == 1
    assert counted(upstream, "SELECT count(*) FROM image WHERE title IS NULL AND tags IS NULL AND meta_data IS NULL") == 1
    assert counted(upstream, r"SELECT count(*) FROM image WHERE title LIKE E'two\nlines\tand a tab'") == 1
    assert counted(upstream, "SELECT count(*) FROM image WHERE title LIKE '%C:\\\\temp\\\\new & <b>bold</b>'") == 1
    odd = counted(upstream, "SELECT genres FROM audio WHERE array_length(genres, 1) = 4")
    assert odd == ['with "quotes"', "with, comma", "back\\slash", "été"]
    assert counted(upstream, "SELECT tags -> 4 ->> 'name' FROM image WHERE tags @> '[{\"name\": \"crème brûlée\"}]'") == 'quoted "tag"'


def test_documents_are_counted_as_they_are_computed_from_the_rows(upstream: Database) -> None:
    samples.fill_upstream(upstream)
    for model in MEDIA_TYPES:
        expected = samples.expected(model)
        with upstream.connect() as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute(f"SELECT row_number() OVER () AS id, * FROM {model}").fetchall()
        documents = [made for row in found if (made := MEDIA_TYPES[model].documents.plain(row)) is not None]
        assert len(documents) == expected["documents"]
        assert sum(made["mature"] is True for made in documents) == expected["mature"]
        licences = {made["license"] for made in documents}
        assert {name: sum(made["license"] == name for made in documents) for name in licences} == expected["documents_by_license"]
        assert expected["filtered"] + expected["sensitive"] == expected["documents"]


def test_what_every_hard_case_stands_for_is_in_the_rows() -> None:
    images = rows("image.csv.gz")
    tags = [tag for row in images for tag in json.loads(row["tags"] or "[]") or []]
    assert {tag.get("provider") for tag in tags} >= {"rekognition", "clarifai", "flickr", "stocksnap"}
    assert {"by", "baby", "ruby", "nearby", "cc0"} <= {tag["name"] for tag in tags if isinstance(tag.get("name"), str)}
    assert {0.9, 0.8999, "0.90", "0.4"} <= {tag.get("accuracy") for tag in tags}
    assert any("name" not in tag for tag in tags)
    assert any(tag.get("name", "") is None for tag in tags)
    assert {"sampling+", "devnations", "BY-SA"} <= {row["license"] for row in images}
    assert sum("'" in row["url"] for row in images) == 1
    expected = samples.expected("image")
    assert all(expected[name] > 0 for name in ("removed", "mature", "sensitive", "cleaned_rows", "all_tags_dropped"))
    assert set(expected["fixed_fields"]) == {"url", "creator_url", "foreign_landing_url", "tags"}
    audio = rows("audio.csv.gz")
    assert any(row["alt_files"] == "[]" for row in audio)
    assert any("m4a" in row["alt_files"] for row in audio)


def test_an_upstream_with_a_table_of_its_own_is_left_alone(upstream: Database) -> None:
    with upstream.connect() as connection:
        connection.execute("CREATE TABLE something (id integer)")
    samples.fill_upstream(upstream)
    assert counted(upstream, "SELECT count(*) FROM pg_class WHERE relname IN ('image', 'audio', 'audioset_view')") == 0


def test_two_at_once_load_the_rows_once(upstream: Database) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(samples.fill_upstream, [upstream] * 3))
    assert counted(upstream, "SELECT count(*) FROM audio") == samples.expected("audio")["rows"]


def test_an_attempt_that_broke_off_is_made_again(upstream: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SOURCE_DATA / "catalog", tmp_path / "catalog"))
    whole = (folder / "audio.csv.gz").read_bytes()
    (folder / "audio.csv.gz").write_bytes(whole[: len(whole) // 2])
    with monkeypatch.context() as patched:
        patched.setattr(samples, "project_file", lambda _name: tmp_path)
        with pytest.raises(ConfigurationError, match=r"audio\.csv\.gz cannot be used \(EOFError\)"):
            samples.fill_upstream(upstream)
    assert counted(upstream, "SELECT count(*) FROM pg_class WHERE relname IN ('image', 'audio')") == 0
    samples.fill_upstream(upstream)
    assert counted(upstream, "SELECT count(*) FROM audio") == samples.expected("audio")["rows"]


def test_the_rules_of_the_pipeline_judge_the_rows_as_the_generator_does(upstream: Database, settings: Settings) -> None:
    samples.fill_upstream(upstream)
    terms = sensitive.load(settings)
    for model, media in MEDIA_TYPES.items():
        expected = samples.expected(model)
        with upstream.connect() as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute(f"SELECT row_number() OVER () AS id, * FROM {model}").fetchall()
        fields: Counter[str] = Counter()
        cleaned_rows = found_sensitive = found_phrase = 0
        for row in found:
            cleaned, fixes = cleaning.clean_row(row, cleaning.Rules()) if media.table.cleaned else (row, ())
            fields.update({fix.field for fix in fixes})
            cleaned_rows += bool(fixes)
            document = media.documents.plain(cleaned)
            if document is not None:
                texts = [document.get("title"), document.get("description"), *(tag["name"] for tag in document.get("tags", []))]
                text = "\0".join(each for each in texts if each)
                found_sensitive += terms.found_in(text)
                found_phrase += expected["phrase"]["term"] in text.lower()
        assert dict(fields) == expected["fixed_fields"]
        assert cleaned_rows == expected["cleaned_rows"]
        assert found_sensitive == expected["sensitive"]
        assert found_phrase == expected["phrase"]["documents"]


def test_readme_counts_are_true() -> None:
    told = (SOURCE_DATA / "README.md").read_text(encoding="utf-8").partition("## `catalog/`")[2]
    images, audio = samples.expected("image"), samples.expected("audio")
    assert told.startswith(f": {images['rows']:,} images and {audio['rows']:,} recordings")
    for name in ("rows", "removed", "documents", "mature", "sensitive", "filtered", "cleaned_rows"):
        assert re.search(rf"^\| `{name}` \| {images[name]:,} \| {audio[name]:,} \|", told, re.MULTILINE), name
    assert f"{audio['audiosets']} sets" in told

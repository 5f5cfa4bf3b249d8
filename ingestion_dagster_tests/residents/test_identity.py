"""What rows and people are known by: the key, who makes it, and what two spellings have in common."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.identity import Hasher, RowIdentity, hasher
from ingestion_dagster.residents.model import Prepared, Rules
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.residents.scene import AS_OF, Row, generic, nsss

KEY = "0123456789abcdef" * 2  # pragma: allowlist secret


def prepared(row: Row, dataset: str = "nsss") -> Prepared:
    judged = DATASETS[dataset].judge(row, 1, Rules(AS_OF))
    assert judged.prepared
    return judged.prepared


def known(row: Row, dataset: str = "nsss", key: str = KEY) -> RowIdentity:
    return Hasher(key.encode()).of_row(dataset, prepared(row, dataset))


# The key


def test_a_key_is_made_once_and_only_we_may_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    first = hasher(settings).of("word")
    file = tmp_path / "home" / "residents.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) >= 64
    assert hasher(settings).of("word") == first
    assert hasher(Settings(home=tmp_path / "other")).of("word") != first


def test_two_processes_that_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ingestion_dagster.settings import Settings; from ingestion_dagster.residents.identity import hasher; "
        "from pathlib import Path; print('ready', flush=True); sys.stdin.readline(); "
        "print(hasher(Settings(home=Path(sys.argv[1]))).of('word').hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(4)]
    for process in started:
        assert process.stdout
        process.stdout.readline()
    said = [process.communicate("go\n", timeout=60)[0] for process in started]
    assert len(set(said)) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["residents.key"]


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_RESIDENTS_HASH_KEY is shorter than 32"):
        hasher(Settings(home=tmp_path, residents_hash_key=SecretStr("x" * 31)))
    assert not (tmp_path / "residents.key").exists()


@pytest.mark.parametrize("content", ["", "short\n"])
def test_a_key_file_that_holds_no_key_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "residents.key").write_text(content)
    with pytest.raises(ConfigurationError, match=r"residents\.key holds no key: restore it"):
        hasher(Settings(home=tmp_path))
    assert (tmp_path / "residents.key").read_text() == content


def test_production_without_a_key_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_RESIDENTS_HASH_KEY"):
        hasher(Settings(home=tmp_path, environment="production"))
    assert not (tmp_path / "residents.key").exists()
    assert hasher(Settings(home=tmp_path, environment="production", residents_hash_key=SecretStr(KEY))).of("word")


# Rows


def test_another_key_knows_nothing_of_what_the_first_knew() -> None:
    mine, theirs = known(nsss(1)), known(nsss(1), key=KEY[::-1])
    assert mine == known(nsss(1))
    assert {mine.identity, mine.row_hash, mine.nhs_hash, mine.name_hash}.isdisjoint(
        {theirs.identity, theirs.row_hash, theirs.nhs_hash, theirs.name_hash}
    )


@pytest.mark.parametrize("column", [column for column in nsss(1) if column != "ID"])
def test_every_column_that_is_sent_makes_another_row_of_the_same_identity(column: str) -> None:
    changed = {
        "do_you_need_someone_to_contact_you_about_local_support": "No",
        "date_of_birth": "23/02/1963",
        "nhs_number": nsss(9)["nhs_number"],
    }
    row = nsss(1, **{column: changed.get(column, f"{nsss(1)[column]}1")})
    assert known(row).row_hash != known(nsss(1)).row_hash
    assert known(row).identity == known(nsss(1)).identity


def test_columns_that_are_not_sent_make_no_other_row() -> None:
    assert known(nsss(1) | {"active_status": "whatever"}) == known(nsss(1))


def test_a_person_is_known_by_number_and_names_however_they_are_written() -> None:
    number = nsss(1)["nhs_number"]
    spaced = known(nsss(1, nhs_number=f"{number[:3]} {number[3:6]} {number[6:]}", last_name=nsss(1)["last_name"].upper()))
    assert (spaced.nhs_hash, spaced.name_hash) == (known(nsss(1)).nhs_hash, known(nsss(1)).name_hash)


def test_an_unknown_number_or_half_a_name_is_no_persons() -> None:
    unknown = known(nsss(1, nhs_number="", last_name="Only"))
    assert unknown.nhs_hash is None
    assert known(nsss(1, first_name="")).name_hash is None


def test_words_are_not_run_together() -> None:
    of = Hasher(KEY.encode()).of
    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("abc", "")}) == 4


def test_ids_of_generic_do_not_make_one_identity_of_two_people() -> None:
    assert known(generic(1), "generic").identity != known(generic(2), "generic").identity
    assert known(generic(1), "generic").identity == known(generic(1, {"Case Note 1": "another"}), "generic").identity


def test_notes_and_the_shielding_note_are_part_of_a_row() -> None:
    one = prepared(nsss(1))
    by = Hasher(KEY.encode())
    with_note = replace(one, shielding_note=one.notes[0])
    assert len({by.of_row("nsss", each).row_hash for each in (one, with_note, replace(one, notes=()))}) == 3

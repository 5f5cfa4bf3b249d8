"""The Dagster home: made where the settings say, equal to the project's, and never in the place of the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingestion_dagster.engine import home
from ingestion_dagster.engine.dagster import open_instance
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import prepare_dagster_home, project_file
from ingestion_dagster.settings import Settings


@pytest.fixture(autouse=True)
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets is gone after it."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv("DAGSTER_HOME")


def test_the_home_is_below_ingestion_home_and_children_inherit_it(tmp_path: Path) -> None:
    prepared = prepare_dagster_home(Settings(home=tmp_path / "a home"))
    assert prepared == tmp_path / "a home" / "dagster"
    assert (prepared / "dagster.yaml").read_bytes() == project_file("dagster.yaml").read_bytes()
    printed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ['DAGSTER_HOME'])"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str(prepared)


def test_a_relative_home_is_made_absolute_because_dagster_refuses_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_dagster_home(Settings()) == tmp_path / ".ingestion" / "dagster"
    assert Path(os.environ["DAGSTER_HOME"]).is_absolute()


def test_a_dagster_yaml_of_an_older_version_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    (folder / "history").mkdir()
    prepare_dagster_home(Settings(home=tmp_path))
    assert (folder / "dagster.yaml").read_bytes() == project_file("dagster.yaml").read_bytes()
    assert sorted(entry.name for entry in folder.iterdir()) == ["dagster.yaml", "history"]


def test_an_equal_dagster_yaml_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that runs would see it change at every command."""
    before = (prepare_dagster_home(Settings(home=tmp_path)) / "dagster.yaml").stat()
    monkeypatch.delenv("DAGSTER_HOME")
    after = (prepare_dagster_home(Settings(home=tmp_path)) / "dagster.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_dagster_home_of_the_users_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(own))
    assert prepare_dagster_home(Settings(home=tmp_path / "home")) == own
    assert os.environ["DAGSTER_HOME"] == str(own)
    assert (own / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_used_is_named_as_a_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/file/dagster.*INGESTION_HOME"):
        prepare_dagster_home(Settings(home=tmp_path / "file"))
    assert "DAGSTER_HOME" not in os.environ


def test_two_processes_that_prepare_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    program = (
        "from ingestion_dagster.engine.home import prepare_dagster_home; from ingestion_dagster.settings import current; "
        "prepare_dagster_home(current())"
    )
    environment = os.environ | {"INGESTION_HOME": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert [process.wait(30) for process in started] == [0, 0]
    assert [entry.name for entry in (tmp_path / "dagster").iterdir()] == ["dagster.yaml"]
    assert (tmp_path / "dagster" / "dagster.yaml").read_bytes() == project_file("dagster.yaml").read_bytes()


def test_an_installed_wheel_reads_the_files_it_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = tmp_path / "site-packages" / "ingestion_dagster" / "_project"
    carried.mkdir(parents=True)
    (carried / "dagster.yaml").write_text("carried")
    (tmp_path / "site-packages" / "dagster.yaml").write_text("another project's")
    monkeypatch.setattr(home, "_PACKAGE", carried.parent)
    assert project_file("dagster.yaml") == carried / "dagster.yaml"
    with pytest.raises(ConfigurationError, match="source_data is missing"):
        project_file("source_data")


def test_a_home_that_cannot_be_written_is_opened_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the image, on its read-only root file system; what is kept is kept elsewhere."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: {tmp_path / 'elsewhere'}}}}}\ntelemetry: {{enabled: false}}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(made))
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == made and mode == os.W_OK))
    with open_instance() as instance:
        assert instance.get_runs() == []
    assert not (made / ".opening").exists()

"""Pytest plugin: what a test run may not get away with. Loaded by pyproject.toml, before any conftest.

* No `.env`, and no setting of the shell that started the run, reaches a test or a process that it starts: each test begins in an
  empty folder of its own, with the variables of this project, Dagster, AWS and Postgres unset.
* Each worker has a folder for temporary files of its own: what one takes for left behind may be in use by another.
* With INGESTION_REQUIRE_REAL_PARTS=1, as in CI, a test that is skipped has failed: a part that it needs (Postgres, moto, a
  browser) is missing. Only a test marked `may_skip` may be skipped there, for a trait of the platform.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

REQUIRED = "INGESTION_REQUIRE_REAL_PARTS"
UNSET = ("INGESTION_", "DAGSTER_", "DG_", "AWS_", "PG", "SLACK_")


def pytest_configure(config: pytest.Config) -> None:
    """Make this process, and those that it starts, forget what the shell and a `.env` say."""
    for name in [name for name in os.environ if name.startswith(UNSET) and name != REQUIRED]:
        del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # By a script that ends the command with `&`. Dagster hands it on to SIGTERM, and its children could not be ended.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What pytest makes of each test file is kept for the next run, whatever the shell says: it takes a quarter of the collection's time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tempfile.mkdtemp(prefix="tests-")
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(config.rootpath / ".hypothesis"))
    config.addinivalue_line("markers", "may_skip: skipped where the platform lacks a trait, and that is no failure in CI either")


def pytest_collection_finish() -> None:
    """Leave what has been imported out of all later searches for garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Run each test in an empty folder: Dagster's commands read the `.env` and `dagster.yaml` of the one they start in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ingestion-test-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            return (yield)
        finally:
            os.chdir(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where real parts are required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("may_skip") is None:
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that is skipped as a whole."""
    report = yield
    if report.skipped:
        _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get(REQUIRED) != "1":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{REQUIRED}=1, and this was skipped: {reason}"

"""Texts of others stay texts: in logs, figures, alerts, statements, and on the pages of Dagster."""

import json
import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import ingestion_dagster
from ingestion_dagster.api import metrics
from ingestion_dagster.catalog import report
from ingestion_dagster.catalog.task_requests import is_index_name
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine import logs
from ingestion_dagster.engine.alert import Alert, mail_subject, slack_text
from ingestion_dagster.engine.errors import ConfigurationError, Problem
from ingestion_dagster.engine.figures import Figure

PACKAGE = Path(ingestion_dagster.__file__).parent
HOSTILE = (
    'a"} 1\ningestion_loads{status="errored"} 99\n',
    "a\r\nBcc: everybody@example.invalid\r\n\r\n",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202egpj\u2028x",
    'a\\"b\\',
    "<https://evil.example|Dagster>",
    "<!channel>",
    "<script>alert(1)</script>",
    "'; DROP TABLE ledger.loads; --",
    '"; --',
    "%s%n%(password)s{0.__class__}",
)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_label_adds_a_figure(text: str) -> None:
    body = metrics.exposition([Figure("loads", "Loads.", ("dataset",), [((text,), 1.0)])]).decode()
    told = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    assert [(sample.name, sample.value) for sample in told] == [("ingestion_loads", 1.0), ("ingestion_rows_left_out", 0.0)]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_name_adds_a_line_to_a_log(text: str, form: logs.Format) -> None:
    record = logging.LogRecord("ingestion_dagster.x", logging.WARNING, "x.py", 1, "no table for %s", (text,), None)
    line = logs.formatter(form, logs.DATED).format(record)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", line)
    if form == "json":
        assert json.loads(line)["message"] == f"no table for {text}"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_adds_a_header_or_a_mention_to_an_alert(text: str) -> None:
    alert = Alert("key", "production", "metrics", f"something about {text}", details=(text,))
    assert mail_subject(alert).isprintable()
    assert not re.search("<(?!https://ours)", slack_text(alert))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_in_a_problem_moves_a_cursor(text: str) -> None:
    problem = Problem("missing_header", text, f"the file has {text!s}")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", problem.place + problem.message)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_of_a_table_or_an_index_can_end_a_statement(text: str) -> None:
    entry = json.dumps({"tables": [{"name": text, "prefix": "cubic/dmap/a/", "kind": "dmap"}]})
    with pytest.raises(ConfigurationError):
        parse_registry(entry)
    assert not is_index_name(text)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_provider_of_upstream_adds_a_link_or_a_row_to_the_report(text: str) -> None:
    counts = {"tables": {"image": {"rows": 5, "by_provider": {text: 5, "[a](https://evil.example)|![b](c)": 1}}}}
    made = report.markdown("image", "a", counts)
    assert "](" not in made
    assert "<" not in made
    assert len({line.replace("\\|", "").count("|") for line in made.splitlines() if line.startswith("|")}) == 1


def test_markdown_on_the_pages_of_dagster_is_made_in_two_places() -> None:
    made = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "MetadataValue.md(" in path.read_text(encoding="utf-8")
    }
    assert made == {"catalog/asset_metadata.py", "metrics/assets.py"}, "see that a name of a file cannot become a link there, then add it"

"""Advisories: both locks of production are asked about, and one that is accepted is so for a reason and until a day."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def audited(tmp_path: Path, accepted: str, answer: int = 0) -> tuple[int, list[str], str]:
    """The exit code of the audit, what the advisory service's client was called with, and what people were told."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "audit.sh").write_text((ROOT / "tools" / "audit.sh").read_text())
    (tmp_path / "tools" / "advisories.txt").write_text(accepted)
    client = tmp_path / "client"
    client.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\nexit {answer}\n')
    client.chmod(0o755)
    command = ["sh", str(tmp_path / "tools" / "audit.sh")]
    done = subprocess.run(command, env=os.environ | {"AUDIT": str(client)}, capture_output=True, text=True, check=False)
    asked = tmp_path / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.exists() else [], done.stderr


def test_both_locks_are_asked_about_strictly(tmp_path: Path) -> None:
    code, asked, _ = audited(tmp_path, "# a comment\n\nGHSA-1 2999-01-01 never called\n")
    assert code == 0
    assert [line.split()[1] for line in asked] == ["requirements-prod-ingestion.txt", "requirements-prod-webserver.txt"]
    assert all({"--strict", "--require-hashes", "--ignore-vuln=GHSA-1"} <= set(line.split()) for line in asked)
    assert all((ROOT / line.split()[1]).exists() for line in asked)


def test_a_finding_fails_and_the_other_lock_is_asked_about_all_the_same(tmp_path: Path) -> None:
    code, asked, _ = audited(tmp_path, "", answer=1)
    assert (code, len(asked)) == (1, 2)


@pytest.mark.parametrize("line", ["GHSA-1 2020-01-01 never called", "GHSA-1", "GHSA-1 2999-01-01", "GHSA-1 soon never called"])
def test_what_is_accepted_needs_a_day_to_come_and_a_reason(tmp_path: Path, line: str) -> None:
    code, asked, told = audited(tmp_path, line)
    assert (code, asked) == (1, [])
    assert "GHSA-1" in told


def test_what_is_accepted_now_is_in_order_and_ci_asks_each_week(tmp_path: Path) -> None:
    assert audited(tmp_path, (ROOT / "tools" / "advisories.txt").read_text())[0] == 0
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "sh tools/audit.sh" in workflow
    assert "cron:" in workflow

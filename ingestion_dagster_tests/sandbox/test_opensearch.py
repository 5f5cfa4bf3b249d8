"""Starting and stopping OpenSearch: once for each home, whatever was left behind, and nobody else's process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.stand_ins import address_file
from ingestion_dagster.sandbox import opensearch, opensearch_jars, opensearch_node
from ingestion_dagster_tests.sandbox.searching import Search

STARTING = "import sys; from pathlib import Path; from ingestion_dagster.sandbox import opensearch as o"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "a home"
    opensearch.stop(tmp_path / "a home")


def is_gone(pid: int) -> bool:
    """Whether the process ends, or is waited for by nobody but its parent."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            if b"OpenSearchRunner" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def is_closed(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0


def test_it_answers_once_started_is_attached_to_and_stopped_with_all_its_processes(home: Path):
    assert opensearch.url(home) is None
    assert opensearch.stop(home) is False
    assert not home.exists()
    started = opensearch.start(home, owned=True)
    keeper = json.loads(address_file(home, opensearch.NAME).read_text())["keeper"]
    assert started.url.startswith("http://127.0.0.1:")
    assert opensearch.url(home) == started.url
    answer = Search(started.url).get("/")
    assert answer["version"]["distribution"] == "opensearch"
    assert answer["version"]["number"].startswith("2.19.")
    assert os.getsid(started.pid) == started.pid
    assert opensearch.start(home) == started
    assert opensearch.stop(home) is True
    for pid in (started.pid, keeper):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert is_closed(started.url)
    assert opensearch.url(home) is None
    assert opensearch.stop(home) is False


def test_two_homes_have_a_node_each_on_loopback_that_knows_nothing_of_the_other(tmp_path: Path):
    homes = [tmp_path / "one", tmp_path / "two"]
    try:
        first, second = (opensearch.start(home) for home in homes)
        Search(first.url).put("/mine", {})
        assert Search(second.url).status("GET", "/mine") == 404
        (node,) = Search(second.url).get("/_nodes/http,transport")["nodes"].values()
        bound = [*node["http"]["bound_address"], *node["transport"]["bound_address"]]
        assert [address.split(":")[0] for address in bound] == ["127.0.0.1", "127.0.0.1"]
    finally:
        assert [opensearch.stop(home) for home in homes] == [True, True]


def test_two_processes_that_start_it_at_once_share_one_that_outlives_them(home: Path):
    code = f"{STARTING}; s = o.start(Path(sys.argv[1])); print(s.url, s.pid)"
    both = [subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=110)[0] for process in both)
    assert first == second != ""
    assert opensearch.url(home) == first.split()[0]
    assert Search(first.split()[0]).get("/_cluster/health")["status"] == "green"
    assert opensearch.stop(home) is True
    assert is_gone(int(first.split()[1]))


def test_one_that_was_killed_or_left_by_a_killed_starter_is_started_anew_with_all_it_was_given(home: Path):
    killed = opensearch.start(home)
    Search(killed.url).put("/kept", {"mappings": {"_meta": {"refresh": "x"}}})
    Search(killed.url).put("/kept/_doc/1", {"title": "a title"})
    os.kill(killed.pid, signal.SIGKILL)
    os.waitpid(killed.pid, 0)
    assert opensearch.url(home) is None
    left = opensearch.start(home)
    assert left.pid != killed.pid
    # As it is on record until it answers.
    file = address_file(home, opensearch.NAME)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"url": ""}))
    assert opensearch.url(home) is None
    started = opensearch.start(home)
    assert started.pid != left.pid
    assert is_gone(left.pid)
    Search(started.url).get("/_cluster/health/kept?wait_for_status=yellow&timeout=30s")
    assert Search(started.url).get("/kept/_doc/1")["_source"] == {"title": "a title"}


def test_an_owned_one_ends_with_its_owner_however_that_ends(home: Path):
    code = f"{STARTING}; import time; s = o.start(Path(sys.argv[1]), owned=True); print(s.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not is_closed(opensearch.url(home) or "")
        owner.kill()
        owner.wait()
    assert is_gone(pid)
    assert opensearch.url(home) is None


def test_it_runs_as_root_and_as_a_normal_user(home: Path):
    other_kind = ["--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else ["--map-root-user"]
    code = f"{STARTING}; import os; s = o.start(Path(sys.argv[1])); print(os.geteuid(), s.url)"
    run = subprocess.run(
        ["unshare", "-U", *other_kind, sys.executable, "-c", code, str(home)], capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 0, run.stderr
    user, url = run.stdout.split()
    assert (user == "0") is (os.geteuid() != 0)
    assert Search(url).get("/_cluster/health")["status"] == "green"


def test_another_process_that_has_been_given_the_id_is_left_alone(home: Path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        try:
            file = address_file(home, opensearch.NAME)
            file.parent.mkdir(parents=True)
            file.write_text(
                json.dumps({"pid": bystander.pid, "url": "http://127.0.0.1:9", "token": "a word of nobody's", "keeper": bystander.pid})
            )
            assert opensearch.url(home) is None
            assert opensearch.stop(home) is False
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_one_that_cannot_start_is_told_of_with_the_end_of_its_log(home: Path):
    with pytest.raises(ConfigurationError, match=r"did not start(?s:.)*opensearch/log(?s:.)*heap size"):
        opensearch.start(home, heap_mb=8)
    assert opensearch.url(home) is None


def test_a_damaged_class_archive_costs_one_slow_start(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damaged = tmp_path / "classes.jsa"
    damaged.write_bytes(opensearch._class_archive(opensearch_jars.folder()).read_bytes()[:20_000_000])
    monkeypatch.setattr(opensearch_node, "class_archive", lambda jars: damaged)
    assert Search(opensearch.start(home).url).get("/_cluster/health")["status"] == "green"
    assert not damaged.exists()


def test_without_java_it_says_what_to_install(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigurationError, match="no java command: install both Java and Maven"):
        opensearch.start(home)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(ConfigurationError, match=r"no java command in JAVA_HOME \(.*jdk\)"):
        opensearch.start(home)
    assert not (home / "opensearch").exists()


def test_options_of_other_programs_on_java_and_our_settings_do_not_reach_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-javaagent:/nowhere/agent.jar")
    monkeypatch.setenv("INGESTION_API_TOKEN", "a word of ours")
    assert {"JAVA_TOOL_OPTIONS", "INGESTION_API_TOKEN"} & set(opensearch_node.environment()) == set()
    assert "PATH" in opensearch_node.environment()

"""What follows a promotion is done once, and fails none."""

import socket
import threading

import pytest

from ingestion_dagster.catalog import hooks, refreshes, steps
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, Scene
from ingestion_dagster_tests.catalog.scenes import FakePlaces


@pytest.fixture
def scene(places: Places, ledger: Connection) -> Scene:
    return Scene(places, ledger)


@pytest.mark.parametrize("is_told", [False, True])
def test_what_follows_a_promotion_is_done_by_whoever_finds_it_undone(
    scene: Scene, places: Places, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """Killed after the swap had ended, or after all had been told."""
    told: list[str] = []

    def drop_caches(*_arguments: object) -> str:
        told.append("caches")
        return "told"

    monkeypatch.setattr(hooks, "drop_caches", drop_caches)
    monkeypatch.setattr(steps.Work, "tell", lambda _self, moment: told.append(moment))
    faked = FakePlaces(places.settings, places.ledger, places.upstream, places.api, scene.engine)
    refresh = scene.stage("new", range(1, 6))
    counts = {"gates": {}, "fill": {"terms": "f"}, "tables": {"image": {"rows": 5, "deleted": 0, "bytes": 1}}}
    refreshes.note(scene.ledger, refresh, counts | ({"caches": "told", "told": True} if is_told else {}))
    scene.promote(refresh)
    done = steps.promote(steps.Work(faked, scene.ledger, IMAGE, "new", "another", Limits()))
    assert (told, done.counts["caches"]) == ([] if is_told else ["caches", "end"], "told")
    steps.promote(steps.Work(faked, scene.ledger, IMAGE, "new", "third", Limits()))
    assert len(told) == (0 if is_told else 2)


def test_an_api_that_answers_no_http_fails_no_promotion() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(hooks.ATTEMPTS):
                asked, _address = server.accept()
                with asked:
                    asked.recv(1000)
                    asked.sendall(b"this is no HTTP\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert hooks.drop_caches(f"http://127.0.0.1:{server.getsockname()[1]}/", "image", "new", sleep=lambda _seconds: None) == "failed"
        thread.join(10)

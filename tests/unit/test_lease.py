"""One writer a lake: refusal, expiry of the dead, loss, and a race for a dead holder's lake."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from alerce_spark.lease import Lease, LeaseHeld, LeaseLost


def _silent_since(lake: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(lake / "_lease.json", (past, past))


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "the stream"):
        with (
            pytest.raises(LeaseHeld, match=f"the stream.*process {os.getpid()}.*--through-stream"),
            Lease(str(tmp_path), "an import"),
        ):
            pass
    with Lease(str(tmp_path), "an import"):
        assert json.loads((tmp_path / "_lease.json").read_text())["holder"] == "an import"
    assert not list(tmp_path.iterdir())


def test_a_dead_holder_is_replaced_and_learns_it_when_it_wakes(tmp_path: Path) -> None:
    sleeper = Lease(str(tmp_path), "asleep", timeout=300)
    with sleeper:
        sleeper.check()
        _silent_since(tmp_path, 301)
        with Lease(str(tmp_path), "awake", timeout=300) as other:
            other.check()
            with pytest.raises(LeaseLost):
                sleeper.check()
    assert not list(tmp_path.iterdir())


def test_the_heartbeat_keeps_a_lease(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "alive", timeout=0.6):
        _silent_since(tmp_path, 5)
        time.sleep(0.3)
        with pytest.raises(LeaseHeld), Lease(str(tmp_path), "other", timeout=0.6):
            pass


def test_an_unreadable_lease_file_expires_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "_lease.json").write_text("{")
    with pytest.raises(LeaseHeld), Lease(str(tmp_path), "me", timeout=60):
        pass
    _silent_since(tmp_path, 61)
    with Lease(str(tmp_path), "me", timeout=60) as mine:
        mine.check()


def test_of_many_takers_of_a_dead_lease_one_wins(tmp_path: Path) -> None:
    for _ in range(20):
        (tmp_path / "_lease.json").write_text(json.dumps({"token": "dead"}))
        _silent_since(tmp_path, 301)
        holding, most = [0], [0]
        start, guard = threading.Barrier(8), threading.Lock()

        def take(holding: list[int] = holding, most: list[int] = most, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                with Lease(str(tmp_path), "taker", timeout=300) as lease:
                    time.sleep(0.01)
                    lease.check()
                    with guard:
                        holding[0] += 1
                        most[0] = max(most[0], holding[0])
                    time.sleep(0.02)
                    with guard:
                        holding[0] -= 1
            except (LeaseHeld, LeaseLost):
                pass

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == 1


def test_a_lake_that_is_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeaseHeld, match="shared file system"):
        Lease("s3a://bucket/lake", "me")

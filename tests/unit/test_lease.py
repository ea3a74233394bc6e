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


def _refused(lake: Path, timeout: float = 60.0) -> str:
    with pytest.raises(LeaseHeld) as error, Lease(str(lake), "somebody else", timeout):
        pass
    return str(error.value)


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "the stream"):
        message = _refused(tmp_path)
        for part in ("the stream", f"process {os.getpid()}", "--through-stream"):
            assert part in message
    with Lease(str(tmp_path), "an import"):
        assert json.loads((tmp_path / "_lease.json").read_text())["holder"] == "an import"
    assert not (tmp_path / "_lease.json").exists()


def test_a_dead_holder_is_replaced_and_learns_it_when_it_wakes(tmp_path: Path) -> None:
    sleeper = Lease(str(tmp_path), "asleep", timeout=300)
    with sleeper:
        sleeper.check()
        _silent_since(tmp_path, 301)
        with Lease(str(tmp_path), "awake", timeout=300) as other:
            other.check()
            with pytest.raises(LeaseLost):
                sleeper.check()
    assert not (tmp_path / "_lease.json").exists()


def test_the_heartbeat_keeps_a_lease(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "alive", timeout=0.6):
        _silent_since(tmp_path, 5)
        time.sleep(0.3)
        _refused(tmp_path, timeout=0.6)


def test_an_unreadable_lease_file_expires_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "_lease.json").write_text("{")
    _refused(tmp_path)
    _silent_since(tmp_path, 61)
    with Lease(str(tmp_path), "me", timeout=60) as mine:
        mine.check()


def test_of_many_takers_of_a_dead_lease_one_wins(tmp_path: Path) -> None:
    takers = 8
    for _ in range(20):
        (tmp_path / "_lease.json").write_text(json.dumps({"token": "dead"}))
        _silent_since(tmp_path, 301)
        assert _race(tmp_path, takers) == 1


def _race(lake: Path, takers: int) -> int:
    """How many of `takers` that start together get the lease, which nobody gives back before all have tried."""
    start, tried = threading.Barrier(takers), threading.Barrier(takers)
    won: list[int] = []

    def take(number: int) -> None:
        start.wait()
        try:
            with Lease(str(lake), "taker", timeout=300) as lease:
                tried.wait()
                lease.check()
                won.append(number)
        except LeaseHeld:
            tried.wait()

    threads = [threading.Thread(target=take, args=(i,)) for i in range(takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


def test_a_lake_that_is_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeaseHeld, match="shared file system"):
        Lease("s3a://bucket/lake", "me")

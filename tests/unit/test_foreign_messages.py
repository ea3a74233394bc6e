"""Messages that are not ours on the topics of our results: each is refused with a reason, the others are stored."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import fastavro
import pytest

from alerce_spark.kafka import records
from tests.unit.alert_packets import long_bytes
from tests.unit.foreign_messages import CAME, GOOD, SCHEMA, TOPIC, altered, curve, error, judged, more, stamp, written

MUTANTS = 1500
#: Numbers that a damaged count, length or branch may say.
NUMBERS = [long_bytes(n) for n in (-1, 0, 7, 2**31, 2**40, 2**62, -(2**63))] + [b"\xff" * 11]


def test_a_message_that_is_not_ours_costs_little_and_stops_nothing() -> None:
    # In a separate process: some of them made the library crash or run without end.
    command = [sys.executable, "-m", "tests.unit.foreign_messages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, f"{done.stdout[-500:]}{done.stderr[-3000:]}"
    *outcomes, memory = (json.loads(line) for line in done.stdout.splitlines())
    assert len(outcomes) > 90
    for one in outcomes:
        assert [offset for offset, reason in one["refused"] if reason] == [1], one["name"]
        assert one["rows"] == {"features": 2, "probabilities": 2}, one["name"]
    assert memory["kib"] < 200_000


def mutant(random_: random.Random, message: bytes) -> bytes:
    """Our message with bytes changed, left out or put in, at one to four places."""
    data = bytearray(message)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data))
        match random_.randrange(5):
            case 0:
                data[at] ^= 1 << random_.randrange(8)
            case 1:
                del data[at : at + random_.randint(1, 9)]
            case 2:
                data[at:at] = random_.choice(NUMBERS)
            case 3:
                data[at : at + 1] = random_.choice(NUMBERS)
            case 4:
                data[at:] = data[at : len(data) - random_.randint(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("kind", list(GOOD))
def test_of_any_damaged_message_there_are_rows_or_one_reason(kind: str) -> None:
    random_ = random.Random(kind)
    ours = SCHEMA[kind].encode(GOOD[kind]())
    damaged = [mutant(random_, ours) for _ in range(MUTANTS)]
    sent = [ours, *damaged, ours]
    found = judged([TOPIC[kind]] * len(sent), sent)
    refused = [row for row in found["refused"] if row["stage"] == "results"]
    assert all(row["reason"] and row["packet"] == sent[row["offset"]] for row in refused)
    offsets = {row["offset"] for row in refused}
    assert len(offsets) == len(refused) < MUTANTS
    assert not offsets & {0, len(sent) - 1}
    taken = [k for k in range(len(sent)) if k not in offsets]
    if kind == "error":
        assert len(found["refused"]) == len(refused) + len(taken)
        return
    rows = found["probabilities"]
    assert len(rows) == len(taken)
    for k, row in zip(taken, rows, strict=True):
        (theirs,) = fastavro.reader(io.BytesIO(sent[k]))
        assert isinstance(theirs, dict)
        about = [theirs.get("oid", theirs.get("objectId")), *(theirs[name] for name in ("candid", "mjd", "ra", "dec"))]
        assert [row["oid"], row["candid"], row["mjd"]] == about[:3]
        assert 0 <= about[3] < 360
        assert -90 <= about[4] <= 90


def test_messages_of_a_later_version_are_read() -> None:
    new = {"name": "lines", "type": {"type": "map", "values": {"type": "array", "items": ["null", "float"]}}}
    later = altered("curve", more(new))
    message = written("curve", curve() | {"lines": {"Ha": [1.0, None], "Hb": []}}, later)
    found, ours = (judged([TOPIC["curve"]], [m]) for m in (message, records.LIGHTCURVE.encode(curve())))
    assert found == ours
    assert records.LIGHTCURVE.decode(message) == curve() | {
        "lc_classification": records.LIGHTCURVE.decode(records.LIGHTCURVE.encode(curve()))["lc_classification"]
    }


def test_a_time_in_kafka_that_cannot_be_true_is_no_latency() -> None:
    message = records.STAMP.encode(stamp())
    true = int(CAME.timestamp() * 1000) + 2500
    times = [true, 317_000_000_000_000, -62_200_000_000_000]  # of the years 12015 and -2
    found = judged([TOPIC["stamp"]] * 3, [message] * 3, times)
    assert [row["seconds"] for row in found["latency"]] == [2.5]
    assert len(found["probabilities"]) == 3


def test_a_refused_packet_comes_to_the_quarantine_as_the_query_said() -> None:
    found = judged([TOPIC["error"]], [records.ERROR.encode(error())])
    assert found == {"refused": [error()]}


def test_a_largest_packet_has_room_in_a_message() -> None:
    packet = bytes(16 << 20)
    message = records.ERROR.encode(error() | {"packet": packet})
    assert records.ERROR.decode(message)["packet"] == packet
    with pytest.raises(records.MessageError, match="at most"):
        records.ERROR.decode(records.ERROR.encode(error() | {"packet": bytes(17 << 20)}))


def test_topics_name_their_schema() -> None:
    for kind, topic in TOPIC.items():
        assert records.schema_of(topic) is SCHEMA[kind]
    assert records.schema_of(records.STAMP_TOPIC) is records.STAMP
    with pytest.raises(records.MessageError, match="no topic of ours"):
        records.schema_of("stamp_classifier_2020")

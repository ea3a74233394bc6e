"""Irregularities of real packets: spellings, disorder, duplicates, sentinels, broken stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alerce_spark.simulation.packets import CODECS


@dataclass(frozen=True)
class Traits:
    """Irregularities of packets; shares lie between 0 and 1. `Traits.like_ztf()` has real rates.

    digits: entries (alerts and previous detections, each in each packet) whose isdiffpos is 1/0 instead of t/f, so the
    same detection occurs both ways. rounded_history: previous detections have six significant digits.
    null_history, unsorted: packets whose prv_candidates is null, or in random order.
    twins: detections that exist twice, with the same jd, fid and pid but another candid (both send alerts).
    repeated: packets with one history entry twice. late: packets whose history extends to the alert and beyond.
    bad_limits: upper limits with a diffmaglim of -999. edge_stamps, nan_stamps: packets whose stamps are not 63 x 63 or
    have NaN pixels. codecs: codec of the Avro container, one of them at random for each packet.
    """

    digits: float = 0.0
    rounded_history: bool = False
    null_history: float = 0.0
    unsorted: float = 0.0
    twins: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    bad_limits: float = 0.0
    edge_stamps: float = 0.0
    nan_stamps: float = 0.0
    codecs: Sequence[str] = ("null",)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1; got {value}")
        if not self.codecs or set(self.codecs) - set(CODECS):
            raise ValueError(f"codecs must be some of {', '.join(CODECS)}; got {self.codecs}")

    @classmethod
    def like_ztf(cls) -> Traits:
        """Rates measured on real packets; rare ones (order, late points) are raised so that a night has some."""
        return cls(
            digits=0.04,
            rounded_history=True,
            null_history=0.005,
            unsorted=0.01,
            twins=0.004,
            repeated=0.01,
            late=0.01,
            bad_limits=0.002,
            edge_stamps=0.01,
            nan_stamps=0.13,
        )


#: Packets without any trait.
PLAIN = Traits()

"""How the speed of a run changes with the number of nodes: its timings, and what they say together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reports.findings.scaling_laws import LAWS, Fit, ScalingMode, fit
from reports.stats import Estimate, compare_pairs, mean_interval
from suite.errors import UserError
from suite.record import RankTimes, Record, read_rank_times

# The parts of a step by the metric that has each part's share.
PARTS = {
    "compute_share": "computing",
    "communication_share": "exposed communication",
    "data_wait_share": "waiting for data",
}
_NUMBERS = ("images_per_s", "step_time_p50_ms", "step_time_drift", "epoch_end_time_s", *PARTS)
STEADY = 0.05
"""The later half of a cell's timed steps may take so much more or less time than the earlier half."""


@dataclass(frozen=True)
class Timing:
    """One cell: a run on so many nodes, once. `values`: its metrics, empty unless it completed.

    `places`: the nodes that it ran on, in Slurm's notation; empty if that is not known.
    """

    nodes: int
    repeat: int
    folder: Path
    state: str
    reason: str = ""
    ranks: int = 0
    values: dict[str, float] | None = None
    rank_times: RankTimes | None = None
    places: str = ""

    @property
    def images_per_s(self) -> float | None:
        return (self.values or {}).get("images_per_s")

    @property
    def is_timed(self) -> bool:
        return self.images_per_s is not None

    @property
    def drift(self) -> float:
        """By how much steps became slower meanwhile, as a share; negative if faster; 0 if not known."""
        return (self.values or {}).get("step_time_drift", 1.0) - 1


def read_timing(nodes: int, repeat: int, folder: Path, waits: str = "") -> Timing:
    """Read a cell's run folder. One that is damaged is shown as failed, one that is missing as such.

    `waits`: why it was not submitted or does not start, where that is known.
    """
    if not (folder / "run.json").exists():
        return Timing(nodes, repeat, folder, "not submitted", waits)
    try:
        record = Record.read(folder)
        times = read_rank_times(record.paths)
    except UserError as error:
        return Timing(nodes, repeat, folder, "failed", str(error))
    ranks = record.status.get("world_size") or 0
    values = None
    reason = record.reason or waits
    if record.state == "completed":
        found = {name: record.last(name, "train") for name in _NUMBERS}
        values = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
        if "images_per_s" not in values:
            reason = "it has timed no step: it needs more steps than measure.warmup_steps"
    places = str(record.status.get("nodes") or "")
    return Timing(nodes, repeat, folder, record.state, reason, ranks, values, times, places)


@dataclass(frozen=True)
class Point:
    """All timings on so many nodes. `speedup` and `efficiency` are against the fewest nodes.

    `speed` (images/s) is None where no cell completed.
    """

    nodes: int
    timings: Sequence[Timing]
    speed: Estimate | None
    speedup: Estimate | None
    efficiency: Estimate | None
    ideal_images_per_s: float | None

    @property
    def ranks(self) -> int:
        return max((one.ranks for one in self.timings), default=0)

    @property
    def timed(self) -> list[Timing]:
        return [one for one in self.timings if one.is_timed]

    @property
    def only_place(self) -> str:
        """The nodes that all of several repeats ran on; empty if they differ or are not known."""
        places = {one.places for one in self.timed}
        return places.pop() if len(places) == 1 and len(self.timed) > 1 else ""

    def mean(self, metric: str) -> float:
        """The mean of a metric over the timings; NaN where none has it."""
        found = [one.values[metric] for one in self.timed if one.values and metric in one.values]
        return math.fsum(found) / len(found) if found else math.nan


@dataclass(frozen=True)
class Scaling:
    """The timings of one run on several numbers of nodes."""

    title: str
    mode: ScalingMode
    timings: Sequence[Timing]

    @cached_property
    def points(self) -> list[Point]:
        """One for each number of nodes, fewest first, whether or not a cell completed there."""
        counts = sorted({one.nodes for one in self.timings})
        base = next((n for n in counts if any(t.is_timed for t in self._on(n))), None)
        return [self._point(n, base) for n in counts]

    def _on(self, nodes: int) -> list[Timing]:
        return sorted((one for one in self.timings if one.nodes == nodes), key=lambda one: one.repeat)

    def _point(self, nodes: int, base: int | None) -> Point:
        own = self._on(nodes)
        speeds = {one.repeat: one.images_per_s for one in own if one.images_per_s is not None}
        speed = mean_interval(speeds.values())
        if base is None or speed is None:
            return Point(nodes, own, speed, None, None, None)
        of_base = {one.repeat: one.images_per_s for one in self._on(base) if one.images_per_s is not None}
        if nodes == base:
            one = Estimate(1.0, None, None, speed.n)
            return Point(nodes, own, speed, one, one, speed.mean)
        growth = nodes / base
        # Repeats follow one another in time: those of one number are pairs. Without pairs the means compare.
        shared = sorted(speeds.keys() & of_base.keys())
        pairs = [(speeds[r], of_base[r]) for r in shared] or [(speed.mean, _mean(of_base.values()))]
        speedup = compare_pairs([a for a, _ in pairs], [b for _, b in pairs], ratio=True).estimate
        efficiency = None if speedup is None else _scaled(speedup, 1 / growth)
        return Point(nodes, own, speed, speedup, efficiency, _mean(of_base.values()) * growth)

    @property
    def timed(self) -> list[Point]:
        """The points with a completed cell, fewest nodes first."""
        return [point for point in self.points if point.speed is not None]

    @property
    def unfinished(self) -> list[Timing]:
        """The cells without a time, whether they failed or have not ended."""
        return [one for one in self.timings if not one.is_timed]

    @property
    def untimed(self) -> list[int]:
        """The numbers of nodes without a completed cell."""
        return [point.nodes for point in self.points if point.speed is None]

    @property
    def unsteady(self) -> list[Timing]:
        """The timings whose steps became faster or slower meanwhile, so that their mean depends on when."""
        return [one for one in self.timings if one.is_timed and abs(one.drift) > STEADY]

    @cached_property
    def fit(self) -> Fit | None:
        """The mode's law through all timings; None below two numbers of nodes."""
        return fit(LAWS[self.mode], [(t.nodes, t.images_per_s) for t in self.timings if t.images_per_s])

    @cached_property
    def prediction(self) -> Estimate | None:
        """Images/s at `next_nodes` by the fit, with an interval over the fits of single repeats."""
        if self.fit is None:
            return None
        repeats: dict[int, list[tuple[int, float]]] = {}
        for one in self.timings:
            if one.images_per_s:
                repeats.setdefault(one.repeat, []).append((one.nodes, one.images_per_s))
        fits = [fit(LAWS[self.mode], values) for values in repeats.values()]
        predicted = mean_interval(one.images_per_s(self.next_nodes) for one in fits if one is not None)
        return predicted or Estimate(self.fit.images_per_s(self.next_nodes), None, None, 1)

    @property
    def next_nodes(self) -> int:
        """Twice the most nodes that were timed."""
        return 2 * self.timed[-1].nodes


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = (None if bound is None else bound * factor for bound in (estimate.low, estimate.high))
    return Estimate(estimate.mean * factor, low, high, estimate.n)

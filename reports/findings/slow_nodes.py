"""Which nodes are slower than the others of their runs, by the time that their ranks work for themselves.

A step takes equally long on all ranks, because they wait for the slowest one. What tells them apart is how
long each works before it waits: see `suite.record.RankTimes`.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from suite.record import RankTimes

SLOW = 1.10
"""A node whose ranks work so many times as long as those of the other nodes is called slow."""


@dataclass(frozen=True)
class SlowRank:
    """The rank of a run that works longest, and how many times as long as the others' median."""

    rank: int
    node: str
    ratio: float


@dataclass(frozen=True)
class SlowNode:
    """A node that is slow in the geometric mean over `runs` runs. `waits`: mostly because of its data."""

    node: str
    ratio: float
    runs: int
    waits: bool


def slowest_rank(times: RankTimes) -> SlowRank | None:
    """Return the rank that works longest; None for a single one."""
    work_ms = times.work_ms
    if len(work_ms) < 2:
        return None
    rank = max(range(len(work_ms)), key=work_ms.__getitem__)
    others = statistics.median(work_ms[:rank] + work_ms[rank + 1 :])
    return SlowRank(rank, times.nodes[rank], work_ms[rank] / others if others > 0 else math.nan)


def slow_nodes(runs: Iterable[RankTimes]) -> list[SlowNode]:
    """Return the slow nodes of all runs on several nodes, the slowest first."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for times in runs:
        for node, seen in _beside_others(times).items():
            found.setdefault(node, []).append(seen)
    nodes = []
    for node, times_seen in found.items():
        ratio = math.exp(math.fsum(math.log(ratio) for ratio, _ in times_seen) / len(times_seen))
        waits = 2 * sum(waits for _, waits in times_seen) > len(times_seen)
        nodes.append(SlowNode(node, ratio, len(times_seen), waits))
    return sorted((one for one in nodes if one.ratio >= SLOW), key=lambda one: -one.ratio)


def _beside_others(times: RankTimes) -> dict[str, tuple[float, bool]]:
    """Return each node's work over the median of the others', and whether its data are most of the excess."""
    work_ms, data_ms = (_by_node(times, values) for values in (times.work_ms, times.data_wait_ms))
    if len(work_ms) < 2 or min(work_ms.values()) <= 0:
        return {}
    found = {}
    for node, own_ms in work_ms.items():
        usual_ms, usual_data_ms = (
            statistics.median(value for other, value in values.items() if other != node)
            for values in (work_ms, data_ms)
        )
        found[node] = own_ms / usual_ms, 2 * (data_ms[node] - usual_data_ms) > own_ms - usual_ms
    return found


def _by_node(times: RankTimes, values_ms: list[float]) -> dict[str, float]:
    ranks: dict[str, list[float]] = {}
    for node, value in zip(times.nodes, values_ms, strict=True):
        ranks.setdefault(node, []).append(value)
    return {node: statistics.fmean(own) for node, own in ranks.items()}

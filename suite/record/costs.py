"""What a run took of its cluster, from what its status says."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Over all attempts of a run, whatever became of it."""

    rank_s: float
    """Time × ranks: GPU-seconds where a rank has a GPU. A run under way is counted up to its last word."""
    restarts: int
    lost_steps: int
    """Steps done again, since the checkpoint that an attempt resumed from was older."""
    queue_wait_s: float | None
    """Waits that have ended; None when no scheduler has started the run."""


def costs_of(status: dict[str, Any]) -> Costs:
    """The costs that the content of a status.json tells. Raises TypeError or ValueError for a foreign one."""
    wait_s = status.get("queue_wait_s")
    return Costs(
        rank_s=float(status.get("rank_s", 0.0)) + attempt_rank_s(status),
        restarts=max(0, int(status.get("attempts", 0)) - 1),
        lost_steps=int(status.get("lost_steps", 0)),
        queue_wait_s=None if wait_s is None else float(wait_s),
    )


def attempt_rank_s(status: dict[str, Any]) -> float:
    """Time × ranks of the newest attempt, up to its last word; 0 before one has begun."""
    started_at = status.get("started_at")
    if started_at is None:
        return 0.0
    duration_s = max(0.0, status.get("updated_at", started_at) - started_at)
    return float(duration_s * (status.get("world_size") or 1))

"""What a run cost, from its status."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Sums over all attempts of a run, however they ended.

    `rank_s`: time × ranks, up to the last status of a run in progress. `lost_steps` were repeated, because an
    attempt resumed from an older checkpoint. `queue_wait_s` is None when no scheduler has started the run.
    """

    rank_s: float
    restarts: int
    lost_steps: int
    queue_wait_s: float | None


def costs_of(status: dict[str, Any]) -> Costs:
    """Return the costs from a status.json's content. Raises TypeError or ValueError if it is malformed."""
    wait_s = status.get("queue_wait_s")
    return Costs(
        rank_s=float(status.get("rank_s", 0.0)) + attempt_rank_s(status),
        restarts=max(0, int(status.get("attempts", 0)) - 1),
        lost_steps=int(status.get("lost_steps", 0)),
        queue_wait_s=None if wait_s is None else float(wait_s),
    )


def attempt_rank_s(status: dict[str, Any]) -> float:
    """Return time × ranks of the newest attempt, up to its last status; 0 before the first one."""
    started_at = status.get("started_at")
    if started_at is None:
        return 0.0
    duration_s = max(0.0, status.get("updated_at", started_at) - started_at)
    return float(duration_s * (status.get("world_size") or 1))

"""A request that a run end: of a study whose scheduler has judged it, or that is stopped itself.

It lies in the run's folder, so it is heard on any machine and outlives whoever made it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from suite.files import read_json, write_atomically
from suite.paths import RunPaths


@dataclass(frozen=True)
class StopRequest:
    """`stopped`: for good, by `by`, on what was measured at `epoch`; `preempted`: to be resumed."""

    state: Literal["stopped", "preempted"]
    reason: str
    by: str
    epoch: int | None = None


def ask_to_stop(paths: RunPaths, request: StopRequest) -> None:
    """Have a run write a checkpoint and end, within seconds. A request that is there already stands."""
    if read_request(paths) is None:
        write_atomically(paths.stop, json.dumps(asdict(request), indent=1) + "\n")


def read_request(paths: RunPaths) -> StopRequest | None:
    """The request that stands, or None."""
    content = read_json(paths.stop)
    return StopRequest(**content) if isinstance(content, dict) else None


def forget_request(paths: RunPaths) -> None:
    """Whoever starts a run on purpose wants it to go on."""
    paths.stop.unlink(missing_ok=True)

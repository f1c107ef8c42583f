"""A request that a run stop, by a study or a user, as a file in the run's folder.

A file reaches the run on any machine, and outlives the process that wrote it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from suite.files import read_json, write_atomically
from suite.paths import RunPaths
from suite.record.shapes import COUNT, TEXT, fault_in, known, one_of

_SHAPES = {
    "state": one_of("stopped", "preempted", "cancelled").required(),
    "reason": TEXT.required(),
    "by": TEXT.required(),
    "epoch": COUNT.or_null(),
}


@dataclass(frozen=True)
class StopRequest:
    """`stopped` ends the run for good, by `by` after `epoch`; one that is `preempted` may be resumed.

    One that is `cancelled` is so by a user, who may retry it.
    """

    state: Literal["stopped", "preempted", "cancelled"]
    reason: str
    by: str
    epoch: int | None = None


def request_stop(paths: RunPaths, request: StopRequest) -> None:
    """Ask a run to write a checkpoint and end within seconds. Does not replace an earlier request."""
    if read_stop_request(paths) is None:
        write_atomically(paths.stop, json.dumps(asdict(request), indent=1) + "\n")


def read_stop_request(paths: RunPaths) -> StopRequest | None:
    """Return the pending request, or None; one that cannot be read asks for nothing."""
    try:
        content = read_json(paths.stop)
    except OSError:
        return None
    return None if fault_in(content, _SHAPES) else StopRequest(**known(content, _SHAPES))


def clear_stop_request(paths: RunPaths) -> None:
    """Delete the request, as when a user starts the run again."""
    paths.stop.unlink(missing_ok=True)

"""What ranks that wait in vain leave behind: dumps as torch's flight recorder writes them, and words."""

import json
import pickle
import time
from collections.abc import Mapping, Sequence
from typing import Any

from suite.paths import RunPaths
from suite.record.hang import Stall

# As torch 2.15 names them: a group, and its ranks.
GROUP, ALL = "0", "[0, 1, 2, 3]"


def dump(
    entered: Sequence[str], *, pending: int = 0, ranks: str = ALL, group: str = GROUP, start_ns: int = 1000
) -> dict[str, Any]:
    """A rank's dump: the collectives that it has entered, of which the last `pending` have not ended."""
    entries = [
        {
            "record_id": number - 1,
            "pg_id": 0,
            "process_group": (group, "default_pg"),
            "collective_seq_id": number,
            "p2p_seq_id": 0,
            "op_id": number,
            "profiling_name": f"nccl:{name}",
            "time_created_ns": start_ns + number,
            "input_sizes": [[9801523]],
            "input_dtypes": ["Float"],
            "output_sizes": [[9801523]],
            "output_dtypes": ["Float"],
            "state": "completed" if number <= len(entered) - pending else "started",
            "time_discovered_started_ns": None,
            "time_discovered_completed_ns": None,
            "retired": number <= len(entered) - pending,
            "timeout_ms": 600000,
            "is_p2p": False,
        }
        for number, name in enumerate(entered, 1)
    ]
    config = {group: {"name": group, "desc": "default_pg", "ranks": ranks}}
    return {"version": "2.10", "pg_config": config, "pg_status": {}, "entries": entries}


def leave(
    paths: RunPaths,
    nodes: Sequence[str],
    dumps: Mapping[int, Any],
    steps: Mapping[int, int] | None = None,
    backend: str = "nccl",
) -> None:
    """Write what ranks leave: their dumps, and for those in `steps` where they were."""
    paths.flight.mkdir(parents=True, exist_ok=True)
    paths.rank_nodes.write_text(json.dumps(list(nodes)))
    for rank, content in dumps.items():
        paths.trace(backend, rank).write_bytes(pickle.dumps(content, protocol=2))
    for rank, step in (steps or {}).items():
        stack = f'  File "loop.py", line {rank}, in advance\n'
        one = Stall(rank, nodes[rank], 2, step, "training", time.time(), 480.0, stack)
        paths.stall(rank).write_text(one.text())

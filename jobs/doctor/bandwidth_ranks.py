"""A rank that times all-reduces: `python -m jobs.doctor.bandwidth_ranks NODES RANKS_A_NODE`.

It reads torchrun's variables. All ranks make the same groups in the same order. The first rank of each node
prints what it timed.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from jobs.local.process_end import exit_with

MIB = 2**20
# By the device of the sums. gloo goes through the CPUs, which takes long.
SIZES_BYTES = {"cuda": (MIB, 16 * MIB, 128 * MIB, 1024 * MIB), "cpu": (MIB, 4 * MIB, 16 * MIB)}
WARM_UP, TIMED = 2, 6
TIMEOUT_S = 60.0  # of one all-reduce
MARK = "bandwidth "


def rounds(num_nodes: int) -> list[list[tuple[int, int]]]:
    """Return pairs of nodes, in rounds in which each node has at most one partner.

    The pairs are those of a ring, so that a node of three or more is paired with two others: a slow one is
    slow with both, and its partners are fast with their other one.
    """
    ring = [(i, (i + 1) % num_nodes) for i in range(num_nodes)] if num_nodes > 2 else []
    if num_nodes == 2:
        ring = [(0, 1)]
    last = [ring.pop()] if len(ring) > 1 and len(ring) % 2 else []
    return [pairs for pairs in (ring[::2], ring[1::2], last) if pairs]


def measure(num_nodes: int, per_node: int) -> list[dict[str, Any]]:
    """Time the ranks of each node, the pairs of nodes and all ranks. Returns this rank's timings."""
    import torch
    import torch.distributed as dist

    from suite.specs.process import SystemSpec
    from suite.train.distributed import joined

    with joined(SystemSpec(collective_timeout_s=TIMEOUT_S, torch_threads=1)) as ranks:
        names = ranks.nodes()
        node = ranks.rank // per_node

        def members(nodes: Sequence[int]) -> list[int]:
            return [one * per_node + local for one in nodes for local in range(per_node)]

        phases: list[tuple[str, list[tuple[int, ...]]]] = []
        if per_node > 1:
            phases.append(("node", [(one,) for one in range(num_nodes)]))
        phases += [("pair", list(pairs)) for pairs in rounds(num_nodes)]
        phases += [("all", [tuple(range(num_nodes))])] if num_nodes > 2 else []
        groups = [[(nodes, dist.new_group(members(nodes))) for nodes in parts] for _, parts in phases]
        found = []
        for (kind, _), parts in zip(phases, groups, strict=True):
            ranks.agree(0)  # so that a phase begins when the one before has ended everywhere
            for nodes, group in parts:
                if node in nodes:
                    times = _all_reduce_s(group, ranks.device, torch)
                    others = [names[one * per_node] for one in nodes if one != node]
                    found.append({"kind": kind, "with": others, "ranks": len(nodes) * per_node, "s": times})
        ranks.agree(0)
        backend = "NCCL" if ranks.device.type == "cuda" else "gloo"
    return [{**one, "backend": backend} for one in found]


def _all_reduce_s(group: Any, device: Any, torch: Any) -> dict[str, float]:
    """Return the seconds of an all-reduce by its bytes, as text: the best of TIMED ones.

    What other programs do meanwhile makes some of them slow, and none of them fast.
    """
    times_s = {}
    for size in SIZES_BYTES[device.type]:
        values = torch.zeros(size // 4, device=device)
        seen = []
        for number in range(WARM_UP + TIMED):
            began = time.perf_counter()
            torch.distributed.all_reduce(values, group=group)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM_UP:
                seen.append(time.perf_counter() - began)
        times_s[str(size)] = min(seen)
    return times_s


def main() -> None:
    """Measure, and print the timings of the first rank of a node on one line."""
    num_nodes, per_node = map(int, sys.argv[1:])
    found = measure(num_nodes, per_node)
    if int(os.environ["LOCAL_RANK"]) == 0:
        print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    exit_with(main)

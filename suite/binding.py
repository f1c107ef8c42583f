"""Binds a rank to the CPUs of the NUMA node that its GPU is attached to.

Threads inherit it: torch's, DALI's (whose own `set_affinity` stays off), and the torchvision loader's
processes. NCCL itself chooses the network card that is nearest to a rank's GPU, so nothing has to be set for
it. torch.numa does as much for torchrun's ranks, but needs the program numactl.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from suite.errors import UserError

VARIABLE = "SHIFTBENCH_BINDING"
"""The environment variable by which a cluster's file or a user chooses one of BINDINGS."""
BINDINGS = {
    "closest": "each rank with a GPU runs on the CPUs of its NUMA node, unless others would be idle",
    "none": "ranks run where the scheduler or the system puts them",
}
if TYPE_CHECKING:
    BindingName = str
else:
    BindingName = Literal[tuple(BINDINGS)]
SYS, THREADS = Path("/sys"), Path("/proc/self/task")


def bind(
    env: Mapping[str, str], gpus: Sequence[str], world_size: int, ranks_here: int, sys: Path = SYS
) -> str:
    """Bind this process as `env` asks for; without a choice there, bind the ranks of runs with several.

    It stays on all CPUs that it may use if fewer than its share of them, as one of the `ranks_here` on this
    machine, were left to it.

    `gpus`: the PCI addresses, such as 0000:41:00.0, of this rank's GPU, and of the other ranks' behind it, as
    far as this process sees them; empty without a GPU. `sys`: where sysfs is.

    Returns to what this process is bound, or `not bound` and why; a machine that cannot tell is no error.
    Raises UserError for an unknown choice.
    """
    choice = env.get(VARIABLE) or ("closest" if world_size > 1 else "none")
    if choice not in BINDINGS:
        raise UserError(f"{VARIABLE}: expected {' or '.join(BINDINGS)}, got {choice!r:.60}")
    if choice == "none" or not gpus:
        return f"not bound: {'not asked for' if gpus else 'no GPU'}"
    nodes = _nodes(sys)
    if len(nodes) < 2:
        return "not bound: " + ("one NUMA node" if nodes else "its NUMA nodes are not known")
    node, *others = [_number(sys / "bus/pci/devices" / gpu / "numa_node") for gpu in gpus]
    if node not in nodes:
        return "not bound: its GPU's NUMA node is not known"
    allowed = os.sched_getaffinity(0)
    cpus, num_near = nodes[node] & allowed, 1 + others.count(node)
    if len(cpus) < num_near * max(1, len(allowed) // ranks_here):
        has = f"NUMA node {node}, its GPU's, has {len(cpus)} of the job's {len(allowed)} CPUs"
        return f"not bound: {has}, less than the share of {num_near} of {ranks_here} ranks"
    try:
        _bind_threads(cpus)
    except OSError as error:
        return f"not bound: the system refuses it: {error.strerror}"
    near = [f"CPUs {ranges(cpus)}", *_network_cards(sys, node)]
    return f"NUMA node {node} ({', '.join(near)})"


def _bind_threads(cpus: set[int]) -> None:
    """Bind the threads of this process, except those that somebody has bound elsewhere."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    for thread in (int(path.name) for path in THREADS.iterdir()):
        with suppress(OSError):  # it has ended
            if os.sched_getaffinity(thread) == former:
                os.sched_setaffinity(thread, cpus)


def _nodes(sys: Path) -> dict[int, set[int]]:
    """Return the CPUs of each NUMA node that has some; some nodes have memory only."""
    found = {}
    for path in (sys / "devices/system/node").glob("node[0-9]*"):
        with suppress(OSError, ValueError):
            if cpus := _cpus((path / "cpulist").read_text()):
                found[int(path.name.removeprefix("node"))] = cpus
    return found


def _network_cards(sys: Path, node: int) -> list[str]:
    """Return the names of the InfiniBand and RoCE cards on a NUMA node."""
    cards = sorted((sys / "class/infiniband").glob("*"))
    return [card.name for card in cards if _number(card / "device/numa_node") == node]


def _number(file: Path) -> int | None:
    """Return a file's number, -1 where Linux does not know it; None for a file that is missing."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _cpus(text: str) -> set[int]:
    """Return the numbers in a list of the kernel's: `0-23,48-71`."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return {number for low, high in spans for number in range(int(low), int(high or low) + 1)}


def by_text(bindings: Sequence[str]) -> dict[str, str]:
    """Return the ranks that have each binding, as `{"NUMA node 0 (CPUs 0-23)": "0-3"}`, from each rank's."""
    return {
        text: ranges(rank for rank, one in enumerate(bindings) if one == text)
        for text in dict.fromkeys(bindings)
    }


def ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers as the kernel lists them: `0-23,48-71`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)

"""How fast the ranks of a node, and pairs of nodes, sum over one another, and which node is slow at it.

Bus bandwidth is 2 (W − 1) / W · S / t for W ranks that sum S bytes in t: what each link carries, whatever W
is (NCCL's tests define it so). It compares with the rate of NVLink, or of the network cards.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.doctor.bandwidth_ranks import MARK
from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, between
from jobs.doctor.network import ONE_NODE
from jobs.doctor.software import unusable
from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables

PATIENCE_S = 240.0
SLOW = {"NCCL": 0.8, "gloo": 0.5}
"""A node with less than this share of the other nodes' median bus bandwidth is called slow, by what sums:
gloo computes on the CPUs, which other programs use too."""
EXPECTED = 0.5
"""NCCL is expected to reach at least this share of the hardware's rate with the largest sum."""
INFINIBAND, NETWORK, ROUTES = Path("/sys/class/infiniband"), Path("/sys/class/net"), Path("/proc/net/route")


def probe_bandwidth(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Start the ranks of this node, which join those of the others, and return the first one's timings."""
    variables = launch_variables(os.environ)
    num_nodes, per_node = int(variables.get("WORLD_SIZE", "1")), request.tasks_per_node
    if not request.bandwidth or unusable(earlier) or num_nodes * per_node < 2:
        return None
    if num_nodes > 1 and ("group" not in earlier or "error" in earlier["group"]):
        return None  # the nodes do not reach one another
    node = int(variables.get("RANK", "0"))
    port = int(variables.get("MASTER_PORT", FIRST_PORT))
    shared = {
        "WORLD_SIZE": str(num_nodes * per_node),
        "MASTER_ADDR": variables.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": str(
            FIRST_PORT + (port - FIRST_PORT + 1) % NUM_PORTS
        ),  # the former may still be closing
    }
    environments = [
        {**os.environ, **shared, "RANK": str(node * per_node + local), "LOCAL_RANK": str(local)}
        for local in range(per_node)
    ]
    answer: Answer = {"timings": _run(environments, num_nodes, per_node)}
    return answer | {"nics_gb_s": nic_rates(), "nvlink_gb_s": nvlink_rate()}


def _run(environments: Sequence[Mapping[str, str]], num_nodes: int, per_node: int) -> list[dict[str, Any]]:
    """Raise RuntimeError with the last line of a rank that fails, or of one that does not end."""
    command = [sys.executable, "-m", "jobs.doctor.bandwidth_ranks", str(num_nodes), str(per_node)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+", errors="replace") as errors:
        processes = [subprocess.Popen(command, env=env, stdout=output, stderr=errors) for env in environments]
        deadline = time.monotonic() + PATIENCE_S
        try:
            codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the ranks did not end in {PATIENCE_S:.0f} s") from None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            errors.seek(0)
            said = [line.strip() for line in errors.read().splitlines() if "Error" in line] or ["no message"]
            raise RuntimeError(f"a rank ended with exit code {max(codes, key=abs)}: {said[-1]}"[:300])
        output.seek(0)
        (line,) = (one for one in output.read().splitlines() if one.startswith(MARK))
        timings: list[dict[str, Any]] = json.loads(line.removeprefix(MARK))
        return timings


def nic_rates() -> dict[str, float]:
    """Return the rate (GB/s) of each active InfiniBand or RoCE port, or else of gloo's interface, by name."""
    found = {}
    for port in INFINIBAND.glob("*/ports/*"):
        with suppress(OSError):
            rate = re.match(r"([\d.]+) Gb/sec", (port / "rate").read_text())
            if rate and "ACTIVE" in (port / "state").read_text():
                found[port.parent.parent.name] = float(rate[1]) / 8
    if found:
        return found
    with suppress(OSError, ValueError, IndexError):  # a virtual interface has no rate
        routes = [line.split() for line in ROUTES.read_text().splitlines()[1:]]
        name = os.environ.get("GLOO_SOCKET_IFNAME") or next(r[0] for r in routes if r[1] == "00000000")
        if (mbit_s := int((NETWORK / name / "speed").read_text())) > 0:
            return {name: mbit_s / 8e3}
    return {}


def nvlink_rate() -> float | None:
    """Return the rate of a GPU's NVLinks together, one way (GB/s); None where NVML does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        asked = [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON]
        links, speed = pynvml.nvmlDeviceGetFieldValues(pynvml.nvmlDeviceGetHandleByIndex(0), asked)
    except Exception:  # ImportError, AttributeError of an older package, or any of NVML's errors
        return None
    if links.nvmlReturn or speed.nvmlReturn:
        return None
    return float(links.value.uiVal * speed.value.uiVal) / 1e3 or None


def bus_gb_s(num_ranks: int, size_bytes: float, time_s: float) -> float:
    """Return the bus bandwidth of an all-reduce."""
    return 2 * (num_ranks - 1) / num_ranks * size_bytes / time_s / 1e9


def rates_of(case: Case, kind: str) -> dict[str, float]:
    """Return each node's bus bandwidth (GB/s) at the largest size; of several pairs that of its best."""
    rates: dict[str, float] = {}
    for node, answer in case.answers("bandwidth").items():
        for one in answer.get("timings", []):
            if one["kind"] == kind:
                size = max(map(int, one["s"]))
                rates[node] = max(rates.get(node, 0.0), bus_gb_s(one["ranks"], size, one["s"][str(size)]))
    return rates


def _in_a_node(case: Case) -> Iterator[Verdict]:
    if case.request.bandwidth and case.request.tasks_per_node < 2:
        yield "ok", "one rank on each node: there is nothing to sum"
    elif case.request.bandwidth:
        links = [answer.get("nvlink_gb_s") or 0.0 for answer in case.answers("bandwidth").values()]
        yield from _judged(case, "node", "NVLink", min(links, default=0.0))


def _between_nodes(case: Case) -> Iterator[Verdict]:
    if case.request.bandwidth and len(case.nodes) < 2:
        yield "ok", ONE_NODE
    elif case.request.bandwidth:
        sums = [sum((a.get("nics_gb_s") or {}).values()) for a in case.answers("bandwidth").values()]
        yield from _judged(case, "pair", "its network cards", min(sums, default=0.0))


def _judged(case: Case, kind: str, hardware: str, hardware_gb_s: float) -> Iterator[Verdict]:
    if faults := case.faults("bandwidth"):
        fix = "see `process group`; NCCL_DEBUG: INFO under environment: in the cluster's file tells more"
        yield "problem", faults, fix
        return
    rates = rates_of(case, kind)
    if not rates:
        yield "unknown", "not measured", "see `process group` and `packages`"
        return
    told = _told(case, kind, rates)
    if hardware_gb_s:
        told += f"; {hardware}: {hardware_gb_s:.3g} GB/s"
    if slow := _slow(rates, SLOW[_backend(case)]):
        names = ",".join(slow)
        fix = "compare its links with another node's (`nvidia-smi topo -m`, `ibstat`, `ethtool`), and set "
        yield (
            "warning",
            f"{told}; slow: {'; '.join(f'{n}: {s}' for n, s in slow.items())}",
            f"{fix}exclude: {names} in the cluster's file until it is repaired",
        )
    elif (
        hardware_gb_s
        and _backend(case) == "NCCL"
        and statistics.median(rates.values()) < EXPECTED * hardware_gb_s
    ):
        fix = "NCCL_DEBUG: INFO under environment: in the cluster's file shows which links NCCL uses: over "
        yield "warning", told, f"{fix}sockets in place of InfiniBand, or without GPUDirect, it is slow"
    else:
        yield "ok", told


def _slow(rates: Mapping[str, float], least: float) -> dict[str, str]:
    """Return what to say of each slow node. Of one pair alone neither can be told."""
    found = {}
    for node, rate in rates.items():
        others = [other for name, other in rates.items() if name != node]
        if others and rate < least * (usual := statistics.median(others)):
            found[node] = f"{rate:.3g} GB/s, the others {usual:.3g}"
    return found


def _told(case: Case, kind: str, rates: Mapping[str, float]) -> str:
    """Say the bus bandwidth of the largest sum, and how long the smallest one takes."""
    timings = [
        one
        for answer in case.answers("bandwidth").values()
        for one in answer["timings"]
        if one["kind"] == kind
    ]
    sizes = sorted(map(int, timings[0]["s"]))
    least_ms = 1e3 * statistics.median(one["s"][str(sizes[0])] for one in timings)
    who = f"{timings[0]['ranks']} ranks of {'a node' if kind == 'node' else 'two nodes'}"
    gb_s = between(min(rates.values()), max(rates.values()))
    return (
        f"{who}, {timings[0]['backend']}: {gb_s} GB/s of bus bandwidth with "
        f"{sizes[-1] / 2**20:.0f} MiB, {sizes[0] / 2**20:.0f} MiB in {least_ms:.3g} ms"
    )


def _backend(case: Case) -> str:
    """Return what summed: NCCL where a node's GPUs did, or gloo."""
    answers = case.answers("bandwidth").values()
    backends = {str(one["backend"]) for answer in answers for one in answer["timings"]}
    return max(backends, key=lambda name: name == "NCCL")


CHECKS = {"bandwidth in a node": _in_a_node, "bandwidth between nodes": _between_nodes}
TOPIC = Topic(CHECKS, on_nodes={"bandwidth": probe_bandwidth})

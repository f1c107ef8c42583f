"""To which CPUs a rank is bound, on a machine that is made up below a folder."""

import functools
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs.cluster.clusters import parse_cluster
from suite import binding
from suite.binding import bind, by_text, ranges
from suite.errors import UserError
from suite.experiment import SystemSpec
from suite.train import distributed

GPU, CLOSEST = "0000:41:00.0", {"SHIFTBENCH_BINDING": "closest"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """Two sockets with hyperthreads, memory without CPUs, and a GPU and a network card on the second one."""
    for node, cpus in {0: "0-3,8-11", 1: "4-7,12-15", 2: ""}.items():
        write(tmp_path / f"devices/system/node/node{node}/cpulist", cpus)
    write(tmp_path / f"bus/pci/devices/{GPU}/numa_node", "1")
    for card, node in {"mlx5_0": 0, "mlx5_1": 1}.items():
        write(tmp_path / f"class/infiniband/{card}/device/numa_node", str(node))
    return tmp_path


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """The CPUs of each thread; 0 is the calling one. A machine of 16 CPUs, with a thread bound elsewhere."""
    found = {0: set(range(16)), 101: set(range(16)), 102: {3}}

    def set_mask(thread: int, cpus: set[int]) -> None:
        found[thread] = set(cpus)

    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(found[thread]))
    monkeypatch.setattr(os, "sched_setaffinity", set_mask)
    tasks = SimpleNamespace(iterdir=lambda: [Path("/proc/self/task/101"), Path("/proc/self/task/102")])
    monkeypatch.setattr(binding, "THREADS", tasks)
    return found


def test_a_rank_runs_on_the_cpus_of_its_gpus_node(sys: Path, masks: dict[int, set[int]]) -> None:
    assert bind(CLOSEST, GPU, 1, sys) == "NUMA node 1 (CPUs 4-7,12-15, mlx5_1)"
    near = {4, 5, 6, 7, 12, 13, 14, 15}
    assert masks == {0: near, 101: near, 102: {3}}


def test_only_on_those_that_it_may_use(sys: Path, masks: dict[int, set[int]]) -> None:
    masks[0] = {0, 5, 6}  # a job's share of the node
    assert bind(CLOSEST, GPU, 1, sys) == "NUMA node 1 (CPUs 5-6, mlx5_1)"
    assert masks[0] == {5, 6}
    masks[0] = {0, 1}
    assert bind(CLOSEST, GPU, 1, sys) == "not bound: it may run on no CPU of NUMA node 1, its GPU's"
    assert masks[0] == {0, 1}


def test_several_ranks_are_bound_unless_that_is_not_wanted(sys: Path, masks: dict[int, set[int]]) -> None:
    assert bind({}, GPU, 1, sys) == "not bound: not asked for"  # it has the machine for itself
    assert bind({"SHIFTBENCH_BINDING": "none"}, GPU, 8, sys) == "not bound: not asked for"
    assert bind({}, None, 8, sys) == "not bound: no GPU"
    assert masks[0] == set(range(16))
    assert bind({}, GPU, 8, sys).startswith("NUMA node 1 ")
    with pytest.raises(UserError, match="SHIFTBENCH_BINDING: expected closest or none, got 'near'"):
        bind({"SHIFTBENCH_BINDING": "near"}, GPU, 8, sys)


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("devices/system/node/node0/cpulist", "", "one NUMA node"),
        (f"bus/pci/devices/{GPU}/numa_node", "-1", "its GPU's NUMA node is not known"),  # as in many VMs
        (f"bus/pci/devices/{GPU}/numa_node", "7", "its GPU's NUMA node is not known"),
    ],
)
def test_where_it_cannot_be_told_nothing_fails(
    sys: Path, masks: dict[int, set[int]], file: str, text: str, why: str
) -> None:
    write(sys / file, text)
    assert bind(CLOSEST, GPU, 1, sys) == f"not bound: {why}"
    assert bind(CLOSEST, "0000:00:00.0", 1, sys).startswith("not bound: ")
    assert bind(CLOSEST, GPU, 1, sys / "none") == "not bound: its NUMA nodes are not known"  # a container
    assert masks[0] == set(range(16))


def test_threads_that_run_already_and_later_ones_are_bound() -> None:
    """On the real CPUs, in a process of its own."""
    if (child := os.fork()) == 0:
        code, ended = 1, threading.Event()
        try:
            cpu = min(os.sched_getaffinity(0))
            threading.Thread(target=ended.wait).start()
            binding._bind_threads({cpu})
            masks = [os.sched_getaffinity(int(path.name)) for path in binding.THREADS.iterdir()]
            code = int(len(masks) < 2 or masks != [{cpu}] * len(masks))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_ranks_by_their_binding() -> None:
    assert by_text(["a", "a", "b", "a"]) == {"a": "0-1,3", "b": "2"}
    assert ranges({3, 1, 2, 9}) == "1-3,9"


def test_a_rank_that_joins_is_bound(
    sys: Path, masks: dict[int, set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x41, pci_device_id=0)
    monkeypatch.setattr(distributed, "_device", lambda system, local_rank: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(distributed, "bind", functools.partial(bind, sys=sys))
    monkeypatch.setenv("SHIFTBENCH_BINDING", "closest")
    with distributed.joined(SystemSpec()) as ranks:
        assert ranks.bindings() == ["NUMA node 1 (CPUs 4-7,12-15, mlx5_1)"]


@pytest.mark.parametrize(
    ("keys", "choice"),
    [
        ({}, None),
        ({"gpus_per_node": 8}, "closest"),
        ({"additional_parameters": {"gres": "gpu:a100:8"}}, "closest"),
        ({"gpus_per_node": 8, "binding": "none"}, "none"),
        ({"gpus_per_node": 8, "environment": {"SHIFTBENCH_BINDING": "none"}}, "none"),
        ({"scheduler": "local"}, None),
        ({"scheduler": "local", "binding": "none"}, "none"),
    ],
)
def test_what_a_clusters_file_says(keys: dict[str, object], choice: str | None) -> None:
    cluster = parse_cluster({"scheduler": "slurm", "name": "mine", **keys}, "mine.yaml")
    assert cluster.variables.get("SHIFTBENCH_BINDING") == choice
    with pytest.raises(UserError, match="binding: expected closest or none, or null, got 'gpu'"):
        parse_cluster({"scheduler": "slurm", "binding": "gpu"}, "mine.yaml")

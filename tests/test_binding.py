"""To which CPUs a rank is bound, on a machine that is made up below a folder."""

import functools
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs.cluster import sbatch
from jobs.cluster.clusters import SlurmCluster, parse_cluster
from suite import binding
from suite.binding import bind, by_text, ranges
from suite.errors import UserError
from suite.experiment import SystemSpec
from suite.launch import ranks_on_node
from suite.train import distributed
from tests.helpers.srun import with_srun

GPU, BESIDE, FAR, CLOSEST = "0000:41:00.0", "0000:42:00.0", "0000:01:00.0", {"SHIFTBENCH_BINDING": "closest"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """Two sockets with hyperthreads, memory without CPUs; two GPUs and a network card on the second one."""
    for node, cpus in {0: "0-3,8-11", 1: "4-7,12-15", 2: ""}.items():
        write(tmp_path / f"devices/system/node/node{node}/cpulist", cpus)
    for gpu, node in {GPU: 1, BESIDE: 1, FAR: 0}.items():
        write(tmp_path / f"bus/pci/devices/{gpu}/numa_node", str(node))
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
    assert bind(CLOSEST, [GPU], 2, 2, sys) == "NUMA node 1 (CPUs 4-7,12-15, mlx5_1)"
    near = {4, 5, 6, 7, 12, 13, 14, 15}
    assert masks == {0: near, 101: near, 102: {3}}


def test_only_on_those_that_it_may_use(sys: Path, masks: dict[int, set[int]]) -> None:
    masks[0] = {0, 5, 6}  # a job's share of the node
    assert bind(CLOSEST, [GPU], 2, 2, sys) == "NUMA node 1 (CPUs 5-6, mlx5_1)"
    assert masks[0] == {5, 6}
    masks[0] = {0, 1}
    assert bind(CLOSEST, [GPU], 2, 2, sys) == (
        "not bound: NUMA node 1, its GPU's, has 0 of the job's 2 CPUs, less than the share of 1 of 2 ranks"
    )
    assert masks[0] == {0, 1}


@pytest.mark.parametrize(
    ("gpus", "ranks_here", "cpus", "has"),
    [
        ([GPU], 1, range(16), "8 of the job's 16 CPUs, less than the share of 1 of 1 ranks"),
        ([GPU], 1, range(4, 8), None),  # a part of a node
        ([GPU], 2, [*range(4), 4], "1 of the job's 5 CPUs, less than the share of 1 of 2 ranks"),
        # Both GPUs on one socket: the other one's cores would be idle.
        ([GPU, BESIDE], 2, range(16), "8 of the job's 16 CPUs, less than the share of 2 of 2 ranks"),
        ([GPU, FAR], 2, range(16), None),
        ([GPU, BESIDE, FAR, FAR], 4, range(15), None),  # 7 CPUs for two, where a quarter is 3
        ([GPU], 32, {4}, None),  # more ranks than CPUs
    ],
)
def test_no_cpus_are_left_idle(
    sys: Path,
    masks: dict[int, set[int]],
    gpus: list[str],
    ranks_here: int,
    cpus: Iterable[int],
    has: str | None,
) -> None:
    masks[0] = set(cpus)
    told = bind(CLOSEST, gpus, 8, ranks_here, sys)
    if has is None:
        assert masks[0] == set(cpus) & {4, 5, 6, 7, 12, 13, 14, 15}
    else:
        assert told == f"not bound: NUMA node 1, its GPU's, has {has}"
        assert masks[0] == set(cpus)


def test_several_ranks_are_bound_unless_that_is_not_wanted(sys: Path, masks: dict[int, set[int]]) -> None:
    assert bind({}, [GPU], 1, 1, sys) == "not bound: not asked for"  # it has the machine for itself
    assert bind({"SHIFTBENCH_BINDING": "none"}, [GPU], 8, 8, sys) == "not bound: not asked for"
    assert bind({}, [], 8, 8, sys) == "not bound: no GPU"
    assert masks[0] == set(range(16))
    assert bind({}, [GPU], 8, 8, sys).startswith("NUMA node 1 ")
    with pytest.raises(UserError, match="SHIFTBENCH_BINDING: expected closest or none, got 'near'"):
        bind({"SHIFTBENCH_BINDING": "near"}, [GPU], 8, 8, sys)


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
    assert bind(CLOSEST, [GPU], 2, 2, sys) == f"not bound: {why}"
    assert bind(CLOSEST, ["0000:00:00.0"], 2, 2, sys).startswith("not bound: ")
    assert (
        bind(CLOSEST, [GPU], 2, 2, sys / "none") == "not bound: its NUMA nodes are not known"
    )  # in a container
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
    addresses = [0x41, 0x42, 0x01]

    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(pci_domain_id=0, pci_bus_id=addresses[device.index or 0], pci_device_id=0)

    monkeypatch.setattr(distributed, "_device", lambda system, local_rank: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(distributed, "bind", functools.partial(bind, sys=sys))
    monkeypatch.setenv("SHIFTBENCH_BINDING", "closest")
    masks[0] = set(range(4, 8))
    with distributed.joined(SystemSpec()) as ranks:
        assert ranks.bindings() == ["NUMA node 1 (CPUs 4-7, mlx5_1)"]
    cuda = torch.device("cuda", 1)
    assert distributed._pci_addresses(cuda, 1, 3) == [BESIDE, GPU, FAR]
    assert distributed._pci_addresses(cuda, 1, 4) == [BESIDE]  # it sees only some of the node's


def test_how_many_ranks_share_a_node() -> None:
    assert ranks_on_node({}) == 1
    assert ranks_on_node({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "1"}) == 4
    assert ranks_on_node({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2"}) == 8


@pytest.mark.parametrize(
    ("keys", "choice"),
    [
        ({}, None),
        ({"gpus_per_node": 8}, "closest"),
        ({"gpus_per_node": 1}, None),
        ({"gpus_per_node": 1, "nodes": 2}, "closest"),
        ({"additional_parameters": {"gres": "gpu:a100:8"}, "ntasks_per_node": 8}, "closest"),
        ({"additional_parameters": {"gpus_per_socket": 4}, "ntasks_per_node": 8}, "closest"),
        ({"additional_parameters": {"tres-per-task": "cpu:2,gres/gpu:1"}, "ntasks_per_node": 8}, "closest"),
        ({"additional_parameters": {"tres-per-task": "cpu:2"}, "ntasks_per_node": 8}, None),
        ({"additional_parameters": {"gpus": False}, "ntasks_per_node": 8}, None),
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


@pytest.mark.parametrize(
    ("keys", "is_slurms"),
    [
        ({"gpus_per_node": 8}, False),
        ({"gpus_per_node": 1}, True),
        ({"gpus_per_node": 1, "binding": "closest"}, False),
        ({"gpus_per_node": 8, "binding": "none"}, True),
        ({"binding": "closest", "ntasks_per_node": 8}, True),  # nobody else would bind them
    ],
)
def test_slurms_own_binding_ends_where_ranks_bind_themselves(
    keys: dict[str, object], is_slurms: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_srun(monkeypatch, tmp_path)
    cluster = parse_cluster({"scheduler": "slurm", "name": "mine", **keys}, "mine.yaml")
    assert isinstance(cluster, SlurmCluster)
    text = sbatch.script(1, cluster, Path("/jobs/x"), Path("/code"))
    assert ("--cpu-bind=none" not in text) == is_slurms

"""The doctor's figures of eight nodes, one of which is slow, and of their GPUs, from made answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.cluster.clusters import SlurmCluster
from jobs.doctor import bandwidth, gpu_state, reading
from jobs.doctor.bandwidth_ranks import MIB, rounds
from jobs.doctor.finding import Answer, Case, Finding, NodeAnswers, Request

NODES = [f"n{number}" for number in range(1, 9)]
GIB = 1024 * MIB


def case_of(answers: dict[str, dict[str, Answer]], data: list[str] | None = None) -> Case:
    """Answers by node and probe, of a cluster with four GPUs a node."""
    cluster = SlurmCluster(scheduler="slurm", nodes=8, gpus_per_node=4, time="60")
    request = Request("/f", "t", data or [], "runs", "/code", "python", bandwidth=True, tasks_per_node=4)
    return Case(cluster, nodes=[NodeAnswers(name, found) for name, found in answers.items()], request=request)


def judged(topic: Any, case: Case) -> dict[str, Finding]:
    found = list(topic.judge(case))
    assert all(bool(one.fix) == (one.verdict != "ok") for one in found)
    return {one.check: one for one in found}


def timing(kind: str, ranks: int, gb_s: float, **more: Any) -> dict[str, Any]:
    """All-reduces at a bus bandwidth: 2 (W - 1) / W · S / t."""
    times = {str(size): 2 * (ranks - 1) / ranks * size / gb_s / 1e9 for size in (MIB, GIB)}
    return {"kind": kind, "ranks": ranks, "s": times, "backend": "NCCL", **more}


def eight(
    slow_pair: str = "", slow_inside: str = "", pair_gb_s: float = 90.0
) -> dict[str, dict[str, Answer]]:
    """Each node's timings in a ring of pairs; a pair with `slow_pair` in it has a third of the bandwidth."""
    answers = {}
    for at, node in enumerate(NODES):
        partners = [NODES[at - 1], NODES[(at + 1) % 8]]
        timings = [timing("node", 4, 100.0 if node == slow_inside else 380.0)]
        for partner in partners:
            gb_s = pair_gb_s / 3 if slow_pair in (node, partner) else pair_gb_s
            timings.append(timing("pair", 8, gb_s, **{"with": [partner]}))
        nics = {f"mlx5_{number}": 25.0 for number in range(4)}
        found = {"timings": timings, "nics_gb_s": nics, "nvlink_gb_s": 450.0}
        answers[node] = {"bandwidth": found}
    return answers


def test_bus_bandwidth_by_hand() -> None:
    # Eight ranks sum 1 GB in 10 ms: 2 · 7 / 8 · 1 GB / 0.01 s.
    assert bandwidth.bus_gb_s(8, 1e9, 0.01) == pytest.approx(175.0)


def test_eight_nodes_that_are_alike() -> None:
    found = judged(bandwidth.TOPIC, case_of(eight()))
    inside, between = found["bandwidth in a node"], found["bandwidth between nodes"]
    assert (inside.verdict, between.verdict) == ("ok", "ok")
    assert inside.found == (
        "4 ranks of a node, NCCL: 380 GB/s of bus bandwidth with 1024 MiB, 1 MiB in 0.00414 ms; "
        "NVLink: 450 GB/s"
    )
    assert between.found.startswith("8 ranks of two nodes, NCCL: 90 GB/s")
    assert between.found.endswith("its network cards: 100 GB/s")


def test_the_slow_node_of_eight_is_named_and_not_its_partners() -> None:
    found = judged(bandwidth.TOPIC, case_of(eight(slow_pair="n3", slow_inside="n6")))
    between, inside = found["bandwidth between nodes"], found["bandwidth in a node"]
    assert (between.verdict, inside.verdict) == ("warning", "warning")
    assert "slow: n3: 30 GB/s, the others 90" in between.found
    assert "slow: n6: 100 GB/s, the others 380" in inside.found
    assert "exclude: n3 in" in between.fix
    assert not any(other in between.found for other in ("n2", "n4"))


def test_nodes_that_are_all_below_their_hardware() -> None:
    between = judged(bandwidth.TOPIC, case_of(eight(pair_gb_s=12.0)))["bandwidth between nodes"]
    assert between.verdict == "warning"
    assert "NCCL_DEBUG" in between.fix


def test_what_was_not_measured_and_what_failed() -> None:
    nothing = judged(bandwidth.TOPIC, case_of({node: {} for node in NODES}))
    assert {one.verdict for one in nothing.values()} == {"unknown"}
    answers = eight()
    answers["n5"]["bandwidth"] = {"error": "RuntimeError: the ranks did not end in 240 s"}
    failed = judged(bandwidth.TOPIC, case_of(answers))["bandwidth between nodes"]
    assert (failed.verdict, failed.found) == ("problem", "n5: RuntimeError: the ranks did not end in 240 s")


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 5, 8])
def test_every_node_has_two_partners_one_at_a_time(num_nodes: int) -> None:
    found = rounds(num_nodes)
    for pairs in found:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))
    everything = [frozenset(pair) for pairs in found for pair in pairs]
    assert len(everything) == len(set(everything)) == (1 if num_nodes == 2 else num_nodes)
    assert rounds(1) == []


def test_the_rates_of_network_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, state in (("mlx5_0", "4: ACTIVE"), ("mlx5_1", "1: DOWN")):
        port = tmp_path / "infiniband" / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "rate").write_text("200 Gb/sec (4X HDR)\n")
        (port / "state").write_text(f"{state}\n")
    monkeypatch.setattr(bandwidth, "INFINIBAND", tmp_path / "infiniband")
    assert bandwidth.nic_rates() == {"mlx5_0": 25.0}
    monkeypatch.setattr(bandwidth, "INFINIBAND", tmp_path / "none")
    monkeypatch.setattr(bandwidth, "NETWORK", tmp_path)
    monkeypatch.setattr(bandwidth, "ROUTES", tmp_path / "route")
    (tmp_path / "eno1").mkdir()
    (tmp_path / "eno1" / "speed").write_text("10000\n")
    (tmp_path / "route").write_text("Iface Destination\nlo 0000007F\neno1 00000000\n")
    assert bandwidth.nic_rates() == {"eno1": 1.25}
    (tmp_path / "eno1" / "speed").write_text("-1\n")
    assert bandwidth.nic_rates() == {}


# ------------------------------------------------------------ reading


def test_a_node_that_reads_slowly_is_named() -> None:
    def answers(slow_s: float) -> dict[str, dict[str, Answer]]:
        alike = {"files": 1000, "bytes": 100_000_000, "s": 0.25}
        return {n: {"reading": {"/data": alike | ({"s": slow_s} if n == "n4" else {})}} for n in NODES}

    fine = judged(reading.TOPIC, case_of(answers(0.3), ["/data"]))["read rate"]
    assert (fine.verdict, fine.found) == (
        "ok",
        "/data: 333 to 400 MB/s and 4,000 files/s a node, all 8 at once",
    )
    slow = judged(reading.TOPIC, case_of(answers(1.0), ["/data"]))["read rate"]
    assert slow.verdict == "warning"
    assert slow.found.endswith("; n4: 100 MB/s, the others 400")


def test_reading_counts_what_it_read(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(b"x" * 1000)
    request = Request("/f", "t", [str(tmp_path), "/gone"], "runs", "/code", "python", bandwidth=True)
    earlier = {"data": {str(tmp_path): None, "/gone": "No such file or directory"}}
    found = reading.probe_reading(request, earlier)
    assert found is not None
    assert found.keys() == {str(tmp_path)}
    assert (found[str(tmp_path)]["files"], found[str(tmp_path)]["bytes"]) == (5, 5000)


# ------------------------------------------------------------ the GPUs' state


def healthy_gpus() -> dict[str, dict[str, Answer]]:
    state = {"sm_mhz": 1900, "max_sm_mhz": 1980, "uncorrected": 0, "slowed": []}
    state |= {"is_pending": False, "has_failed": False, "recovery": 0}
    return {n: {"gpu state": {"gpus": {str(i): dict(state) for i in range(4)}}} for n in NODES[:2]}


def test_gpus_that_are_alike() -> None:
    found = judged(gpu_state.TOPIC, case_of(healthy_gpus()))["state of the GPUs"]
    assert (found.verdict, found.found) == (
        "ok",
        "1900 MHz under load, no memory errors, none slowed down",
    )


def test_of_amds_gpus_nvml_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    answer = gpu_state.probe_gpu_state(
        Request("/f", "t", [], "runs", "/code", "python"), {"packages": {}, "gpus": {"count": 4}}
    )
    answers = {node: {"gpu state": answer} for node in NODES[:2]}
    found = judged(gpu_state.TOPIC, case_of(answers))["state of the GPUs"]
    assert (found.verdict, found.found) == ("unknown", "n1, n2: AMD's GPUs, which NVML does not know")


@pytest.mark.parametrize(
    ("planted", "verdict", "said"),
    [
        ({"sm_mhz": 1200}, "warning", "n2: GPU 3 runs at 1200 MHz under load, the others at 1900"),
        ({"slowed": ["too hot"]}, "warning", "n2: GPU 3 is too hot"),
        (
            {"uncorrected": 7},
            "warning",
            "n2: GPU 3 has had 7 uncorrected memory errors since its driver was loaded",
        ),
        ({"is_pending": True}, "warning", "n2: GPU 3 waits for a reset to replace memory rows"),
        ({"has_failed": True}, "problem", "n2: GPU 3 could not replace a broken memory row"),
        ({"recovery": 1}, "problem", "n2: GPU 3 asks to be reset"),
        ({"recovery": 9}, "problem", "n2: GPU 3 asks for NVML's recovery action 9"),
    ],
)
def test_a_gpu_that_differs_is_named(planted: Answer, verdict: str, said: str) -> None:
    answers = healthy_gpus()
    answers["n2"]["gpu state"]["gpus"]["3"] |= planted
    found = judged(gpu_state.TOPIC, case_of(answers))["state of the GPUs"]
    assert (found.verdict, found.found) == (verdict, said)


def test_what_nvml_does_not_tell_is_left_out() -> None:
    import pynvml

    def refuse(*_: Any) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    told = {name: getattr(pynvml, name) for name in (*gpu_state.SLOWDOWNS, "NVMLError", "NVML_CLOCK_SM")}
    told |= dict.fromkeys(("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC"), 0)
    thermal = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonSwPowerCap
    # A slow-down that the second look does not see is a change of the clock.
    reasons = iter([thermal | pynvml.nvmlClocksThrottleReasonHwSlowdown, thermal])
    nvml = SimpleNamespace(
        **told,
        nvmlDeviceGetClockInfo=lambda *_: 1500,
        nvmlDeviceGetMaxClockInfo=refuse,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: next(reasons),
        nvmlDeviceGetTotalEccErrors=refuse,
        nvmlDeviceGetFieldValues=lambda _, fields: [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=4 if fields == [230] else 0))
        ],
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION=230,
        nvmlDeviceGetRemappedRows=lambda _: [0, 1, 1, 0],
    )
    assert gpu_state._state(nvml, None) == {
        "sm_mhz": 1500,
        "slowed": ["too hot"],
        "is_pending": True,
        "has_failed": False,
        "recovery": 4,
    }

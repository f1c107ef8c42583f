"""Comparing what two trainings left behind, bit by bit."""

import json
from pathlib import Path
from typing import Any

import torch

from suite.paths import RunPaths

TIMINGS = {
    "epoch_time_s",
    "peak_memory_gib",
    "images_per_s",
    "step_time_p50_ms",
    "step_time_p95_ms",
    "step_time_drift",
    "step_time_slowest_ms",
    "data_wait_share",
    "communication_share",
    "compute_share",
    "epoch_end_time_s",
    "matmul_peak_flops_per_s",
    "matmul_peak_share",
}


def final_state(folder: Path) -> dict[str, Any]:
    paths = RunPaths(folder)
    state: dict[str, Any] = torch.load(paths.checkpoint(paths.checkpoint_steps()[-1]), weights_only=True)
    return state


def assert_bit_equal(one: Any, other: Any, where: str = "state") -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_bit_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_bit_equal(a, b, f"{where}.{i}")
    elif not where.endswith("measurements_size_bytes"):  # timings have more or fewer digits
        assert one == other, where


def measured(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in RunPaths(folder).measurements.read_text().splitlines()]
    return [line for line in lines if line["metric"] not in TIMINGS]

"""Measures the speed of training, and how much of the machine it uses."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from suite.shift.layers import preserved
from suite.specs.recipe import PRECISIONS
from suite.train.arithmetic import arithmetic
from suite.train.clock import GpuClock, HostClock
from suite.train.energy import EnergyCounter

PEAK_S = 1.0  # after which no further product is begun


class Meter:
    """Measures the steps of one epoch. The first `warmup_steps` of a process are left out of speeds."""

    def __init__(self, warmup_steps: int, device: torch.device) -> None:
        self._to_skip = warmup_steps
        self._device = device
        self._energy = EnergyCounter(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # an earlier run of this process may have used more
        self.restart_epoch()

    def restart_epoch(self) -> None:
        """Reset all sums, and start the clock."""
        self._step_times_s: list[float] = []
        self._waited_s, self._timed_wait_s = 0.0, 0.0
        self._num_steps, self._untimed = 0, self._to_skip
        self._energy_before_j = self._energy.read_j()
        self.epoch_started = time.perf_counter()
        self._clock: HostClock | GpuClock = (
            GpuClock() if self._device.type == "cuda" else HostClock(self.epoch_started)
        )

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside as waiting."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    def step_done(self) -> None:
        """Call at the end of each optimizer step."""
        self._take(self._clock.tick())
        self._num_steps += 1
        if self._num_steps > self._untimed:
            self._timed_wait_s += self._waited_s
        self._waited_s = 0.0

    def _take(self, times_s: list[float]) -> None:
        skipped = min(self._to_skip, len(times_s))
        self._to_skip -= skipped
        self._step_times_s += times_s[skipped:]

    def images_per_s(self, global_batch_size: int) -> float | None:
        """Return the epoch's throughput so far; None before the first timed step."""
        total_s = sum(self._step_times_s)
        return global_batch_size * len(self._step_times_s) / total_s if total_s else None

    def summary(self, global_batch_size: int) -> dict[str, float]:
        """Return the epoch's metrics by name; without timed steps only those that need none."""
        self._take(self._clock.settle())
        now = time.perf_counter()
        summary = {"epoch_time_s": now - self.epoch_started, "peak_memory_gib": self._peak_memory_gib()}
        if self._step_times_s:
            times_s = np.array(self._step_times_s)
            total_s = float(times_s.sum())
            p50_s, p95_s = np.quantile(times_s, (0.5, 0.95)).tolist()
            summary |= {"images_per_s": global_batch_size * len(times_s) / total_s}
            summary |= {"step_time_p50_ms": 1e3 * p50_s, "step_time_p95_ms": 1e3 * p95_s}
            summary["data_wait_share"] = self._timed_wait_s / total_s
        return summary

    def energy_j_per_step(self) -> float | None:
        """Return this rank's GPU energy over the epoch so far, with warm-up steps; None if not counted."""
        now_j = self._energy.read_j()
        if now_j is None or self._energy_before_j is None or not self._num_steps:
            return None
        return (now_j - self._energy_before_j) / self._num_steps

    def _peak_memory_gib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def flops_per_image(model: nn.Module, work: Callable[[nn.Module], Tensor]) -> float:
    """Count the floating-point operations of one image's forward and backward pass, by torch's counter.

    `work` does the forward pass and returns a scalar. The meta device, on which nothing is computed, takes
    longer for small networks, since torch derives its shapes in Python. The model is left as it was.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with preserved(model), FlopCounterMode(display=False) as counter:
        torch.autograd.grad(work(model), trained, allow_unused=True)
    return float(counter.get_total_flops())


def matmul_peak_flops_per_s(device: torch.device, precision: str) -> float:
    """Measure the fastest of several square matrix products on `device`, in FLOP/s.

    A device whose products take seconds, such as a CPU without the precision's instructions, does fewer.
    """
    size = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, PRECISIONS[precision].autocast or "float32")
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    with arithmetic(precision):
        began = time.perf_counter()
        for _ in range(6 if device.type == "cuda" else 3):
            start = time.perf_counter()
            if start - began > PEAK_S:
                break
            torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best_s = min(best_s, time.perf_counter() - start)
    return 2 * size**3 / best_s

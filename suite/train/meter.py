"""Measures the speed of training, and how much of the machine it uses."""

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from suite.shift.layers import preserved
from suite.specs.recipe import PRECISIONS
from suite.train.arithmetic import arithmetic
from suite.train.clock import TOTAL, GpuClock, HostClock, StepTime
from suite.train.nvml import Nvml, PeakMemory

PEAK_S = 1.0  # after which no further product is begun
MIN_STEPS_FOR_DRIFT = 10
DATA, COMMUNICATION = "data", "communication"


class Meter:
    """Measures the steps of one epoch. The first `warmup_steps` of a process are left out of speeds."""

    def __init__(self, warmup_steps: int, device: torch.device) -> None:
        self._to_skip = warmup_steps
        self._device = device
        self._nvml = Nvml(device)
        self._memory = PeakMemory(device, self._nvml) if device.type == "cuda" else None
        self._knows_exchange = True
        self.restart_epoch()

    def restart_epoch(self) -> None:
        """Reset all sums, and start the clock."""
        self._times: list[StepTime] = []
        self._num_steps = 0
        self._spans = defaultdict[str, list[tuple[Any, Any]]](list)
        self._last_gradient: Any = None
        self._energy_before_j = self._nvml.energy_j()
        self.epoch_started = time.perf_counter()
        self._clock: HostClock | GpuClock = (
            GpuClock() if self._device.type == "cuda" else HostClock(self.epoch_started)
        )

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside as waiting, on a GPU as far as it has nothing else to do."""
        start = self._clock.moment()
        yield
        self._spans[DATA].append((start, self._clock.moment()))

    def watch_gradients(self, model: nn.Module, *, is_replayed: bool = False) -> None:
        """Note when each backward pass ends: at the gradient of the first trained parameter.

        `is_replayed`: steps are replays of a recorded one, which do not show that; then neither the ranks'
        exchange nor computing is reported.
        """
        self._knows_exchange = not is_replayed
        if is_replayed:
            return
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        first.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]

    def _note_gradient(self, _: Tensor) -> None:
        self._last_gradient = self._clock.moment()

    def gradients_exchanged(self) -> None:
        """Call when the gradients are those of all ranks: what the backward pass did not hide has ended."""
        if self._last_gradient is not None:
            self._spans[COMMUNICATION].append((self._last_gradient, self._clock.moment()))
            self._last_gradient = None

    def step_done(self) -> None:
        """Call at the end of each optimizer step."""
        spans, self._spans = self._spans, defaultdict(list)
        self._take(self._clock.tick(spans))
        self._num_steps += 1

    def _take(self, times: list[StepTime]) -> None:
        skipped = min(self._to_skip, len(times))
        self._to_skip -= skipped
        self._times += times[skipped:]

    def _total_s(self, name: str = TOTAL) -> float:
        return sum(one.get(name, 0.0) for one in self._times)

    def images_per_s(self, global_batch_size: int) -> float | None:
        """Return the epoch's throughput so far; None before the first timed step."""
        total_s = self._total_s()
        return global_batch_size * len(self._times) / total_s if total_s else None

    def summary(self, global_batch_size: int) -> dict[str, float]:
        """Return the epoch's metrics by name; without timed steps only those that need none."""
        self._take(self._clock.settle())
        now = time.perf_counter()
        summary = {"epoch_time_s": now - self.epoch_started, "peak_memory_gib": self._peak_memory_gib()}
        if self._times:
            total_s = self._total_s()
            steps_s = [one[TOTAL] for one in self._times]
            p50_s, p95_s = np.quantile(steps_s, (0.5, 0.95)).tolist()
            summary |= {"images_per_s": global_batch_size * len(self._times) / total_s}
            summary |= {"step_time_p50_ms": 1e3 * p50_s, "step_time_p95_ms": 1e3 * p95_s}
            if len(steps_s) >= MIN_STEPS_FOR_DRIFT:
                earlier_s, later_s = map(np.median, np.array_split(steps_s, 2))
                summary["step_time_drift"] = float(later_s / earlier_s)
            data, communication = (self._total_s(name) / total_s for name in (DATA, COMMUNICATION))
            summary["data_wait_share"] = data
            if self._knows_exchange:
                summary["compute_share"] = 1 - data - communication
            if any(COMMUNICATION in one for one in self._times):
                summary["communication_share"] = communication
        return summary

    def energy_j_per_step(self) -> float | None:
        """Return this rank's GPU energy over the epoch so far, with warm-up steps; None if not counted."""
        now_j = self._nvml.energy_j()
        if now_j is None or self._energy_before_j is None or not self._num_steps:
            return None
        return (now_j - self._energy_before_j) / self._num_steps

    def _peak_memory_gib(self) -> float:
        if self._memory is not None:
            return self._memory.look() / 2**30
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

    One thread of a CPU reaches its peak with smaller products than several do. A device whose products take
    seconds, such as a CPU without the precision's instructions, does fewer.
    """
    on_cpu = 512 if torch.get_num_threads() == 1 else 1024
    size = 8192 if device.type == "cuda" else on_cpu
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

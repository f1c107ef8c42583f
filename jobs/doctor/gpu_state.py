"""Clocks under load, slow-downs and memory errors of the GPUs, as NVML tells them."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text
from jobs.doctor.software import unusable

LOAD_S = 0.4  # of work, so that the clocks rise
SIDE = 4096
SLOW_CLOCK = 0.9
"""A GPU whose clock under load is less than this share of the others' median is called slow."""
# NVML's bits of a clock's slow-downs that say that something is wrong. The power cap is not one: under load a
# GPU is expected to reach it.
SLOWDOWNS = {
    "nvmlClocksThrottleReasonHwSlowdown": "slowed down by the hardware",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "too hot",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "too hot",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "slowed down by the power supply",
}


def probe_gpu_state(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """What NVML says of each GPU that torch sees, while it multiplies matrices; None without GPUs or NVML."""
    if unusable(earlier) & {"torch", "nvidia-ml-py"} or not earlier.get("gpus", {}).get("count"):
        return None
    import pynvml
    import torch

    if torch.version.hip is not None:
        return {"amd": True}
    pynvml.nvmlInit()
    found = {}
    for index in range(torch.cuda.device_count()):
        uuid = torch.cuda.get_device_properties(index).uuid
        _load(index)
        found[str(index)] = _state(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        torch.cuda.synchronize(index)
    return {"gpus": found}


def _load(index: int) -> None:
    """Multiply for LOAD_S, and leave some work behind that is still to be done."""
    import torch

    a = torch.ones(SIDE, SIDE, device=f"cuda:{index}", dtype=torch.float16)
    end = time.perf_counter() + LOAD_S
    while time.perf_counter() < end:
        for _ in range(20):
            a @ a
        torch.cuda.synchronize(index)
    for _ in range(200):
        a @ a


def _state(nvml: Any, handle: Any) -> Answer:
    """Return clock (MHz), slow-downs and memory errors; what a GPU does not tell is left out."""
    asked: dict[str, Callable[[], Any]] = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        "uncorrected": lambda: nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        "remapped": lambda: list(nvml.nvmlDeviceGetRemappedRows(handle)),
    }
    state = {}
    for name, ask in asked.items():
        try:
            state[name] = ask()
        except nvml.NVMLError:  # this GPU, or this driver, does not tell it
            continue
    bits = state.pop("reasons", 0)
    state["slowed"] = sorted({text for name, text in SLOWDOWNS.items() if bits & getattr(nvml, name)})
    # Corrected and uncorrected rows, whether some wait for a reset, and whether no spare ones are left.
    *_, state["is_pending"], state["is_exhausted"] = map(bool, state.pop("remapped", (0, 0)))
    return state


def _gpu_state(case: Case) -> Iterator[Verdict]:
    answers = case.answers("gpu state")
    if not answers:
        return
    if errors := case.faults("gpu state"):
        yield "unknown", errors, "see whether `nvidia-smi -q` works on these nodes"
        return
    if amd := [node for node, answer in answers.items() if answer.get("amd")]:
        yield "unknown", f"{', '.join(amd)}: AMD's GPUs, which NVML does not know", "see `rocm-smi -a` there"
        return
    gpus = [
        (node, number, gpu)
        for node, answer in answers.items()
        for number, gpu in answer.get("gpus", {}).items()
    ]
    if broken := by_text((node, f"GPU {n} {text}") for node, n, gpu in gpus for text in _memory_faults(gpu)):
        names = ",".join(dict.fromkeys(node for node, _, gpu in gpus if any(_memory_faults(gpu))))
        fix = "reset or replace them (administrator; `nvidia-smi -q -d ECC,ROW_REMAPPER`), or set "
        yield "problem", broken, f"{fix}exclude: {names} in the cluster's file"
    clocks = [gpu["sm_mhz"] for _, _, gpu in gpus if "sm_mhz" in gpu]
    usual_mhz = statistics.median(clocks) if clocks else 0
    slow = [(node, f"GPU {n} is {text}") for node, n, gpu in gpus for text in gpu.get("slowed", ())]
    slow += [
        (node, f"GPU {n} runs at {gpu['sm_mhz']} MHz under load, the others at {usual_mhz:.0f}")
        for node, n, gpu in gpus
        if gpu.get("sm_mhz", usual_mhz) < SLOW_CLOCK * usual_mhz
    ]
    if slow:
        fix = "see `nvidia-smi -q -d PERFORMANCE,CLOCK,TEMPERATURE` there: locked clocks are freed by "
        yield (
            "warning",
            by_text(slow),
            f"{fix}`nvidia-smi -rgc`; or cooling or power is short (administrator)",
        )
    elif not broken:
        ends = " to ".join(dict.fromkeys(str(end(clocks)) for end in (min, max))) if clocks else ""
        told = f"{ends} MHz under load" if clocks else "clocks are not told"
        yield "ok", f"{told}, no memory errors, none slowed down"


def _memory_faults(gpu: Answer) -> Iterator[str]:
    if errors := gpu.get("uncorrected"):
        yield f"has had {errors} uncorrected memory errors since it was started"
    if gpu.get("is_exhausted"):
        yield "has no spare memory rows left"
    elif gpu.get("is_pending"):
        yield "waits for a reset to replace memory rows"


TOPIC = Topic({"state of the GPUs": _gpu_state}, on_nodes={"gpu state": probe_gpu_state})

"""Clocks under load, slow-downs and memory errors of the GPUs, as NVML tells them."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.doctor.finding import Answer, Case, Request, Severity, Topic, Verdict, by_text
from jobs.doctor.software import unusable

LOAD_S = 0.4  # of work, so that the clocks rise
SIDE = 4096
AGAIN_S = 0.01
SLOW_CLOCK = 0.9
"""A GPU whose clock under load is less than this share of the others' median is called slow.

GPUs of one model differ by 8 % in speed on average, and by 22 % at most (Sinha et al., SC 2022,
arXiv:2208.11035). So one that is named need not be broken, but a step of all ranks waits for it.
"""
# NVML's bits of a clock's slow-downs that say that something is wrong. The power cap is not one: under load a
# GPU is expected to reach it. A change of the clock may show as the first one (DCGM's field constants), so
# that a bit counts when it is set twice.
SLOWDOWNS = {
    "nvmlClocksThrottleReasonHwSlowdown": "slowed down by the hardware",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "too hot",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "too hot",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "slowed down by the power supply",
}

# What a GPU asks for, by NVML_FI_DEV_GET_GPU_RECOVERY_ACTION. See NVIDIA's "GPU Memory Error Management",
# which says also that a GPU that is to replace memory rows at its next reset goes on computing correctly, and
# that an uncorrected error ends the program that met it and no other. So these two are warnings.
RECOVERY = {
    1: "asks to be reset",
    2: "asks for a reboot of its node",
    3: "asks for an end of the traffic with its peers, and then for a reset",
    4: "works in part only, and asks to be drained and reset",
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
    for _ in range(500):
        a @ a


def _state(nvml: Any, handle: Any) -> Answer:
    """Return clock (MHz), slow-downs, memory errors, what it asks for; what is not told is left out."""
    asked: dict[str, Callable[[], Any]] = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "reasons": lambda: _lasting_reasons(nvml, handle),
        "uncorrected": lambda: nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        "remapped": lambda: list(nvml.nvmlDeviceGetRemappedRows(handle)),
        "recovery": lambda: _recovery_action(nvml, handle),
    }
    state = {}
    for name, ask in asked.items():
        try:
            state[name] = ask()
        except (nvml.NVMLError, AttributeError):  # this GPU, this driver or this package does not tell it
            continue
    bits = state.pop("reasons", 0)
    state["slowed"] = sorted({text for name, text in SLOWDOWNS.items() if bits & getattr(nvml, name)})
    # Corrected and uncorrected rows, whether some wait for a reset, and whether a replacement has failed.
    *_, state["is_pending"], state["has_failed"] = map(bool, state.pop("remapped", (0, 0)))
    return state


def _lasting_reasons(nvml: Any, handle: Any) -> int:
    first: int = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    time.sleep(AGAIN_S)
    return first & int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _recovery_action(nvml: Any, handle: Any) -> int:
    (answer,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if answer.nvmlReturn:
        raise nvml.NVMLError(answer.nvmlReturn)
    return int(answer.value.uiVal)


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
    is_fine = True
    for severity, faults_of in FAULTS:
        if broken := by_text((node, f"GPU {n} {text}") for node, n, gpu in gpus for text in faults_of(gpu)):
            is_fine = False
            names = ",".join(dict.fromkeys(node for node, _, gpu in gpus if any(faults_of(gpu))))
            fix = "reset or replace them (administrator; `nvidia-smi -q -d ECC,ROW_REMAPPER`), or set "
            yield severity, broken, f"{fix}exclude: {names} in the cluster's file"
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
    elif is_fine:
        ends = " to ".join(dict.fromkeys(str(end(clocks)) for end in (min, max))) if clocks else ""
        told = f"{ends} MHz under load" if clocks else "clocks are not told"
        yield "ok", f"{told}, no memory errors, none slowed down"


def _faults(gpu: Answer) -> Iterator[str]:
    if gpu.get("has_failed"):
        yield "could not replace a broken memory row"
    if action := gpu.get("recovery"):
        yield RECOVERY.get(action, f"asks for NVML's recovery action {action}")


def _memory_errors(gpu: Answer) -> Iterator[str]:
    if errors := gpu.get("uncorrected"):
        yield f"has had {errors} uncorrected memory errors since its driver was loaded"
    if gpu.get("is_pending"):
        yield "waits for a reset to replace memory rows"


FAULTS: tuple[tuple[Severity, Callable[[Answer], Iterator[str]]], ...] = (
    ("problem", _faults),
    ("warning", _memory_errors),
)
TOPIC = Topic({"state of the GPUs": _gpu_state}, on_nodes={"gpu state": probe_gpu_state})
